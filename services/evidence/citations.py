"""From picked spans to a cited answer: text, markers and citations that belong together. Pure.

Every pick becomes its verbatim text, a marker `[n]` behind it and citation n, so markers and citations are one
to one whatever the texts hold: a bracketed number inside a text, such as `x[0]`, would read as a marker, and so
gets an invisible WORD JOINER (U+2060) behind its bracket in `answer`; the citation's `quote` stays verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.contracts import Citation, Passage
from services.evidence.sentences import Kind

_LOOKS_LIKE_A_MARKER = re.compile(r"\[(?=[\s,;–-]*+\d[\s\d,;–-]*+\])")  # linear: nothing gives back
_WORD_JOINER = "⁠"


@dataclass(frozen=True, slots=True)
class Pick:
    """`passages[place].text[start:end]` goes into the answer."""

    place: int
    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the answer: `text` with its marker and the white space before it."""

    text: str
    citation: Citation


def compose(passages: Sequence[Passage], picks: Sequence[Pick]) -> tuple[Part, ...]:
    """Parts in the order of `picks`; their texts joined are the answer."""
    parts: list[Part] = []
    length = 0
    for marker, pick in enumerate(picks, start=1):
        passage = passages[pick.place]
        quote = passage.text[pick.start : pick.end]
        before, after = _frame(pick.kind, first=marker == 1, after=picks[marker - 2].kind)
        sentence = _LOOKS_LIKE_A_MARKER.sub("[" + _WORD_JOINER, quote)
        start = length + len(before)
        citation = _citation(marker, passage, pick, quote, (start, start + len(sentence)))
        parts.append(Part(f"{before}{sentence}{after}[{marker}]", citation))
        length += len(parts[-1].text)
    return tuple(parts)


def _citation(marker: int, passage: Passage, pick: Pick, quote: str, answer: tuple[int, int]) -> Citation:
    return Citation(
        marker=marker,
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        title=passage.title,
        url=passage.url,
        quote=quote,
        char_start=passage.span.char_start + pick.start,
        char_end=passage.span.char_start + pick.end,
        page=passage.span.page,
        answer_start=answer[0],
        answer_end=answer[1],
    )


def _frame(kind: Kind, *, first: bool, after: Kind) -> tuple[str, str]:
    """What stands before and behind a quote: Markdown that keeps lists, tables and code readable."""
    if kind == "code":
        return ("" if first else "\n\n") + "```\n", "\n```\n"
    if kind == "item":
        return ("" if first else "\n") + "- ", " "
    if kind == "row":
        return "" if first else "\n", " "
    return "" if first else ("\n\n" if after in ("code", "item", "row") else " "), " "
