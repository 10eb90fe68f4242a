"""What an answerer is measured on: questions with gold answers, their unanswerable twins, and the figures. Pure.

A twin is the same question asked of the corpus without its relevant documents. Figures per set:

    answer_in_evidence   share of questions for which a shown passage holds the gold answer, word for word
    containment          share for which the answer holds it; of long gold answers the share of words recalled
    token_f1             of answer and gold answer (Rajpurkar et al. 2016: lower case, no punctuation, no articles)
    cited_in_gold        share of the first citations that lie inside a relevant document
    auroc                probability that an answerable question's score exceeds a twin's (ties count half)
    false_accepts        share of twins that pass the threshold which 90 % of the answerable ones pass
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.evaluation.datasets import read_jsonl, read_qrels
from services.contracts import Float32
from tenants.config import TenantConfig
from tenants.ids import TenantName, TenantUid
from tenants.scope import Release, TenantScope

RECALL_KEPT = 0.9
LONG_ANSWER_WORDS = 12  # gold answers from here on are never repeated word for word
PER_TITLE = 12
HELD_OUT = 10  # of squad_v1_train: titles whose sha256 is 0 modulo this are never trained on

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")


@dataclass(frozen=True, slots=True)
class Asked:
    """One labelled question: `gold` are the relevant documents, `answers` the gold texts (may be none)."""

    text: str
    gold: tuple[str, ...]
    answers: tuple[str, ...]


def read_questions(folder: Path, split: str, limit: int, seed: int = 0) -> list[Asked]:
    """A random `limit` of a set's questions, at most PER_TITLE about documents of one title.

    So a small corpus still holds whole topics. `split` is a qrels file, or for SQuAD `heldout` / `trained`.
    """
    held_out = {"heldout": True, "trained": False}.get(split)
    judged = read_qrels(_existing(folder, f"qrels/{'train' if held_out is not None else split}.tsv"))
    titles = {str(row["_id"]): str(row.get("title") or row["_id"]) for row in _corpus(folder)}
    found: defaultdict[str, list[Asked]] = defaultdict(list)
    for row in read_jsonl(_existing(folder, "queries.jsonl")):
        gold = tuple(document for document, grade in judged.get(str(row["_id"]), {}).items() if grade > 0)
        if gold and (held_out is None or is_held_out(titles[gold[0]]) == held_out):
            found[titles[gold[0]]].append(Asked(str(row["text"]), gold, tuple(row.get("answers") or ())))
    groups = [found[title] for title in sorted(found)]
    chance = random.Random(seed)  # noqa: S311 a sample, not a secret
    chance.shuffle(groups)
    picked = [chance.sample(group, min(PER_TITLE, len(group))) for group in groups]
    return [one for group in picked for one in group][:limit]


def read_documents(folder: Path, keep: Iterable[str], others: int, seed: int = 0) -> list[dict[str, str]]:
    """The documents `keep`, all that share a title with them (the hardest to tell apart), and `others` at random."""
    documents = list(_corpus(folder))
    wanted = set(keep)
    titles = {row["title"] for row in documents if row["_id"] in wanted and row.get("title")}
    random.Random(seed).shuffle(documents)  # noqa: S311 a sample, not a secret
    near = [row for row in documents if row["_id"] in wanted or row.get("title") in titles]
    far = [row for row in documents if row["_id"] not in wanted and row.get("title") not in titles]
    return near + far[:others]


def is_held_out(title: str) -> bool:
    """True for the tenth of SQuAD's titles that nothing is ever trained on."""
    return int(hashlib.sha256(title.encode()).hexdigest(), 16) % HELD_OUT == 0


def measuring_scope(embedder: str, dimension: int) -> TenantScope:
    """A scope around a corpus in memory, with the default configuration."""
    release = Release(1, "memory", 1, "memory", embedder, dimension, "", 0, 0, 0, "", "", "")
    return TenantScope(TenantName("measuring"), TenantUid("t_measuring"), TenantConfig(), "memory", release)


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over normalised words, in [0, 1]."""
    ours, theirs = normalised(answer), normalised(gold)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def containment(answer: str, gold: str) -> float:
    """1.0 when `answer` holds a short gold answer word for word; of a long one the share of its words, in [0, 1]."""
    ours, theirs = normalised(answer), normalised(gold)
    if len(theirs) < LONG_ANSWER_WORDS:
        return float(f" {' '.join(theirs)} " in f" {' '.join(ours)} ")
    return sum((Counter(ours) & Counter(theirs)).values()) / len(theirs)


def auroc(answerable: Sequence[float], twins: Sequence[float]) -> float:
    """Mann-Whitney: mean over pairs of [answerable > twin] + ½ [equal]."""
    ours, theirs = np.asarray(answerable)[:, None], np.asarray(twins)[None, :]
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def false_accepts(answerable: Sequence[float], twins: Sequence[float], recall: float = RECALL_KEPT) -> float:
    """Share of twins at or above the score that `recall` of the answerable questions reach."""
    threshold = np.quantile(np.asarray(answerable), 1 - recall)
    return float((np.asarray(twins) >= threshold).mean())


def means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Mean of every figure over the questions that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [value for row in rows if (value := row.get(name)) is not None] for name in names}
    return {name: float(np.mean(numbers)) for name, numbers in values.items() if numbers}


def fit_logistic(table: Float32, labels: Float32, penalty: float) -> tuple[Float32, float]:
    """Ridge logistic regression by Newton's method: ((f,) weights, bias) of the raw features.

    Features are standardised first, so that `penalty` (on the squared weights) treats them alike.
    """
    mean, spread = table.mean(axis=0), table.std(axis=0) + 1e-6
    design = np.c_[(table - mean) / spread, np.ones(len(table))].astype(np.float64)
    ridge = np.diag([penalty] * table.shape[1] + [0.0])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - labels) + ridge @ weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-8:
            break
    raw = (weights[:-1] / spread).astype(np.float32)
    return raw, float(weights[-1] - mean @ raw)


def normalised(text: str) -> list[str]:
    """The words that answers are compared by: lower case, no punctuation, no articles."""
    return _ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split()


def _corpus(folder: Path) -> Iterator[dict[str, Any]]:
    return read_jsonl(_existing(folder, "corpus.jsonl"))


def _existing(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else plain.with_name(plain.name + ".gz")
