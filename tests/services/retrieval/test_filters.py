"""Filters mean in the index what a plain Python evaluator says they mean, whatever stands in them."""

import math
from datetime import UTC, datetime, timedelta

import lancedb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.contracts import Comparison, Junction
from services.retrieval.filters import MAX_COMPARISONS, MAX_DEPTH, MAX_PARTS, parse_filter, prefilter, timestamp
from tenants.corpus.facets import facets
from tenants.errors import InvalidInput

HOSTILE = [
    "",
    "'",
    "''",
    "\\",
    "\\'",
    '"',
    "x' OR 1=1 --",
    "%",
    "_",
    "a\x1eb",
    "\x1f",
    "\x1d0",
    "\x1d",
    "é",
    "e\u0301",
    "日本語",
    "🙂",
    "\u0000",
    "a" * 300,
    "a" * 299 + "b",
    "Z",
    "a",
    "10",
    "true",
    "null",
    "X'41'",
    "/*",
    ";",
    "\n",
    "${x}",
]
NUMBERS = [0, -0.0, 1, 1.0, -1, 1.5, 10, 2**40, -(2**40), 1e-300, -1e300, math.pi]
KEYS = ["a", "b", "a.b", "k'ey", 'k"', "κ", "x\x1ey", "sp ace", "\\"]
DATES = [datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 6)]

scalars = st.one_of(st.sampled_from(HOSTILE), st.sampled_from(NUMBERS), st.booleans())


