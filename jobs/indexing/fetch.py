"""Reads URLs that were given from outside. `check_url` decides, purely; `Fetcher` is the thin shell around it.

A tenant's URL must lie below a prefix of `ingest.allow`, and every address its host resolves to must be public.
The connection then goes to exactly the address that was checked (no second look-up that could answer
differently), and every redirect starts over.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from jobs.indexing.buckets import read_object
from jobs.indexing.reasons import ParseFailure, Reason
from services.settings import Limits

MAX_REDIRECTS = 5
TIMEOUT_S = 120.0  # for the whole transfer
CONNECT_S = 10.0
BLOCK_BYTES = 1 << 16
STORES = ("s3", "gs")
PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|\d+)\Z")
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_METADATA = frozenset({"metadata.google.internal", "metadata.goog", "instance-data"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
Write = Callable[[bytes], int]


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL: where to connect and what to ask for. `path` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str


def check_url(url: str, allow: Sequence[str] | None, resolved: Sequence[str]) -> Target:
    """Decide whether `url` may be read; `resolved` are the addresses of its host.

    `allow` None is the operator's own URL: any prefix, any address. Raises `ParseFailure` (`forbidden_url`).
    """
    target = split_url(url)
    if allow is None:
        return target
    if not any(_below(target, prefix) for prefix in allow):
        raise _forbidden("the URL is not below a prefix that `ingest.allow` names")
    if target.scheme in STORES:
        return target
    if target.host in _METADATA:
        raise _forbidden("the host serves a cloud's metadata")
    if not resolved:
        raise ParseFailure(Reason.FETCH_FAILED, "the host's name does not resolve")
    for address in resolved:
        if not is_public(address):
            raise _forbidden("the host's address is not a public one")
    return target


def split_url(url: str) -> Target:
    """Take a URL apart strictly: what two readers could read differently is refused."""
    if len(url) > 4_096 or not url.isascii() or any(char <= " " or char in '\\<>"^`{|}\x7f' for char in url):
        raise _forbidden("the URL holds characters that belong percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _forbidden("the URL cannot be read") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS and scheme not in STORES:
        raise _forbidden("only http, https, s3 and gs URLs are read")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise _forbidden("the URL carries a user name; leave it out")
    host = _host(parts)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme, host, PORTS.get(scheme, 0) if port is None else port, path)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when it hides in an IPv6 one."""
    try:
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _embedded(parsed)
        if inner is not None:
            return is_public(str(inner))
        if parsed.is_site_local:
            return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved and not parsed.is_unspecified


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 one end up at: mapped, compatible, 6to4, Teredo, NAT64."""
    found = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if found is None and (int(address) >> 32 == 0 or any(address in network for network in _NAT64)):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return found


def resolve(host: str, port: int) -> Sequence[str]:
    """Addresses of `host`, in the resolver's order; none when it does not resolve."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


