"""URLs from outside: what may be read is decided purely on a corpus of tricks, then tried on a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from jobs.indexing.fetch import Fetcher, check_url, is_public
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.source import SourceError, SourceItem, list_sources
from services.settings import Limits

PUBLIC = ("93.184.216.34",)
ALLOW = (
    "https://docs.example.com/guide",
    "http://example.org:8080/",
    "s3://bucket/public",
    "https://[2606:4700::1111]/",
)

ALLOWED = """
https://docs.example.com/guide
https://docs.example.com/guide/
https://docs.example.com/guide/a.html
https://docs.example.com/guide/a.html?x=1&y=%2F
https://docs.example.com/guide/a%20b.html
https://docs.example.com/guide/sub/folder/x.pdf
https://DOCS.example.COM/guide/a.html
https://docs.example.com./guide/a.html
https://docs.example.com:443/guide/a.html
https://docs.example.com/guide/a.html#part
https://docs.example.com/guide?all=1
https://docs.example.com/guide/..a/b
https://docs.example.com/guide/a..b
HTTPS://docs.example.com/guide/x
http://example.org:8080/
http://example.org:8080/any/thing
https://[2606:4700::1111]/x
https://[2606:4700:0:0:0:0:0:1111]/x
s3://bucket/public
s3://bucket/public/a.md
s3://bucket/public/a%20b.md
""".split()  # noqa: SIM905  # one a line reads and diffs best

REFUSED = """
https://docs.example.com/
https://docs.example.com/guides
https://docs.example.com/guide-evil/a
https://docs.example.com/guide.html
https://docs.example.com/Guide/a
https://docs.example.com/guide/../secret
https://docs.example.com/guide/..
https://docs.example.com/guide/%2e%2e/secret
https://docs.example.com/guide/%2E%2E/secret
https://docs.example.com/guide/.%2e/secret
https://docs.example.com/guide/%252e%252e/secret
https://docs.example.com/guide/..%2fsecret
https://docs.example.com/guide/..%5csecret
https://docs.example.com/guide%2f..%2fsecret
https://docs.example.com/guide/a%2fb
https://docs.example.com/guide/..\\secret
https://docs.example.com\\@evil.example/guide/a
https://docs.example.com.evil.example/guide/a
https://docs.example.comevil.example/guide/a
https://evil.example/docs.example.com/guide/a
https://evil.example/?https://docs.example.com/guide/a
https://evil.example/#https://docs.example.com/guide/a
https://evil.example#docs.example.com/guide/a
https://docs.example.com@evil.example/guide/a
https://docs.example.com:443@evil.example/guide/a
https://user@docs.example.com/guide/a
https://user:password@docs.example.com/guide/a
https://@docs.example.com/guide/a
https://docs.example.com:8443/guide/a
https://docs.example.com:80/guide/a
https://docs.example.com:0/guide/a
https://docs.example.com:99999/guide/a
https://docs.example.com:x/guide/a
https://docs.example.com..evil/guide/a
https://docs..example.com/guide/a
https://sub.docs.example.com/guide/a
https://example.com/guide/a
http://docs.example.com/guide/a
ftp://docs.example.com/guide/a
file:///etc/passwd
file://docs.example.com/guide/a
gopher://docs.example.com/guide/a
dict://docs.example.com:11211/guide
data:text/plain,hello
javascript:alert(1)
jar:https://docs.example.com/guide/a
ldap://docs.example.com/guide
ssh://docs.example.com/guide
//docs.example.com/guide/a
/guide/a
docs.example.com/guide/a
https:docs.example.com/guide/a
https:///guide/a
https://
https://?
https://[::1]/guide/a
https://[::1
https://]/guide
https://[docs.example.com]/guide/a
https://[fe80::1%25eth0]/guide/a
https://[2606:4700::1112]/x
http://2130706433/
http://0x7f000001/
http://0x7f.0.0.1/
http://017700000001/
http://0177.0.0.1/
http://127.1/
http://127.0.1/
http://1.1.1/
http://127.0.0.1.:8080/
http://127.0.0.1:8080/
http://localhost:8080/
http://0/
http://0.0.0.0/
http://10.0.0.1/
http://192.168.1.1/
http://169.254.169.254/latest/meta-data/
http://[::ffff:127.0.0.1]/
http://[::ffff:7f00:1]/
http://[::127.0.0.1]/
http://[64:ff9b::7f00:1]/
http://[fd00::1]/
http://metadata.google.internal/computeMetadata/v1/
http://example.org/
http://example.org:80/
http://example.org:8081/
http://example.org:8080@evil.example/
https://example.org:8080/
s3://bucket/private/a
s3://bucket/publicity/a
s3://bucket/public/../private/a
s3://bucket2/public/a
s3://bucket.evil/public/a
gs://bucket/public/a
s3://Bucket@evil/public/a
""".split()  # noqa: SIM905  # one a line reads and diffs best

ODD = [
    "https://docs.example.com/guide/a b",
    "https://docs.example.com/guide/a\tb",
    "https://docs.example.com/guide/a\r\nHost: evil",
    " https://docs.example.com/guide/a",
    "https://docs.example.com/guide/\u00e9",
    "https://docs\u3002example.com/guide/a",
    "https://\u2484ocs.example.com/guide/a",
    "https://docs.example.com\u2044guide/a",
    "https://docs.example.com/guide/\x00",
    "https://docs.example.com/guide/a" * 500,
    "https://docs.exa mple.com/guide/a",
    "https://docs_x.example.com/guide/a",
    "",
]

PRIVATE = """
127.0.0.1
127.255.255.254
0.0.0.0
0.1.2.3
10.0.0.1
10.255.255.255
172.16.0.1
172.31.255.255
192.168.0.1
169.254.169.254
169.254.0.1
100.64.0.1
100.127.255.255
192.0.0.1
192.0.2.1
198.18.0.1
198.51.100.1
203.0.113.1
224.0.0.1
239.1.2.3
240.0.0.1
255.255.255.255
::1
::
fe80::1
fe80::1%eth0
fc00::1
fd12:3456::1
ff02::1
::ffff:127.0.0.1
::ffff:10.0.0.1
::ffff:169.254.169.254
::127.0.0.1
64:ff9b::7f00:1
64:ff9b::a9fe:a9fe
2002:7f00:1::
2002:a9fe:a9fe::
2001:db8::1
fec0::1
100::1
2001:0:7f00:1::80ff:fffe
not-an-address
1.2.3
""".split()  # noqa: SIM905  # one a line reads and diffs best


def test_the_corpus_is_large_enough() -> None:
    assert len(ALLOWED) + len(REFUSED) + len(ODD) + len(PRIVATE) >= 120


@pytest.mark.parametrize("url", ALLOWED)
def test_allowed(url: str) -> None:
    check_url(url, ALLOW, PUBLIC)


@pytest.mark.parametrize("url", REFUSED + ODD)
def test_refused(url: str) -> None:
    with pytest.raises(ParseFailure) as caught:
        check_url(url, ALLOW, PUBLIC)
    assert caught.value.reason is Reason.FORBIDDEN_URL


@pytest.mark.parametrize("address", PRIVATE)
def test_an_allowed_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    assert not is_public(address)
    for resolved in ((address,), (*PUBLIC, address)):
        with pytest.raises(ParseFailure):
            check_url("https://docs.example.com/guide/a", ALLOW, resolved)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_no_prefix_allows_nothing() -> None:
    with pytest.raises(ParseFailure):
        check_url("https://docs.example.com/guide/a", (), PUBLIC)
    with pytest.raises(ParseFailure):
        check_url("https://docs.example.com/guide/a", ("https://*", "", "https://"), PUBLIC)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.stopping.is_set():  # type: ignore[attr-defined]
                self.wfile.write(b"x" * 65_536)
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
        elif self.path == "/drip":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            while not self.server.stopping.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"X")
        elif self.path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"# Words\n\nfrom " + self.path.encode())

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the reader hung up, which these tests are about
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.seen, found.stopping = [], threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.stopping.set()  # type: ignore[attr-defined]
    found.shutdown()
    thread.join()
    found.server_close()


def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def fetched(fetcher: Fetcher, url: str) -> bytes:
    with fetcher.local_copy(url) as path:
        return path.read_bytes()


def reason(fetcher: Fetcher, url: str) -> Reason:
    with pytest.raises(ParseFailure) as caught:
        fetched(fetcher, url)
    return caught.value.reason


def test_the_operator_reads_any_address_and_follows_redirects(server: ThreadingHTTPServer) -> None:
    trusted = Fetcher(Limits(), None)
    assert fetched(trusted, f"{base(server)}/to//page") == b"# Words\n\nfrom /page"
    assert (
        reason(trusted, f"{base(server)}/to/to/to/to/to/to/to/to/x".replace("/to/", "/to//to/")) is Reason.FETCH_FAILED
    )
    assert reason(trusted, f"{base(server)}/missing") is Reason.FETCH_FAILED
    assert reason(trusted, f"{base(server)}/short") is Reason.FETCH_FAILED
    assert reason(trusted, f"{base(server)}/to/file:///etc/passwd") is Reason.FORBIDDEN_URL


def test_a_tenant_does_not_reach_this_machine_even_when_the_prefix_is_allowed(server: ThreadingHTTPServer) -> None:
    assert reason(Fetcher(Limits(), (base(server),)), f"{base(server)}/page") is Reason.FORBIDDEN_URL
    assert server.seen == []  # type: ignore[attr-defined]


def test_size_and_time_are_limited(server: ThreadingHTTPServer) -> None:
    assert reason(Fetcher(Limits(file_bytes=1_000_000), None), f"{base(server)}/endless") is Reason.TOO_LARGE
    unreachable = Limits(file_bytes=1 << 40)  # loopback carries 200 MiB in half a second: only time may end this one
    assert reason(Fetcher(unreachable, None, timeout_s=0.5), f"{base(server)}/endless") is Reason.FETCH_FAILED
    assert reason(Fetcher(Limits(), None, timeout_s=0.5), f"{base(server)}/drip") is Reason.FETCH_FAILED


def test_the_connection_goes_to_the_address_that_was_checked(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers with a public address first and a private one at the second look: there is no second look."""
    port = server.server_address[1]
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    connected: list[tuple[str, int]] = []
    real = socket.create_connection

    def watched(address: tuple[str, int], timeout: float | None = None, **_: object) -> socket.socket:
        connected.append(address)
        return real(("127.0.0.1", port), timeout)

    monkeypatch.setattr(socket, "create_connection", watched)
    fetcher = Fetcher(Limits(), (f"http://docs.example.com:{port}/",), resolver=lambda *_: next(answers))
    assert fetched(fetcher, f"http://docs.example.com:{port}/page").startswith(b"# Words")
    assert connected == [("93.184.216.34", port)]
    assert server.seen == [("/page", f"docs.example.com:{port}")]  # type: ignore[attr-defined]
    # The next request looks the name up again and is refused before anything connects.
    assert reason(fetcher, f"http://docs.example.com:{port}/page") is Reason.FORBIDDEN_URL
    assert len(connected) == 1


def test_a_redirect_starts_over(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.server_address[1]
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda _, timeout=None: real(("127.0.0.1", port), timeout))
    fetcher = Fetcher(Limits(), (f"http://docs.example.com:{port}/",), resolver=lambda *_: PUBLIC)
    start = f"http://docs.example.com:{port}/to/"
    assert fetched(fetcher, f"{start}/page").startswith(b"# Words")
    for location in (
        f"http://127.0.0.1:{port}/x",
        "http://169.254.169.254/latest",
        f"http://evil.example:{port}/x",
        "//evil.example/x",
    ):
        assert reason(fetcher, start + location) is Reason.FORBIDDEN_URL


def test_web_sources_are_listed_by_their_url(server: ThreadingHTTPServer) -> None:
    items = list(list_sources([f"{base(server)}/page.md", f"{base(server)}/missing"], Limits()))
    assert isinstance(items[0], SourceItem)
    assert items[0].document_id == f"{base(server)}/page.md"
    assert items[0].digest
    assert isinstance(items[1], SourceError)
    assert items[1].reason is Reason.FETCH_FAILED
