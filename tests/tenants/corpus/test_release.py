"""Releases: numbers are given once, the pointer never goes back by accident, withdrawn versions never serve."""

from __future__ import annotations

import json
import threading

import pytest

from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.objects import open_objects
from tenants.errors import Conflict, LeaseLost, NotFound


def test_nothing_published(scope):
    assert releases.current(scope) is None
    assert releases.pinned(scope).index_version == 0
    assert releases.list_releases(scope) == []


def test_publish_numbers_from_one_and_pins(scope, make_release):
    with acquire(scope, "job") as lease:
        first = releases.publish(scope, make_release(7), lease)
        second = releases.publish(scope, make_release(9), lease)
    assert (first.version, second.version) == (1, 2)
    assert releases.pinned(scope).release == second
    assert [r.lance_version for r in releases.list_releases(scope)] == [7, 9]
    assert second.published_at.endswith("+00:00")


def test_rollback_to_previous_then_publish_goes_on_counting(scope, make_release):
    with acquire(scope, "job") as lease:
        for lance_version in (1, 2, 3):
            releases.publish(scope, make_release(lance_version), lease)
        assert releases.rollback(scope, None, lease).version == 2
        assert releases.rollback(scope, 1, lease).version == 1
        assert releases.current(scope).version == 1
        assert releases.publish(scope, make_release(4), lease).version == 4
        assert releases.rollback(scope, 3, lease).lance_version == 3


def test_rollback_errors_name_the_mend(scope, make_release):
    with acquire(scope, "job") as lease:
        with pytest.raises(Conflict, match="publish a second version"):
            releases.rollback(scope, None, lease)
        releases.publish(scope, make_release(), lease)
        with pytest.raises(Conflict):
            releases.rollback(scope, None, lease)
        with pytest.raises(NotFound, match="no version 9"):
            releases.rollback(scope, 9, lease)


def test_withdrawn_versions_never_serve_and_leave_no_profile(scope, make_release):
    with acquire(scope, "job") as lease:
        releases.publish(scope, make_release(1, profile={"learned": "canary-5521"}), lease)
        releases.publish(scope, make_release(2), lease)
        releases.publish(scope, make_release(3), lease)
        with pytest.raises(Conflict, match="serves now"):
            releases.withdraw(scope, [3], "x", lease)
        releases.withdraw(scope, [1], "documents were erased", lease)
        with pytest.raises(Conflict, match="documents were erased"):
            releases.rollback(scope, 1, lease)
        assert [r.version for r in releases.list_releases(scope)] == [2, 3]
    objects = open_objects(scope.base)
    assert not any(b"canary-5521" in (objects.get(key) or b"") for key in objects.keys(""))


def test_numbers_are_not_given_twice_after_the_newest_was_withdrawn(scope, make_release):
    with acquire(scope, "job") as lease:
        for lance_version in (1, 2, 3):
            releases.publish(scope, make_release(lance_version), lease)
        releases.rollback(scope, 1, lease)
        releases.withdraw(scope, [2, 3], "retention", lease)
        assert releases.publish(scope, make_release(4), lease).version == 4


def test_crash_between_log_and_pointer_is_repaired_by_the_next_writer(scope, make_release, monkeypatch):
    with acquire(scope, "job") as lease:
        releases.publish(scope, make_release(1), lease)

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(releases, "_point", crash)
            with pytest.raises(KeyboardInterrupt):
                releases._append(
                    scope,
                    releases.read_history(scope),
                    lease,
                    {"action": "publish", "version": 2, "release": releases.asdict(make_release(2, version=2))},
                )
    assert releases.current(scope).version == 1
    with acquire(scope, "next") as lease:
        assert releases.repair(scope, lease).serving == 2
    assert releases.current(scope).version == 2


def test_slow_pointer_writer_cannot_turn_readers_back(scope, make_release):
    with acquire(scope, "job") as lease:
        releases.publish(scope, make_release(1), lease)
        old = releases.read_history(scope)
        releases.publish(scope, make_release(2), lease)
        releases._point(open_objects(scope.base), old)
    assert releases.current(scope).version == 2


def test_of_two_publications_on_one_history_one_loses(scope, make_release):
    with acquire(scope, "job") as lease:
        history = releases.read_history(scope)
        entry = {"action": "publish", "version": 1, "release": releases.asdict(make_release(1, version=1))}
        releases._append(scope, history, lease, entry)
        with pytest.raises(LeaseLost):
            releases._append(scope, history, lease, entry)


def test_readers_see_only_whole_versions_in_growing_order(scope, make_release):
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            release = releases.current(scope)
            seen.append(release.lance_version if release else 0)

    reader = threading.Thread(target=read)
    reader.start()
    with acquire(scope, "job") as lease:
        for lance_version in range(1, 30):
            releases.publish(scope, make_release(lance_version), lease)
    stop.set()
    reader.join()
    assert seen == sorted(seen)


def test_pointer_is_one_json_document(scope, make_release):
    with acquire(scope, "job") as lease:
        releases.publish(scope, make_release(1, profile={"fusion": {"weight": 0.4}}), lease)
    assert json.loads(open_objects(scope.base).get("releases/CURRENT"))["sequence"] == 1
    assert releases.current(scope).profile == {"fusion": {"weight": 0.4}}
