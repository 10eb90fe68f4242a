"""What an experiment may say, and how a fault is named."""

import pytest

from services.experiments.spec import laid_over, overridden, parse_spec
from tenants.config import TenantConfig, validate_config
from tenants.errors import InvalidInput

GOOD = {
    "name": "x",
    "tenants": ["acme"],
    "arms": [{"name": "control"}, {"name": "b", "overrides": {"rerank": {"price": 1}}}],
}


def test_defaults():
    spec = parse_spec(GOOD)
    assert (spec.kind, spec.unit, spec.ramp, spec.metric, spec.control.name) == (
        "ab",
        "user",
        1.0,
        "clicked",
        "control",
    )
    assert spec.variant("b") == "x/b"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "Bad Name"}, "/name"),
        ({"tenants": []}, "/tenants"),
        ({"arms": [{"name": "one"}]}, "/arms"),
        ({"arms": [{"name": "one"}, {"name": "one"}]}, "/"),
        ({"metric": "happiness"}, "/"),
        ({"ramp": 2}, "/ramp"),
        ({"unknown": 1}, "/unknown"),
        ({"guardrails": [{"metric": "answer_ms", "tolerance": -1}]}, "/guardrails/0/tolerance"),
        (
            {"arms": [{"name": "a"}, {"name": "b", "overrides": {"quotas": {"documents": 9}}}]},
            "/arms/1/overrides/quotas",
        ),
        (
            {"arms": [{"name": "a"}, {"name": "b", "overrides": {"rerank": {"prise": 9}}}]},
            "/arms/1/overrides/rerank/prise",
        ),
        ({"kind": "interleaving", "arms": [{"name": "a"}, {"name": "b", "overrides": {"generator": "x"}}]}, "/"),
        ({"alpha": float("nan")}, "/alpha"),
    ],
)
def test_every_fault_names_its_field(change, pointer):
    with pytest.raises(InvalidInput) as caught:
        parse_spec({**GOOD, **change})
    assert [fault.pointer for fault in caught.value.errors] == [pointer]


@pytest.mark.parametrize("raw", [None, [], "x", 3])
def test_what_is_no_mapping(raw):
    with pytest.raises(InvalidInput, match="mapping"):
        parse_spec(raw)


def test_a_variant_changes_only_what_it_says():
    config = validate_config({"rerank": {"max_depth": 50, "price": 0.1}})
    assert overridden(config, {"rerank": {"price": None}}).rerank.price is None
    assert overridden(config, {"rerank": {"price": 2}}).rerank.max_depth == 50
    assert overridden(config, {}) == config
    assert overridden(TenantConfig(), {"fusion": {"weight": 0.3}}).fusion.weight == 0.3


def test_overrides_add_up():
    first, second = {"rerank": {"price": 1, "max_depth": 9}}, {"rerank": {"price": None}, "generator": "x"}
    assert laid_over(first, second) == {"rerank": {"price": None, "max_depth": 9}, "generator": "x"}
