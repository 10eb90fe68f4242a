"""Which sources a tenant may make the platform read: pure checks on the text of a URL, before any request.

The fetcher checks again what a name resolves to and where a redirect leads; this is the door. Local paths,
schemes other than https, http, s3 and gs, user names in URLs, and addresses that are private, link-local,
loopback, reserved or a cloud's metadata service are refused whatever `ingest.allow` says.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from tenants.errors import InvalidInput

SCHEMES = frozenset({"https", "http", "s3", "gs"})
_LOCAL_NAMES = frozenset({"localhost", "metadata", "metadata.google.internal", "instance-data"})
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_sources(sources: Sequence[str], allow: Sequence[str]) -> None:
    """Raises `InvalidInput` naming the first source that may not be read over HTTP."""
    for number, source in enumerate(sources):
        reason = refusal(source, allow)
        if reason is not None:
            raise InvalidInput.field(f"/sources/{number}", reason)


def refusal(source: str, allow: Sequence[str]) -> str | None:
    """Why `source` is refused, or None; the sentence does not repeat the source."""
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in source) or "\\" in source:
        return "a URL holds no spaces, control characters or backslashes"
    parts = _split(source)
    if parts is None or parts.scheme not in SCHEMES or not parts.hostname:
        return "not a URL that may be read over HTTP; local paths are for the operator's own command line"
    if "@" in parts.netloc:
        return "a URL carries no user name or password here"
    if parts.scheme in ("http", "https") and not is_public_host(parts.hostname):
        return "this host is local, private or reserved"
    if _climbs(parts.path):
        return "a URL's path holds no '.' or '..' segments here"
    if not any(_matches(source, prefix) for prefix in allow):
        return "no prefix of the platform's ingest.allow list matches; ask the operator to add one"
    return None


def is_public_host(host: str) -> bool:
    """Whether a URL's host may be asked: public names and public literal addresses in any spelling."""
    name = host.rstrip(".").lower()
    address = _literal(name)
    if address is not None:
        return is_public(address)
    return "." in name and name not in _LOCAL_NAMES and not name.endswith(_LOCAL_SUFFIXES)


def is_public(address: Address) -> bool:
    """Globally routable, and so is the IPv4 address inside it when there is one (mapped, 6to4, NAT64)."""
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        pass
    try:
        # The C library's reading: 2130706433, 0x7f.1 and 017700000001 are all 127.0.0.1 to a client.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def _split(source: str) -> SplitResult | None:
    try:
        parts = urlsplit(source)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


def _climbs(path: str) -> bool:
    return any(segment in (".", "..") for segment in unquote(unquote(path)).split("/"))


def _matches(source: str, prefix: str) -> bool:
    """Prefixes end at a boundary: `https://a.example` must not admit `https://a.example.evil.net`."""
    if not source.startswith(prefix):
        return False
    return prefix.endswith("/") or len(source) == len(prefix) or source[len(prefix)] in "/?#"
