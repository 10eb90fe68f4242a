"""Group commit: one bad item, one cancelled waiter or one strange error costs nobody else anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from services.audit.group_commit import GroupCommit
from tenants.errors import InvalidInput, Unavailable

LIMIT_S = 300


class Sink:
    """Keeps what is written. `opened` holds the writer back; `bad` items raise ValueError, `down` refuses all."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.calls = 0
        self.bad = "bad"
        self.down = False
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.opened.set()

    def write(self, items: Sequence[str]) -> None:
        self.entered.set()
        assert self.opened.wait(LIMIT_S)
        self.calls += 1
        if self.down:
            raise Unavailable("down")
        if self.bad in items:
            raise ValueError("a secret reason")
        self.kept.extend(items)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def group(sink: Sink) -> Iterator[GroupCommit[str]]:
    opened: GroupCommit[str] = GroupCommit(sink.write, name="test-writer")
    yield opened
    sink.opened.set()
    opened.close()


def hold(group: GroupCommit[str], sink: Sink) -> None:
    """Keep the writer busy with one item, so that what follows forms one batch."""
    sink.opened.clear()
    group.submit("first")
    assert sink.entered.wait(LIMIT_S)


def test_a_waiter_cancelled_while_its_item_is_written_stops_nobody(group: GroupCommit[str], sink: Sink) -> None:
    sink.opened.clear()
    writing = group.submit("a")
    assert sink.entered.wait(LIMIT_S)
    assert not writing.cancel()  # it left the queue: its outcome will be known
    queued = group.submit("b")
    assert queued.cancel()
    sink.opened.set()
    writing.result(LIMIT_S)
    group.submit("c").result(LIMIT_S)
    assert sink.kept == ["a", "b", "c"]


def test_any_error_reaches_its_waiter_as_ours_and_the_thread_lives(group: GroupCommit[str], sink: Sink) -> None:
    with pytest.raises(Unavailable) as caught:
        group.submit("bad").result(LIMIT_S)
    assert "secret" not in str(caught.value)
    group.submit("good").result(LIMIT_S)
    assert sink.kept == ["good"]


def test_one_bad_item_takes_no_other_of_its_batch_along(group: GroupCommit[str], sink: Sink) -> None:
    hold(group, sink)
    items = ["a", "bad", "b", "bad", "bad", "c"]
    futures = [group.submit(item) for item in items]
    sink.opened.set()
    failed = [type(future.exception(LIMIT_S)) for future in futures]
    assert failed == [Unavailable if item == "bad" else type(None) for item in items]
    assert sink.kept == ["first", "a", "b", "c"]


def test_an_outage_is_not_tried_again_for_every_item(group: GroupCommit[str], sink: Sink) -> None:
    hold(group, sink)
    futures = [group.submit(str(number)) for number in range(50)]
    sink.down = True
    sink.opened.set()
    assert all(isinstance(future.exception(LIMIT_S), Unavailable) for future in futures)
    assert sink.calls == 3  # the first item, the batch, and once nothing at all
    sink.down = False
    group.submit("again").result(LIMIT_S)


def test_a_ping_tells_whether_writing_works(group: GroupCommit[str], sink: Sink) -> None:
    group.ping().result(LIMIT_S)
    sink.down = True
    with pytest.raises(Unavailable):
        group.ping().result(LIMIT_S)


def test_a_dead_thread_is_started_again(group: GroupCommit[str], sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def exits(items: Sequence[str]) -> None:
        raise SystemExit

    monkeypatch.setattr(group, "_write", exits)
    group.submit("lost")
    assert group._thread is not None
    group._thread.join(LIMIT_S)
    monkeypatch.setattr(group, "_write", sink.write)
    group.submit("kept").result(LIMIT_S)
    assert sink.kept == ["kept"]


def test_our_own_errors_pass_as_they_are(group: GroupCommit[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(items: Sequence[str]) -> None:
        raise InvalidInput("not like this")

    monkeypatch.setattr(group, "_write", refuse)
    with pytest.raises(InvalidInput, match="not like this"):
        group.submit("a").result(LIMIT_S)
