"""Filters: a JSON body becomes a checked tree, a checked tree becomes the index's prefilter. Pure.

`parse_filter` reads `{"and"|"or": [Filter, …]}`, `{"not": Filter}` and `{"field", "op", "value"}`. Meaning:

- `eq ne in` compare exactly and by type: the number 5 is not the text "5"; 5 equals 5.0.
- `lt lte gt gte` compare a number with numbers, a text with texts (by code point), a date with dates.
- `metadata.a.b` is key b inside key a (or the key "a.b"). An array satisfies a comparison when one element does.
- What is absent or null satisfies no comparison, so `ne` and `not` hold for it; `exists` tells it apart.
- `updated_at` takes ISO 8601, without an offset UTC.

Nothing a caller wrote stands in the SQL text: every text is a hex literal, every number is one that Python
formatted, every operator comes from a table here. So there is nothing to escape, and nothing to inject into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast, get_args

from services.contracts import Comparison, Filter, FilterOp, Junction
from tenants.corpus.facets import ENTRY, VALUE, escape, scalar
from tenants.errors import InvalidInput

MAX_DEPTH = 8
MAX_PARTS = 128
MAX_COMPARISONS = 512
MAX_VALUES = 256
MAX_CHARS = 2_048

Scalar = str | float | int | bool

_TEXT_FIELDS = frozenset({"document_id", "collection", "url"})
_NULLABLE = frozenset({"url", "updated_at"})
_OPS: frozenset[str] = frozenset(get_args(FilterOp))
_SYMBOLS = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = "document_id, collection, updated_at, url or metadata.<key>"


def parse_filter(raw: object, pointer: str = "/filter") -> Filter:
    """Check a decoded JSON filter; raises `InvalidInput` whose pointer names the bad part."""
    tree = _node(raw, pointer, 1)
    size = _count(tree)
    if size > MAX_COMPARISONS:
        raise InvalidInput.field(pointer, f"a filter has at most {MAX_COMPARISONS} comparisons, this has {size}")
    return tree


def prefilter(tree: Filter | None, collections: Sequence[str] | None) -> str | None:
    """The SQL predicate of a question's filter and collections, None when everything may be found.

    An empty list of collections allows nothing.
    """
    parts = [] if tree is None else [sql(tree)]
    if collections is not None:
        parts.append(_member("collection", [_text(name) for name in collections]))
    return " AND ".join(parts) or None


def sql(tree: Filter) -> str:
    """A predicate that is true or false, never null, for every row of `tenants.corpus.schema`."""
    if isinstance(tree, Comparison):
        return _comparison(tree)
    if tree.op == "not":
        return f"(NOT {sql(tree.parts[0])})"
    return "(" + f" {tree.op.upper()} ".join(sql(part) for part in tree.parts) + ")"


def timestamp(text: str, pointer: str = "/value") -> datetime:
    """ISO 8601 date or date-time → UTC; without an offset it is read as UTC. Raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput.field(pointer, "a date is ISO 8601, such as 2026-01-31 or 2026-01-31T12:00:00Z") from None


# ---- body → tree -----------------------------------------------------------------------------------------


