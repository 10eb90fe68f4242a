"""Whether two shown passages contradict each other on what was asked, and which one the tenant prefers. Pure.

Two statements (no questions, at most WORDS words) of different documents contradict each other when they speak of the
same: at least SHARED content stems in common, their Jaccard at least SAME, only one of them says more than the
other, what of the question stands in one stands in the other, and both hold a share ASKED of it. And

    number     each has one amount, of the same unit, with different values; their dates and versions are the same
    date       the question asks when, and they name different years or days; their amounts are the same
    version    the question asks for a version, and they name different ones
    negation   exactly one of them says not, never, no or cannot; stems agree to DENIED and all numbers are the same

The tenant's rules decide: the higher `sources.authority`, then the newer `updated_at`, else nobody.
Rules of words find plain contradictions in plain prose and miss what needs understanding; a false alarm costs more than
a miss, as it stands in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from services.contracts import ConflictNote, Passage
from services.evidence.citations import Pick
from services.evidence.question import asked
from services.evidence.sentences import split
from services.evidence.support import Claim, claim_of, numbers_of
from services.evidence.text import stem, words
from tenants.config import TenantConfig

SAME = 0.7
DENIED = 0.8
SHARED = 2
ASKED = 0.34
WORDS = 40
PER_PASSAGE = 6  # units of a passage that are compared, those that hold most of the question
MOST = 3  # conflicts of one answer

Why = Literal["newer", "more authoritative", "undecided"]

_WORDS: dict[Why, str] = {
    "newer": "The newer one",
    "more authoritative": "The more authoritative one",
    "undecided": "One",
}

_YEAR = re.compile(r"\b(?:1[5-9]\d{2}|20\d{2})\b")
_DATED = re.compile(
    r"\b(?:\d{1,2} )?(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    r"(?: \d{1,2})?(?:,? (?:1[5-9]\d{2}|20\d{2}))?\b|\b\d{4}-\d{2}-\d{2}\b"
)
_VERSION = re.compile(r"\b(?:version|release|v)\s*(\d+(?:\.\d+)+)\b|\b(\d+\.\d+\.\d+)\b", re.IGNORECASE)
_ASKS_VERSION = re.compile(r"\b(?:versions?|releases?)\b", re.IGNORECASE)
_DENIES = re.compile(r"\b(?:not|never|cannot|no)\b|n['\u2019]t\b", re.IGNORECASE)
_NEGATIONS = frozenset({"never", "cannot", "can't", "don't", "doesn't", "isn't", "aren't", "won't", "wasn't"})
_COUNTED = re.compile(r"(?<![\w.])(\d+(?:[.,]\d+)*)\s*(%|[A-Za-z°]+)?")


@dataclass(frozen=True, slots=True)
class Conflict:
    """What two units say differently; `note.between` names their chunks, `picks` are the units."""

    note: ConflictNote
    picks: tuple[Pick, Pick]


@dataclass(frozen=True, slots=True)
class _Said:
    """One unit of a passage and what it claims."""

    pick: Pick
    text: str
    claim: Claim


def conflicts(question: str, passages: Sequence[Passage], config: TenantConfig) -> tuple[Conflict, ...]:
    """At most MOST, one per pair of passages, in the order of the evidence; none when the tenant ignores them."""
    if config.answer.conflict == "ignore":
        return ()
    wanted = claim_of(question).stems
    said = [_said(place, passage.text, wanted) for place, passage in enumerate(passages)]
    titles = [claim_of(f"{one.title} {one.heading}").stems & wanted for one in passages]
    texts = [claim_of(f"{one.title} {one.heading} {one.text}").stems for one in passages]
    found: list[Conflict] = []
    for first, second in combinations(range(len(passages)), 2):
        # What was asked for by a title must be spoken of in the other passage as well, both ways.
        same_subject = titles[first] <= texts[second] and titles[second] <= texts[first]
        if _document(passages[first]) == _document(passages[second]) or not same_subject:
            continue
        conflict = _between(said[first], said[second], passages, config, question)
        if conflict is not None:
            found.append(conflict)
    return tuple(found[:MOST])


def disclosed(found: Sequence[Conflict]) -> tuple[Pick, ...]:
    """What the answer quotes to say so: the preferred unit first, each with the house's words before it."""
    picks: list[Pick] = []
    for conflict in found:
        first, second = conflict.picks
        if conflict.note.preferred == conflict.note.between[1]:
            first, second = second, first
        who = _WORDS[conflict.note.why]
        picks += [replace(first, lead=f"The sources disagree. {who} says: "), replace(second, lead="Another says: ")]
    return tuple(picks)


def preferred(first: Passage, second: Passage, config: TenantConfig) -> tuple[str | None, Why]:
    """Which chunk the tenant's rules prefer, and why."""
    ours, theirs = (authority_of(one, config.sources.authority) for one in (first, second))
    if ours != theirs:
        return (first if ours > theirs else second).chunk_id, "more authoritative"
    if first.updated_at and second.updated_at and first.updated_at != second.updated_at:
        return max((first, second), key=lambda one: one.updated_at or "").chunk_id, "newer"
    return None, "undecided"


