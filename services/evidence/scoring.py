"""How likely each sentence of the evidence is to answer: features, and a linear model over them. Pure numpy.

probability = 1 / (1 + exp(−(features · weights + bias))); the weights were fitted on public training data by
`benchmarks/train_answerer.py` and stand in coefficients.py. Inverse document frequencies are of the question's
candidates, since that is the neighbourhood in which sentences must be told apart:

    idf(t) = ln(1 + (n − df(t) + ½) / (df(t) + ½)),   recall(s) = Σ idf(t ∈ question ∩ s) / Σ idf(t ∈ question)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.contracts import Candidates, Evidence, Float32
from services.evidence.coefficients import SENTENCE
from services.evidence.question import asked, holds
from services.evidence.sentences import Kind, split
from services.evidence.text import content, words

FEATURES = (
    "cosine",  # of sentence and question
    "cosine_gap",  # to the best sentence, <= 0
    "recall",  # of the question's terms in the sentence
    "recall_gap",
    "context_recall",  # in the sentence, the one before it, the title and the headings
    "bigrams",  # share of the question's neighbouring term pairs that the sentence holds
    "passage_dense",  # cosine of passage and question
    "passage_dense_gap",
    "passage_score",  # what the passages are ordered by
    "passage_place",  # 1 / place among the evidence
    "neighbour_cosine",  # mean of the sentences before and behind it
    "position",  # 1 / place in the passage
    "cue",  # +1 holds the kind of thing that is asked for, −1 does not, 0 unknown
    "length",  # ln(1 + words) / 4
    "short",  # fewer than four words
    "question",  # is itself a question
)
MAX_UNITS = 16  # embedded per question: the answerer's time is nearly all spent on them
MAX_CHARS = 1_600  # of their heads together: code's units are long
HEAD_CHARS = 320  # of a sentence that are embedded; only code and run-on text is longer
_BOILERPLATE = re.compile(r"\s*(?:__all__\b|import\s|from\s+\S+\s+import\b|#include\b)")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`evidence.passages[place].text[start:end]`; `index` counts within the passage from 0.

    `context` holds the terms around it: the sentence before, the title and the headings.
    """

    place: int
    index: int
    start: int
    end: int
    kind: Kind
    text: str
    terms: frozenset[str]
    context: frozenset[str]

    @property
    def head(self) -> str:
        """What of it is embedded."""
        return self.text[:HEAD_CHARS]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The question's terms with their weights: `idf` (t,) float32, of `terms` (t,)."""

    text: str
    terms: tuple[str, ...]
    idf: Float32

    def recall(self, terms: frozenset[str]) -> float:
        """Share of the question's weight that `terms` hold, in [0, 1]; 0 for a question without terms."""
        total = float(self.idf.sum())
        held = sum(float(weight) for term, weight in zip(self.terms, self.idf, strict=True) if term in terms)
        return held / total if total > 0 else 0.0

    def without(self, terms: frozenset[str]) -> Wanted:
        """The same question less those terms."""
        kept = [row for row, term in enumerate(self.terms) if term not in terms]
        return Wanted(self.text, tuple(self.terms[row] for row in kept), self.idf[kept])

    def heaviest(self) -> float:
        """The highest idf, 0 without terms."""
        return float(self.idf.max()) if len(self.idf) else 0.0


def wanted(question: str, candidates: Candidates) -> Wanted:
    """The question's distinct terms, weighed by how rare they are among its candidates."""
    terms = tuple(dict.fromkeys(content(question)))
    texts = [f"{passage.title} {passage.heading} {passage.text}".casefold() for passage in candidates.passages]
    df = np.array([sum(term in text for text in texts) for term in terms], dtype=np.float32)
    idf = np.log1p((len(texts) - df + 0.5) / (df + 0.5)).astype(np.float32)
    return Wanted(question, terms, idf)


def sentences(evidence: Evidence, want: Wanted) -> list[Sentence]:
    """At most MAX_UNITS sentences (MAX_CHARS) of the evidence in reading order, the most promising by words alone.

    A sentence that two overlapping chunks of one document share, or that two documents say alike, counts once. A
    heading answers nothing, it is context of what follows; a list of imports or exports names everything and says
    nothing.
    """
    found: list[Sentence] = []
    seen: set[str] = set()
    for place, passage in enumerate(evidence.passages):
        around = frozenset(content(f"{passage.title} {passage.heading}"))
        before: frozenset[str] = frozenset()
        for index, unit in enumerate(split(passage.text)):
            text = passage.text[unit.start : unit.end]
            terms = frozenset(content(text))
            if unit.kind == "heading":
                around |= terms
            elif text not in seen and not (unit.kind == "code" and _BOILERPLATE.match(text)):
                context = terms | before | around
                found.append(Sentence(place, index, unit.start, unit.end, unit.kind, text, terms, context))
            seen.add(text)
            before = terms
    return _promising(found, want)


def _promising(found: list[Sentence], want: Wanted) -> list[Sentence]:
    worth = [
        want.recall(one.terms) + 0.5 * want.recall(one.context) + 1 / (2 + one.place) + 0.2 / (1 + one.index)
        for one in found
    ]
    kept: list[int] = []
    chars = 0
    for row in np.argsort(worth, kind="stable")[::-1].tolist():
        chars += len(found[row].head)
        if len(kept) == MAX_UNITS or (kept and chars > MAX_CHARS):
            break
        kept.append(row)
    return [found[row] for row in sorted(kept)]


def features(
    want: Wanted, found: Sequence[Sentence], vectors: Float32, evidence: Evidence, candidates: Candidates
) -> Float32:
    """(m, len(FEATURES)) float32, one row a sentence; `vectors` (m, d) are unit vectors of their heads."""
    rows = np.array([evidence.rows[one.place] for one in found])
    cosine = vectors @ candidates.query_vector
    recall = np.array([want.recall(one.terms) for one in found], dtype=np.float32)
    dense = candidates.dense[rows]
    scores = np.array([evidence.scores[one.place] for one in found])
    kind = asked(want.text)
    columns = (
        cosine,
        cosine - cosine.max(),
        recall,
        recall - recall.max(),
        [want.recall(one.context) for one in found],
        [_bigrams(want.terms, one) for one in found],
        dense,
        dense - dense.max(),
        scores,
        [1 / (1 + one.place) for one in found],
        _neighbours(found, cosine),
        [1 / (1 + one.index) for one in found],
        [2 * holds(kind, one.text, want.text) - 1 for one in found],
        [np.log1p(len(words(one.text))) / 4 for one in found],
        [len(words(one.text)) < 4 for one in found],
        [one.text.rstrip().endswith(("?", "？")) for one in found],
    )
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def logits(table: Float32) -> Float32:
    """(m,) float32 log-odds that each sentence answers, from `features`."""
    weights = np.array([SENTENCE[name] for name in FEATURES], dtype=np.float32)
    return (table @ weights + np.float32(SENTENCE["bias"])).astype(np.float32)


def _bigrams(terms: tuple[str, ...], one: Sentence) -> float:
    pairs = set(itertools.pairwise(terms))
    own = content(one.text)
    return len(pairs & set(itertools.pairwise(own))) / len(pairs) if pairs else 0.0


def _neighbours(found: Sequence[Sentence], cosine: Float32) -> Float32:
    at = {(one.place, one.index): row for row, one in enumerate(found)}
    result = np.zeros(len(found), dtype=np.float32)
    for row, one in enumerate(found):
        near = [at[key] for key in ((one.place, one.index - 1), (one.place, one.index + 1)) if key in at]
        result[row] = cosine[near].mean() if near else 0.0
    return result