def _node(raw: object, pointer: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidInput.field(pointer, f"a filter nests at most {MAX_DEPTH} levels")
    if not isinstance(raw, Mapping):
        raise InvalidInput.field(pointer, "a filter is an object: and, or, not, or field with op and value")
    keys = set(raw)
    if keys in ({"and"}, {"or"}):
        return _junction(raw, pointer, depth)
    if keys == {"not"}:
        return Junction("not", (_node(raw["not"], f"{pointer}/not", depth + 1),))
    if {"field", "op"} <= keys <= {"field", "op", "value"}:
        return _leaf(raw, pointer)
    raise InvalidInput.field(pointer, 'a filter is {"and": […]}, {"or": […]}, {"not": …} or {"field", "op", "value"}')


def _junction(raw: Mapping[str, Any], pointer: str, depth: int) -> Junction:
    op, parts = next(iter(raw.items()))
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise InvalidInput.field(f"{pointer}/{op}", f"'{op}' takes a list with at least one filter")
    if len(parts) > MAX_PARTS:
        raise InvalidInput.field(f"{pointer}/{op}", f"'{op}' takes at most {MAX_PARTS} filters")
    return Junction(
        "and" if op == "and" else "or",
        tuple(_node(part, f"{pointer}/{op}/{number}", depth + 1) for number, part in enumerate(parts)),
    )


def _leaf(raw: Mapping[str, Any], pointer: str) -> Comparison:
    name, op = raw["field"], raw["op"]
    if not isinstance(op, str) or op not in _OPS:
        raise InvalidInput.field(f"{pointer}/op", "op is one of eq, ne, lt, lte, gt, gte, in, exists")
    _check_field(name, f"{pointer}/field")
    if op == "exists":
        wanted = raw.get("value", True)
        if not isinstance(wanted, bool):
            raise InvalidInput.field(f"{pointer}/value", "exists takes true or false")
        return Comparison(name, "exists", wanted)
    if "value" not in raw:
        raise InvalidInput.field(f"{pointer}/value", f"'{op}' needs a value")
    return _valued(name, cast(FilterOp, op), raw["value"], f"{pointer}/value")


def _check_field(name: object, pointer: str) -> None:
    if not isinstance(name, str) or not (name in _TEXT_FIELDS or name == "updated_at" or name.startswith("metadata.")):
        raise InvalidInput.field(pointer, f"a field is {_FIELDS}")
    _check_text(name, pointer)


def _valued(name: str, op: FilterOp, value: object, pointer: str) -> Comparison:
    if op != "in":
        return Comparison(name, op, _value(name, op, value, pointer))
    if not isinstance(value, Sequence) or isinstance(value, str) or not 0 < len(value) <= MAX_VALUES:
        raise InvalidInput.field(pointer, f"'in' takes a list of 1 to {MAX_VALUES} values")
    return Comparison(name, "in", tuple(_value(name, op, item, f"{pointer}/{n}") for n, item in enumerate(value)))


def _value(name: str, op: FilterOp, value: object, pointer: str) -> Scalar:
    if isinstance(value, str):
        _check_text(value, pointer)
        return timestamp(value, pointer).isoformat() if name == "updated_at" else value
    if name == "updated_at":
        raise InvalidInput.field(pointer, "updated_at is compared with an ISO 8601 text")
    if name in _TEXT_FIELDS:
        raise InvalidInput.field(pointer, f"{name} is compared with a text")
    if isinstance(value, bool):
        if op not in ("eq", "ne", "in"):
            raise InvalidInput.field(pointer, f"true and false have no order: '{op}' takes a number or a text")
        return value
    if isinstance(value, (int, float)) and value == value:  # NaN is the one number that differs from itself
        return value
    raise InvalidInput.field(pointer, "a value is a text, a number, true or false; for null use the op exists")


def _check_text(value: str, pointer: str) -> None:
    if len(value) > MAX_CHARS:
        raise InvalidInput.field(pointer, f"a text in a filter has at most {MAX_CHARS} characters")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidInput.field(pointer, "the text holds an unpaired surrogate, which is no character")


def _count(tree: Filter) -> int:
    """How many values the tree compares with; each item of an `in` is one."""
    if isinstance(tree, Comparison):
        return len(tree.value) if isinstance(tree.value, tuple) else 1
    return sum(_count(part) for part in tree.parts)


# ---- tree → predicate ------------------------------------------------------------------------------------


def _comparison(leaf: Comparison) -> str:
    if leaf.field.startswith("metadata."):
        return _metadata(leaf)
    literal = _moment if leaf.field == "updated_at" else _text
    if leaf.op == "exists":
        predicate = f"({leaf.field} IS NOT NULL)" if leaf.field in _NULLABLE else "true"
        return predicate if leaf.value else f"(NOT {predicate})"
    if leaf.op == "in":
        predicate = _member(leaf.field, [literal(str(item)) for item in _items(leaf)])
    else:
        predicate = f"{leaf.field} {_SYMBOLS['eq' if leaf.op == 'ne' else leaf.op]} {literal(str(leaf.value))}"
    # Null is made false here: under `not` it would hide rows that have no value.
    predicate = f"coalesce({predicate}, false)" if leaf.field in _NULLABLE else f"({predicate})"
    return f"(NOT {predicate})" if leaf.op == "ne" else predicate


def _member(column: str, literals: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(literals)})" if literals else "false"


def _metadata(leaf: Comparison) -> str:
    path = escape(leaf.field.removeprefix("metadata."))
    if leaf.op == "exists":
        predicate = _contains(f"{ENTRY}{path}{VALUE}")
        return predicate if leaf.value else f"(NOT {predicate})"
    if leaf.op in ("eq", "ne", "in"):
        entries = (f"{ENTRY}{path}{VALUE}{''.join(scalar(item))}{ENTRY}" for item in _items(leaf))
        predicate = "(" + " OR ".join(_contains(entry) for entry in entries) + ")"
        return f"(NOT {predicate})" if leaf.op == "ne" else predicate
    return _range(path, leaf)


def _range(path: str, leaf: Comparison) -> str:
    """Some element is below x when the first entry of that path and type is, above x when the last one is."""
    (value,) = _items(leaf)
    kind, spelled = scalar(value)
    prefix = f"{ENTRY}{path}{VALUE}{kind}"
    place = 2 if leaf.op in ("lt", "lte") else -1
    found = f"split_part(split_part(facets, {_text(prefix)}, {place}), {_text(ENTRY)}, 1)"
    return f"({_contains(prefix)} AND {found} {_SYMBOLS[leaf.op]} {_text(spelled)})"


def _items(leaf: Comparison) -> tuple[Scalar, ...]:
    value = leaf.value
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def _contains(text: str) -> str:
    return f"contains(facets, {_text(text)})"


def _text(value: str) -> str:
    return f"arrow_cast(X'{value.encode('utf-8').hex()}', 'Utf8')"


def _moment(iso: str) -> str:
    micros = (datetime.fromisoformat(iso) - _EPOCH) // (datetime.resolution)
    return f"arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