class Fetcher:
    """Copies URLs to local files, within limits.

    `allow` None trusts the caller (the operator's own command line). `resolver` is how names become addresses,
    `timeout_s` how long one file may take.
    """

    def __init__(
        self,
        limits: Limits,
        allow: Sequence[str] | None = (),
        resolver: Resolver = resolve,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._limits = limits
        self._allow = allow
        self._resolver = resolver
        self._timeout_s = timeout_s

    @contextmanager
    def local_copy(self, url: str) -> Iterator[Path]:
        """Download `url` into a temporary file that is gone afterwards. Raises `ParseFailure`."""
        with tempfile.NamedTemporaryFile(prefix="fathom-fetch-") as file:
            deadline = time.monotonic() + self._timeout_s
            self._download(url, file.write, deadline)
            file.flush()
            yield Path(file.name)

    def _download(self, url: str, write: Write, deadline: float) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            target, address = self._checked(url)
            if target.scheme in STORES:
                self._copy(read_object(url), write, deadline)
                return
            with closing(_connect(target, address)) as connection, _cut_off(connection, deadline):
                location = self._transfer(connection, target, write, deadline)
            if location is None:
                return
            url = urljoin(url, location)
        raise ParseFailure(Reason.FETCH_FAILED, f"the URL redirects more than {MAX_REDIRECTS} times")

    def check(self, url: str) -> None:
        """Raise `ParseFailure` unless `url` may be read now."""
        self._checked(url)

    def _checked(self, url: str) -> tuple[Target, str]:
        target = split_url(url)
        resolved = self._resolver(target.host, target.port) if target.scheme in PORTS else ()
        check_url(url, self._allow, resolved)
        if target.scheme in PORTS and not resolved:
            raise ParseFailure(Reason.FETCH_FAILED, f"the name {target.host} does not resolve")
        return target, resolved[0] if resolved else ""

    def _transfer(
        self, connection: http.client.HTTPConnection, target: Target, write: Write, deadline: float
    ) -> str | None:
        """The redirect's location, or None once the body is written."""
        try:
            connection.request("GET", target.path, headers={"User-Agent": "fathom", "Accept-Encoding": "identity"})
            with closing(connection.getresponse()) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    return answer.headers.get("Location") or "/"
                if answer.status != 200:
                    raise ParseFailure(Reason.FETCH_FAILED, f"the server answered {answer.status}")
                self._copy(iter(lambda: answer.read1(BLOCK_BYTES), b""), write, deadline)
                if answer.length:
                    raise ParseFailure(Reason.FETCH_FAILED, "the server broke the transfer off")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ParseFailure(Reason.FETCH_FAILED, f"the transfer failed: {type(error).__name__}") from None
        return None

    def _copy(self, blocks: Iterator[bytes], write: Write, deadline: float) -> None:
        size = 0
        for block in blocks:
            size += len(block)
            if size > self._limits.file_bytes:
                raise ParseFailure(Reason.TOO_LARGE, f"the file is above {self._limits.file_bytes} bytes")
            self._in_time(deadline)
            write(block)
        self._in_time(deadline)  # a connection that was cut off looks like one that ended

    def _in_time(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise ParseFailure(Reason.FETCH_FAILED, f"the transfer took longer than {self._timeout_s:g} s")


@contextmanager
def _cut_off(connection: http.client.HTTPConnection, deadline: float) -> Iterator[None]:
    """End the connection at `deadline`, whatever it waits for: a server may send a header byte by byte."""

    def cut() -> None:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _connect(target: Target, address: str) -> http.client.HTTPConnection:
    """A connection whose socket goes to `address`, while the certificate is checked for the host's name."""
    if target.scheme == "http":
        connection = http.client.HTTPConnection(target.host, target.port, timeout=CONNECT_S)
    else:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=CONNECT_S, context=ssl.create_default_context()
        )

    def pinned(_: tuple[str, int], timeout: float | None, source: object) -> socket.socket:
        return socket.create_connection((address, target.port), timeout)

    connection._create_connection = pinned  # type: ignore[attr-defined]  # noqa: SLF001  # http.client's own seam
    return connection


def _host(parts: SplitResult) -> str:
    """The host in lower case. Numbers that only some resolvers take for addresses are refused."""
    raw = (parts.hostname or "").lower().rstrip(".") if parts.netloc.count("..") == 0 else ""
    if not raw:
        raise _forbidden("the URL names no host")
    if ":" in raw:
        try:
            return str(ipaddress.IPv6Address(raw))
        except ValueError:
            raise _forbidden("the host is no IPv6 address") from None
    if _NUMBER.match(raw.rsplit(".", 1)[-1]):
        try:
            return str(ipaddress.IPv4Address(raw))
        except ValueError:
            raise _forbidden("the host is a number in an unusual form; write the address as a.b.c.d") from None
    if not _HOST.match(raw) and parts.scheme.lower() not in STORES:
        raise _forbidden("the host is no name")
    return raw


def _below(target: Target, prefix: str) -> bool:
    """Whether `target` lies below `prefix`: same scheme, host and port, and below its path segment by segment."""
    try:
        allowed = split_url(prefix)
    except ParseFailure:
        return False
    if (target.scheme, target.host, target.port) != (allowed.scheme, allowed.host, allowed.port):
        return False
    path = target.path.partition("?")[0]
    # Dots, encoded slashes and double encodings could lead out of the prefix once a server decodes them.
    decoded = unquote(path)
    if ".." in decoded.split("/") or "%" in decoded or "\\" in decoded or decoded.count("/") != path.count("/"):
        return False
    root = allowed.path.rstrip("/")
    return path == root or path.startswith(root + "/")


def _forbidden(message: str) -> ParseFailure:
    return ParseFailure(Reason.FORBIDDEN_URL, message)
