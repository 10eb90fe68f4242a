"""Facets: a document's metadata in the one form that filters compare. Pure.

Metadata is free JSON, filters must be exact, fast and the same in both retrieval legs. So each chunk carries one
string, `facets`, that lists the scalar leaves of its document's metadata:

    ␞ path ␟ type value ␞ path ␟ type value ␞          (␞ = U+001E, ␟ = U+001F)

path   keys from the root joined by ".", an array's elements under the array's own path
type   s string · n number · b boolean · o object or array (no value: it only exists)
value  s the text, longer than `MAX_TEXT` characters cut there and ended by the whole text's digest
       n 16 hex digits that sort as the number does (as float64: whole numbers are exact up to 2^53)
       b 0 | 1
Null is the same as absent. Entries of one path and type stand in ascending order, without repeats, so the first
is the smallest and the last the largest: "some element is below x" is a comparison with the first. U+001D, 1E and
1F inside a key or a text are escaped by U+001D and a digit, which keeps the order of texts (by code point).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from tenants.ids import text_digest

MAX_TEXT = 256
ENTRY = "\x1e"
VALUE = "\x1f"
_ESCAPES = {0x1D: "\x1d0", 0x1E: "\x1d1", 0x1F: "\x1d2"}
_SIGN = 1 << 63


def facets(metadata: Mapping[str, Any]) -> str:
    """The `facets` column of a document's metadata; "" when it has no leaf."""
    entries = sorted({(escape(path), kind, value) for path, kind, value in _leaves("", metadata)})
    if not entries:
        return ""
    return ENTRY + ENTRY.join(f"{path}{VALUE}{kind}{value}" for path, kind, value in entries) + ENTRY


def escape(text: str) -> str:
    """`text` with the three separators escaped; lone surrogates become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8").translate(_ESCAPES)


def scalar(value: str | float | int | bool) -> tuple[str, str]:
    """(type, value) of one scalar, as an entry spells it."""
    if isinstance(value, bool):
        return "b", str(int(value))
    if isinstance(value, (int, float)):
        return "n", _sortable(value)
    if len(value) <= MAX_TEXT:
        return "s", escape(value)
    return "s", escape(value[:MAX_TEXT]) + text_digest(value)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        if path:
            yield path, "o", ""
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, (list, tuple)):
        yield path, "o", ""
        for inner in value:
            yield from _leaves(path, inner)
    elif isinstance(value, (str, int, float)):
        yield path, *scalar(value)


def _sortable(value: float | int) -> str:
    """16 hex digits of float64 bits, mapped so that text order is number order; -0 equals 0."""
    try:
        number = float(value)
    except OverflowError:
        number = float("inf") if value > 0 else float("-inf")
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return f"{(bits ^ _SIGN) if not bits & _SIGN else bits ^ (2 * _SIGN - 1):016x}"
