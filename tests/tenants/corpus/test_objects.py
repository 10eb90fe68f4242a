"""Small objects: exactly one winner, atomic swaps, the same behaviour on a disk and on an object store (moto)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.objects import LocalObjects, Objects, RemoteObjects, open_objects
from tenants.errors import Unavailable
from tenants.scope import TenantScope


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Endpoint of an S3 server in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch, request) -> str:
    name = "b" + str(abs(hash(request.node.name)))
    for key, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": s3,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    client.close()
    open_objects.cache_clear()
    return f"s3://{name}/root"


@pytest.fixture(params=["disk", "s3"])
def objects(request, tmp_path) -> Objects:
    if request.param == "disk":
        return LocalObjects(tmp_path / "base")
    return RemoteObjects(request.getfixturevalue("bucket"))


def test_get_put_keys_delete(objects):
    assert objects.get("a/b") is None
    objects.put("a/b", b"1")
    objects.put("a/b", b"2", durable=False)
    objects.put("a/c/d", b"3")
    assert objects.get("a/b") == b"2"
    assert objects.keys("a") == ["a/b", "a/c/d"]
    objects.delete("a/c")
    objects.delete("missing")
    assert objects.keys("a") == ["a/b"]
    objects.delete("")
    assert objects.keys("") == []


def test_put_new_has_one_winner(objects):
    won = []

    def put(number: int) -> None:
        if objects.put_new("x/1", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("x/1") == str(won[0]).encode()


def test_swaps_of_many_threads_lose_no_update(tmp_path):
    objects = LocalObjects(tmp_path)

    def count() -> None:
        for _ in range(5):
            objects.swap("counter", lambda data: str(int(data or b"0") + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert objects.get("counter") == b"20"


def test_swap_that_lost_a_race_looks_again(bucket):
    """One competitor, between the read and the write: the test server's own check is not atomic under threads."""
    objects, seen = RemoteObjects(bucket), []

    def change(data: bytes | None) -> bytes:
        seen.append(data)
        if len(seen) < 3:
            objects.put("x", f"competitor {len(seen)}".encode())
        return b"mine"

    objects.swap("x", change)
    assert seen == [None, b"competitor 1", b"competitor 2"]
    assert objects.get("x") == b"mine"


def test_swap_may_leave_the_value_alone(objects):
    objects.put("x", b"1")
    objects.swap("x", lambda data: None)
    assert objects.get("x") == b"1"


def test_lease_and_releases_on_an_object_store(bucket, make_release):
    scope = TenantScope("acme", "t_0", TenantConfig(), bucket)
    with acquire(scope, "job") as lease:
        releases.publish(scope, make_release(1), lease)
        releases.publish(scope, make_release(2), lease)
        assert releases.rollback(scope, None, lease).version == 1
    assert releases.current(scope).lance_version == 1
    with acquire(scope, "job") as lease:
        assert lease.token == 2


def test_store_that_is_away_is_unavailable(monkeypatch):
    for key, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    objects = RemoteObjects("s3://nowhere/root")
    with pytest.raises(Unavailable, match="try again"):
        objects.get("a")


def test_temporary_files_of_a_crash_are_never_listed(tmp_path):
    objects = LocalObjects(tmp_path)
    objects.put("a/b", b"1")
    (tmp_path / "a" / ".b.0123.tmp").write_bytes(b"half")
    assert objects.keys("a") == ["a/b"]
