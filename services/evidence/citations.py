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
WORD_JOINER = "⁠"


@dataclass(frozen=True, slots=True)
class Pick:
    """`passages[place].text[start:end]` goes into the answer; `lead` are the house's own words before it."""

    place: int
    start: int
    end: int
    kind: Kind
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the answer: `text` with its markers and the white space before it."""

    text: str
    citations: tuple[Citation, ...]


def compose(passages: Sequence[Passage], picks: Sequence[Pick], length: int = 0, cited: int = 0) -> tuple[Part, ...]:
    """Parts in the order of `picks`; they follow `length` characters of an answer with `cited` citations."""
    parts: list[Part] = []
    for number, pick in enumerate(picks):
        marker = cited + number + 1
        quote = passages[pick.place].text[pick.start : pick.end]
        before, after = _frame(pick.kind, first=not length, after=picks[number - 1].kind if number else pick.kind)
        if pick.lead:
            before, after = (" " if number else "\n\n" if length else "") + pick.lead, " "
        sentence = plain(quote)
        start = length + len(before)
        citation = cite(marker, passages[pick.place], (pick.start, pick.end), (start, start + len(sentence)))
        parts.append(Part(f"{before}{sentence}{after}[{marker}]", (citation,)))
        length += len(parts[-1].text)
    return tuple(parts)


def plain(text: str) -> str:
    """`text` in which nothing reads as one of our markers; it looks the same."""
    return _LOOKS_LIKE_A_MARKER.sub("[" + WORD_JOINER, text)


def cite(marker: int, passage: Passage, span: tuple[int, int], answer: tuple[int, int]) -> Citation:
    """Citation `marker` of `passage.text[span]`, behind the sentence `answer[...]` of the answer."""
    start, end = span
    return Citation(
        marker=marker,
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        title=passage.title,
        url=passage.url,
        quote=passage.text[start:end],
        char_start=passage.span.char_start + start,
        char_end=passage.span.char_start + end,
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
