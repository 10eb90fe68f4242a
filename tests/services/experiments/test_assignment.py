"""Salted hashes: uniform, sticky, independent."""

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from services.experiments.assignment import arm_of, number, shares, unit_digest, unit_of
from services.experiments.spec import parse_spec

ARMS = [{"name": "control", "share": 2}, {"name": "b"}, {"name": "c"}]


def spec(**fields):
    return parse_spec({"name": "x", "tenants": ["acme"], "arms": ARMS, **fields})


def test_shares_are_relative():
    assert shares(spec()).tolist() == [0.5, 0.25, 0.25]


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_only_adds_units_and_moves_nobody(unit, one, other):
    low, high = sorted((one, other))
    before, after = arm_of(spec(), "salt", low, unit), arm_of(spec(), "salt", high, unit)
    assert before is None or before == after


def test_arms_get_their_shares_and_another_salt_mixes_them_anew():
    of = [arm_of(spec(), "salt", 1.0, f"u{n}") for n in range(20_000)]
    counts = [of.count(arm) for arm in range(3)]
    assert chisquare(counts, [10_000, 5_000, 5_000]).pvalue > 0.001
    again = [arm_of(spec(), "pepper", 1.0, f"u{n}") for n in range(20_000)]
    agreement = sum(a == b for a, b in zip(of, again, strict=True))
    # Independent: P(same arm) = .5² + .25² + .25² = .375.
    assert binomtest(agreement, 20_000, 0.375).pvalue > 0.001


def test_the_holdout_never_takes_part_and_is_no_matter_of_the_ramp():
    held = [u for u in map(str, range(5_000)) if arm_of(spec(holdout=0.2), "salt", 1.0, u) is None]
    assert binomtest(len(held), 5_000, 0.2).pvalue > 0.001
    assert all(arm_of(spec(holdout=0.2), "salt", ramp, u) is None for u in held for ramp in (0.1, 0.5))


def test_a_number_is_a_function_of_all_three():
    assert number("s", "arm", "u") == number("s", "arm", "u")
    assert (
        len({number("s", "arm", "u"), number("t", "arm", "u"), number("s", "ramp", "u"), number("s", "arm", "v")}) == 4
    )


def test_who_is_a_unit():
    assert unit_of("user", "t", "ann", "s1", "r1") == unit_of("user", "t", "ann", "s2", "r2")
    assert unit_of("user", "t", None, "s1", "r1")[0] == unit_of("session", "t", "ann", "s1", "r9")[0]
    assert unit_of("user", "t", None, None, "r1") != unit_of("user", "t", None, None, "r2")
    assert not unit_of("user", "t", None, None, "r1")[1]
    assert unit_of("tenant", "t", "ann", None, "r1") == unit_of("tenant", "t", "bob", None, "r2")


def test_the_same_name_at_another_tenant_is_somebody_else():
    assert unit_digest(unit_of("user", "t1", "ann", None, "r")[0]) != unit_digest(
        unit_of("user", "t2", "ann", None, "r")[0]
    )
    # A user called like a session is no session.
    assert unit_of("user", "t", "x", None, "r")[0] != unit_of("session", "t", None, "x", "r")[0]