def documents():
    """A fixed set that holds every hostile text and every shape of metadata."""
    rng = np.random.default_rng(7)
    pool = [*HOSTILE, *NUMBERS, True, False, None, [], ["a", 1, True], [1, 10, -1], ["", "Z", "a" * 300], {"b": 1}]
    rows = []
    for number in range(160):
        metadata = {key: pool[rng.integers(len(pool))] for key in KEYS if rng.random() < 0.6}
        rows.append(
            {
                "document_id": HOSTILE[number % len(HOSTILE)] + str(number // len(HOSTILE)),
                "collection": ["one", "two"][number % 2],
                "url": HOSTILE[number % len(HOSTILE)] if number % 3 else None,
                "updated_at": DATES[number % len(DATES)] if number % 4 else None,
                "metadata": metadata,
            }
        )
    return rows


DOCUMENTS = documents()


def leaves_of(path, value):
    """(path, scalar) of every leaf, and (path, None) where an object or array stands: the oracle's own walk."""
    if isinstance(value, dict):
        yield path, None
        for key, inner in value.items():
            yield from leaves_of(f"{path}.{key}", inner)
    elif isinstance(value, list):
        yield path, None
        for inner in value:
            yield from leaves_of(path, inner)
    elif value is not None:
        yield path, value


def values(document, field):
    """The scalars that stand at `field`; None marks an object or array."""
    if field.startswith("metadata."):
        wanted = field.removeprefix("metadata")
        return [
            value
            for key, inner in document["metadata"].items()
            for path, value in leaves_of(f".{key}", inner)
            if path == wanted
        ]
    value = document[field]
    return [] if value is None else [value]


def kind(value):
    return "b" if isinstance(value, bool) else "n" if isinstance(value, (int, float)) else "s"


COMPARE = {
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
}


def holds(tree, document):
    if isinstance(tree, Junction):
        parts = [holds(part, document) for part in tree.parts]
        return {"and": all, "or": any, "not": lambda found: not found[0]}[tree.op](parts)
    found = values(document, tree.field)
    if tree.op == "exists":
        return bool(found) == tree.value
    if tree.op == "ne":
        return not holds(Comparison(tree.field, "eq", tree.value), document)
    if tree.op == "in":
        return any(holds(Comparison(tree.field, "eq", item), document) for item in tree.value)
    wanted = datetime.fromisoformat(tree.value) if tree.field == "updated_at" else tree.value
    if isinstance(wanted, datetime):
        return any(COMPARE[tree.op](value, wanted) for value in found)
    return any(kind(v) == kind(wanted) and COMPARE[tree.op](v, wanted) for v in found if v is not None)


def leaf(field, ops, value):
    return st.tuples(st.just(field), st.sampled_from(ops), value).map(
        lambda parts: {"field": parts[0], "op": parts[1], "value": parts[2]}
    )


ORDER = ["lt", "lte", "gt", "gte"]
short = st.sampled_from([text for text in HOSTILE if len(text) < 200])
metadata_field = st.sampled_from([f"metadata.{key}" for key in [*KEYS, "nope", ""]])
leaves = st.one_of(
    metadata_field.flatmap(lambda field: leaf(field, ["eq", "ne"], scalars)),
    metadata_field.flatmap(lambda field: leaf(field, ["in"], st.lists(scalars, min_size=1, max_size=4))),
    metadata_field.flatmap(lambda field: leaf(field, ORDER, st.one_of(short, st.sampled_from(NUMBERS)))),
    metadata_field.flatmap(lambda field: leaf(field, ["exists"], st.booleans())),
    st.sampled_from(["document_id", "collection", "url"]).flatmap(
        lambda field: leaf(field, ["eq", "ne", *ORDER], st.one_of(st.sampled_from(HOSTILE), st.just("one")))
    ),
    st.sampled_from(["document_id", "url", "updated_at", "collection"]).flatmap(
        lambda field: leaf(field, ["exists"], st.booleans())
    ),
    leaf("updated_at", ["eq", "ne", *ORDER], st.sampled_from([date.isoformat() for date in DATES])),
    leaf("url", ["in"], st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=3)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    columns = [
        {**row, "number": number, "facets": facets(row["metadata"]), "metadata": ""}
        for number, row in enumerate(DOCUMENTS)
    ]
    db = lancedb.connect(str(tmp_path_factory.mktemp("filters")))
    return db.create_table("t", columns)


def found_in(table, where):
    rows = table.search().where(where).select(["number"]).limit(len(DOCUMENTS)).to_arrow()
    return sorted(rows["number"].to_pylist())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(raw=trees)
def test_index_and_python_agree(table, raw):
    tree = parse_filter(raw)
    expected = [number for number, document in enumerate(DOCUMENTS) if holds(tree, document)]
    assert found_in(table, prefilter(tree, None)) == expected


def test_collections_narrow_the_filter(table):
    assert found_in(table, prefilter(None, ("one",))) == list(range(0, len(DOCUMENTS), 2))
    assert found_in(table, prefilter(None, ())) == []
    tree = parse_filter({"field": "collection", "op": "eq", "value": "two"})
    assert found_in(table, prefilter(tree, ("one",))) == []
    assert prefilter(None, None) is None


def test_no_text_of_the_caller_stands_in_the_predicate():
    for text in HOSTILE:
        where = prefilter(parse_filter({"field": "metadata.a'--", "op": "eq", "value": text}), (text,))
        bare = where
        for literal in ("contains", "facets", "arrow_cast", "'Utf8'", "collection", "IN", "AND", "OR"):
            bare = bare.replace(literal, "")
        assert set(bare) <= set("X'0123456789abcdef(), ")


def test_dates_are_utc():
    assert timestamp("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert timestamp("2026-01-31T12:00:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert timestamp("2026-01-31T12:00:00Z") - timestamp("2026-01-31") == timedelta(hours=12)


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ([], "/filter"),
        ({}, "/filter"),
        ({"and": []}, "/filter/and"),
        ({"and": "x"}, "/filter/and"),
        ({"or": [{"field": "nope", "op": "eq", "value": 1}]}, "/filter/or/0/field"),
        ({"not": {"field": "url", "op": "like", "value": "x"}}, "/filter/not/op"),
        ({"field": "url", "op": "eq"}, "/filter/value"),
        ({"field": "url", "op": "eq", "value": 5}, "/filter/value"),
        ({"field": "updated_at", "op": "lt", "value": "yesterday"}, "/filter/value"),
        ({"field": "updated_at", "op": "lt", "value": 5}, "/filter/value"),
        ({"field": "metadata.a", "op": "eq", "value": None}, "/filter/value"),
        ({"field": "metadata.a", "op": "lt", "value": True}, "/filter/value"),
        ({"field": "metadata.a", "op": "eq", "value": math.nan}, "/filter/value"),
        ({"field": "metadata.a", "op": "in", "value": []}, "/filter/value"),
        ({"field": "metadata.a", "op": "in", "value": ["x", {}]}, "/filter/value/1"),
        ({"field": "metadata.a", "op": "in", "value": ["x"] * 257}, "/filter/value"),
        ({"field": "metadata.a", "op": "exists", "value": "yes"}, "/filter/value"),
        ({"field": "metadata.a", "op": "eq", "value": "x" * 3000}, "/filter/value"),
        ({"field": "metadata.a", "op": "eq", "value": "\ud800"}, "/filter/value"),
        ({"field": 5, "op": "eq", "value": "x"}, "/filter/field"),
        ({"field": "url", "op": "eq", "value": "x", "extra": 1}, "/filter"),
        ({"field": "url", "op": ["eq"], "value": "x"}, "/filter/op"),
    ],
)
def test_the_bad_part_is_named(raw, pointer):
    with pytest.raises(InvalidInput) as caught:
        parse_filter(raw)
    assert caught.value.errors[0].pointer == pointer


def test_depth_and_size_are_limited():
    leaf_ = {"field": "url", "op": "exists", "value": True}
    deep = leaf_
    for _ in range(MAX_DEPTH):
        deep = {"not": deep}
    with pytest.raises(InvalidInput, match="levels"):
        parse_filter(deep)
    with pytest.raises(InvalidInput, match="at most"):
        parse_filter({"or": [leaf_] * (MAX_PARTS + 1)})
    many = {"field": "url", "op": "in", "value": ["x"] * 200}
    with pytest.raises(InvalidInput, match="comparisons"):
        parse_filter({"and": [many] * (MAX_COMPARISONS // 200 + 1)})


def test_largest_filter_runs(table):
    values_ = [f"v{number}" for number in range(256)]
    raw = {"or": [{"field": "metadata.a", "op": "in", "value": values_}, {"field": "metadata.a", "op": "exists"}]}
    assert found_in(table, prefilter(parse_filter(raw), None))
