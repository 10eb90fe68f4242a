"""Which passages contradict each other, and which one the tenant's rules prefer."""

from __future__ import annotations

import pytest

from services.evidence.conflicts import authority_of, conflicts, disclosed
from tenants.config import TenantConfig
from tests import fakes

QUESTION = "How long is the password reset link valid?"
OLD = fakes.passage(
    1, "The password reset link is valid for 24 hours.", "faq/old.md", updated_at="2021-03-01T00:00:00Z"
)
NEW = fakes.passage(2, "The password reset link is valid for 2 hours.", "faq/new.md", updated_at="2025-06-01T00:00:00Z")
PLAIN = TenantConfig()


def config(**fields: object) -> TenantConfig:
    return TenantConfig.model_validate(fields)


def test_the_newer_one_is_preferred() -> None:
    (found,) = conflicts(QUESTION, [OLD, NEW], PLAIN)
    assert set(found.note.between) == {OLD.chunk_id, NEW.chunk_id}
    assert (found.note.preferred, found.note.why) == (NEW.chunk_id, "newer")
    assert found.note.about.startswith("number (hour)")
    first, second = disclosed([found])
    assert (first.place, second.place) == (1, 0)
    assert first.lead == "The sources disagree. The newer one says: "


def test_authority_comes_before_age() -> None:
    (found,) = conflicts(QUESTION, [OLD, NEW], config(sources={"authority": {"faq/old*": 3.0}}))
    assert (found.note.preferred, found.note.why) == (OLD.chunk_id, "more authoritative")


def test_without_dates_nobody_is_preferred() -> None:
    bare = [fakes.passage(n, one.text, f"d{n}") for n, one in enumerate((OLD, NEW))]
    (found,) = conflicts(QUESTION, bare, PLAIN)
    assert (found.note.preferred, found.note.why) == (None, "undecided")


@pytest.mark.parametrize(
    ("question", "one", "other", "kind"),
    [
        ("When was the bridge opened?", "The bridge was opened in 1932.", "The bridge was opened in 1936.", "date"),
        (
            "Which Python version does the client need?",
            "The client needs Python version 3.9 or later.",
            "The client needs Python version 3.11 or later.",
            "version",
        ),
        (
            "Does the plan cover dental care?",
            "The basic plan does cover dental care.",
            "The basic plan does not cover dental care.",
            "negation",
        ),
    ],
)
def test_dates_versions_and_denials_conflict(question: str, one: str, other: str, kind: str) -> None:
    (found,) = conflicts(question, [fakes.passage(1, one, "a"), fakes.passage(2, other, "b")], PLAIN)
    assert found.note.about.startswith(kind)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The password reset link is valid for 24 hours.", "The password reset link is valid for 24 hours."),
        ("The password reset link is valid for 24 hours.", "The password needs 12 characters."),  # other matters
        ("The password reset link is valid for 24 hours.", "The reset link is valid; its 2 icons are blue."),
        ("Bananas are yellow for 24 hours.", "Bananas are yellow for 2 hours."),  # nobody asked
        (
            "The password reset link is valid for 1 hour, 30 minutes.",
            "The password reset link is valid for 90 minutes.",
        ),
        (
            "In 2021 the password reset link is valid for 24 hours.",
            "In 2025 the password reset link is valid for 2 hours.",
        ),
        ("Is the password reset link valid for 24 hours?", "The password reset link is valid for 2 hours."),
        (
            "The password reset link is valid for admins 24 hours.",
            "The password reset link is valid for guests 2 hours.",
        ),
    ],
)
def test_what_is_no_contradiction(one: str, other: str) -> None:
    assert not conflicts(QUESTION, [fakes.passage(1, one, "a"), fakes.passage(2, other, "b")], PLAIN)


@pytest.mark.parametrize(
    ("question", "one", "other"),
    [
        (
            "What is the usual adult dose of aspirin?",
            "The usual adult dose of aspirin is 650 mg.",
            "The usual adult dose of ibuprofen is 400 mg.",
        ),
        (
            "How many days of leave are there?",
            "There are 30 days of leave in Germany.",
            "There are 25 days of leave in France.",
        ),
        (
            "What was the revenue of Acme?",
            "Revenue of Acme in 2021 was 5 million.",
            "Revenue of Acme in 2022 was 7 million.",
        ),
        (
            "Who should be screened for diabetes?",
            "Patients without diabetes should be screened every year.",
            "Patients with diabetes should be screened every year.",
        ),
        (
            "What was added for arguments?",
            "Changed in version 3.9: Added support for arguments.",
            "Changed in version 3.11: Added support for arguments.",
        ),
    ],
)
def test_qualifiers_are_no_contradictions(question: str, one: str, other: str) -> None:
    assert not conflicts(question, [fakes.passage(1, one, "a"), fakes.passage(2, other, "b")], PLAIN)


def test_a_document_does_not_contradict_itself_and_a_tenant_may_ignore_conflicts() -> None:
    same = [fakes.passage(n, one.text, "faq") for n, one in enumerate((OLD, NEW))]
    assert not conflicts(QUESTION, same, PLAIN)
    assert not conflicts(QUESTION, [OLD, NEW], config(answer={"conflict": "ignore"}))


def test_globs_of_authority() -> None:
    rules = {"policies/**": 2.0, "*.md": 0.5}
    weights = [authority_of(fakes.passage(1, "x", name), rules) for name in ("policies/a/b.md", "b.md", "x/b.md")]
    assert weights == [2.0, 0.5, 1.0]