def _said(place: int, text: str, wanted: frozenset[str]) -> list[_Said]:
    """The units of one passage that speak of what was asked, most of it first."""
    units = [(unit, text[unit.start : unit.end]) for unit in split(text) if unit.kind in ("sentence", "item")]
    stated = [(unit, said) for unit, said in units if not said.rstrip("\"' )").endswith(("?", "？", ":"))]
    short = [(unit, said) for unit, said in stated if len(said.split()) <= WORDS]
    found = [_Said(Pick(place, unit.start, unit.end, unit.kind), said, claim_of(said)) for unit, said in short]
    shares = {id(one): len(one.claim.stems & wanted) / max(1, len(wanted)) for one in found}
    kept = [one for one in found if shares[id(one)] >= ASKED]
    return sorted(kept, key=lambda one: (-shares[id(one)], one.pick.start))[:PER_PASSAGE]


def _between(
    ours: Sequence[_Said], theirs: Sequence[_Said], passages: Sequence[Passage], config: TenantConfig, question: str
) -> Conflict | None:
    pairs = [(_likeness(one, other), one, other) for one in ours for other in theirs]
    for likeness, one, other in sorted(pairs, key=lambda pair: -pair[0]):
        if likeness < SAME:
            return None
        about = _difference(one, other, likeness, question)
        if about is not None:
            first, second = passages[one.pick.place], passages[other.pick.place]
            chosen, why = preferred(first, second, config)
            return Conflict(ConflictNote((first.chunk_id, second.chunk_id), about, chosen, why), (one.pick, other.pick))
    return None


def _likeness(one: _Said, other: _Said) -> float:
    ours, theirs = one.claim.stems - _NEGATIONS, other.claim.stems - _NEGATIONS
    if ours - theirs and theirs - ours:
        return 0.0  # each says something of its own: another drug, another country, another plan
    return len(ours & theirs) / len(ours | theirs) if len(ours & theirs) >= SHARED else 0.0


def _difference(one: _Said, other: _Said, likeness: float, question: str) -> str | None:
    amounts, others = _amounts(one.text), _amounts(other.text)
    dates = _dates(one.text), _dates(other.text)
    versions = _versions(one.text), _versions(other.text)
    if amounts == others and dates[0] != dates[1] and asked(question) == "date":
        clash = [
            kind for kind in sorted(dates[0].keys() & dates[1].keys()) if dates[0][kind].isdisjoint(dates[1][kind])
        ]
        return _about("date", one.text, clash[0]) if clash else None
    if amounts == others and versions[0] and versions[1] and _ASKS_VERSION.search(question):
        return _about("version", one.text, "") if versions[0].isdisjoint(versions[1]) else None
    if dates[0] != dates[1] or versions[0] != versions[1]:
        return None  # said of different times or releases: both may hold
    single = all(len(found) == 1 and len(next(iter(found.values()))) == 1 for found in (amounts, others))
    if single and amounts.keys() == others.keys() and amounts != others:
        return _about("number", one.text, next(iter(amounts)))
    denied = bool(_DENIES.search(one.text)) != bool(_DENIES.search(other.text))
    if denied and likeness >= DENIED and one.claim.numbers == other.claim.numbers:
        return _about("negation", one.text, "")
    return None


def _about(kind: str, text: str, unit: str) -> str:
    """In words of the evidence: what kind of value, and the first words of what was said."""
    beginning = " ".join(text.split()[:8])
    return f"{kind}{f' ({unit})' if unit else ''}: {beginning}"


def _versions(text: str) -> frozenset[str]:
    return frozenset(one[0] or one[1] for one in _VERSION.findall(text))


def _dates(text: str) -> dict[str, frozenset[str]]:
    found = frozenset(one.group().casefold() for one in _DATED.finditer(text))
    years = frozenset(_YEAR.findall(text))
    return ({"day": found} if found else {}) | ({"year": years} if years else {})


def _amounts(text: str) -> dict[str, frozenset[str]]:
    """Numbers by the stem of the word behind them; years, dates and versions are not amounts."""
    bare = _VERSION.sub(" ", _DATED.sub(" ", text))
    found: dict[str, set[str]] = {}
    for number, unit in _COUNTED.findall(bare):
        if unit and not _YEAR.fullmatch(number):
            key = unit if unit in "%°" else next(iter(stem(word) for word in words(unit)), "")
            found.setdefault(key, set()).update(numbers_of(number))
    return {unit: frozenset(values) for unit, values in found.items() if unit}


def authority_of(passage: Passage, authority: Mapping[str, float]) -> float:
    """Weight of the first glob of the tenant's `sources.authority` that its document's id matches, else 1."""
    return next((weight for glob, weight in authority.items() if _globbed(glob).fullmatch(passage.document_id)), 1.0)


def _globbed(glob: str) -> re.Pattern[str]:
    """`**` any path, `*` and `?` within one part of it."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", glob)))


def _document(passage: Passage) -> tuple[str, str]:
    return passage.owner, passage.document_id
