"""Which sentences make the answer, and in which order. Pure.

A fact needs the one sentence that holds it, and a second one only when the first is not clearly the best; a
question for a judgement nearly always gets both. A definition, a reason or a procedure needs the run of sentences
that begins with the best one, as it stands in the passage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.contracts import Float32
from services.evidence.citations import Pick
from services.evidence.question import asked
from services.evidence.scoring import Sentence
from services.evidence.text import words

_RUN = {"definition": 3, "procedure": 4, "reason": 3}  # sentences in a row at most
_RUN_WORDS = 120  # and words
_FACT_GAP = 1.0  # log-odds: a fact's second sentence is this close to the first
_WIDE_GAP = 3.0  # the same for a question that asks for a judgement or gives no cue
_WIDE = ("yes_no", "other")


def pick(question: str, found: Sequence[Sentence], logit: Float32, max_tokens: int | None = None) -> tuple[Pick, ...]:
    """The answer's spans in reading order: the best passage first, inside a passage as the text runs.

    `max_tokens` bounds their words, as this answerer writes no tokens. The best sentence stays: half of it misleads.
    """
    if not found:
        return ()
    kind = asked(question)
    order = np.argsort(-logit, kind="stable").tolist()
    if kind in _RUN:
        rows = _run(found, order[0], _RUN[kind])
    else:
        gap = _WIDE_GAP if kind in _WIDE else _FACT_GAP
        rows = [row for row in order[:2] if logit[order[0]] - logit[row] <= gap]
    rows = _within(rows, found, max_tokens)
    first = found[order[0]].place
    rows.sort(key=lambda row: (found[row].place != first, found[row].place, found[row].start))
    return tuple(Pick(found[row].place, found[row].start, found[row].end, found[row].kind) for row in rows)


def _within(rows: list[int], found: Sequence[Sentence], max_tokens: int | None) -> list[int]:
    """As many of `rows`, best first, as hold `max_tokens` words together, at least one."""
    spent = np.cumsum([len(words(found[row].text)) for row in rows])
    fits = len(rows) if max_tokens is None else int(np.searchsorted(spent, max_tokens, side="right"))
    return rows[: max(1, fits)]


def _run(found: Sequence[Sentence], best: int, most: int) -> list[int]:
    """The best sentence and those that follow it directly, up to `most` and to `_RUN_WORDS` words."""
    rows = [best]
    spent = len(found[best].text.split())
    at = {(one.place, one.index): row for row, one in enumerate(found)}
    while len(rows) < most:
        last = found[rows[-1]]
        following = at.get((last.place, last.index + 1))
        if following is None:
            break
        spent += len(found[following].text.split())
        if spent > _RUN_WORDS:
            break
        rows.append(following)
    return rows
