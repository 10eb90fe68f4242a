"""Fit the extractive answerer's coefficients on public training data; prints services/evidence/coefficients.py.

    python benchmarks/train_answerer.py --data DIR [--limit 300] [--others 300] > services/evidence/coefficients.py

The sentence model: softmax over a question's sentences, the loss is −log of the share of those that hold the gold
answer (SQuAD), come closest to the gold text (PubMedQA, token F1) or lie in a relevant document (MedQuAD, Vespa).
The abstention: logistic regression of answerable questions against their twins. The threshold: what 99 % of the
answerable questions pass, since probabilities are lower in corpora that the training sets do not resemble (code,
terse documentation), and a verbatim, cited near miss does less harm there than refusing what stands in the corpus.
Never touches what measures: SQuAD's held-out titles and the dev splits.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.evaluation.answers import (
    Asked,
    auroc,
    containment,
    fit_logistic,
    measuring_scope,
    read_documents,
    read_questions,
    token_f1,
)
from jobs.evaluation.memory_index import MemoryIndex
from services.contracts import Candidates, Evidence, Float32, Question
from services.embedding.encoder import Encoder, load_encoder
from services.evidence.abstention import ABSTENTION_FEATURES, evidence_features
from services.evidence.scoring import FEATURES, Sentence, Wanted, features, sentences, wanted
from services.evidence.selection import select
from services.reranking.first_stage import FirstStage
from services.retrieval.fusion import FusionProfile, fuse

# Set, split, share of --limit. MedQuAD's twins are half answerable: other pages on the same disease remain.
SETS = (
    ("squad_v1_train", "trained", 1.0),
    ("pubmedqa", "train", 0.5),
    ("medquad", "train", 0.5),
    ("vespa_docs", "train", 1.0),
)
SENTENCE_PENALTY, ABSTENTION_PENALTY = 0.003, 10.0
STEPS, RATE = 3_000, 0.5
PASSED = 0.99


@dataclass(frozen=True)
class Case:
    """One question or its twin, up to the sentence features; `right` (m,) marks the sentences that answer."""

    want: Wanted
    found: list[Sentence]
    table: Float32
    right: Float32
    evidence: Evidence
    candidates: Candidates
    twin: bool


async def case_of(index: MemoryIndex, encoder: Encoder, asked: Asked, *, twin: bool) -> Case | None:
    """None when nothing is shown."""
    index.without = asked.gold if twin else ()
    scope, question = measuring_scope("builtin", encoder.dimension), Question(asked.text)
    candidates = await index.retrieve(scope, question)
    fusion = fuse(candidates, "hybrid", FusionProfile())
    evidence = select(question, scope, candidates, await FirstStage().rerank(scope, question, candidates, fusion))
    want = wanted(question.text, candidates)
    found = sentences(evidence, want)
    if not found:
        return None
    table = features(want, found, encoder.encode([one.head for one in found]), evidence, candidates)
    return Case(want, found, table, right_ones(asked, found, evidence), evidence, candidates, twin)


def right_ones(asked: Asked, found: list[Sentence], evidence: Evidence) -> Float32:
    """(m,) float32 of 0 and 1."""
    relevant: Float32 = np.array([evidence.passages[one.place].document_id in asked.gold for one in found], np.float32)
    if not asked.answers:
        return relevant
    gold = asked.answers[0]
    if len(gold.split()) < 12:
        return relevant * np.array([containment(one.text, gold) for one in found], np.float32)
    close = relevant * np.array([token_f1(one.text, gold) for one in found], np.float32)
    return np.where((close >= 0.85 * close.max()) & (close > 0), np.float32(1), np.float32(0))


def fit_sentences(cases: list[Case]) -> Float32:
    """(f,) weights by gradient descent on the standardised features; a softmax needs no bias."""
    table = np.concatenate([case.table for case in cases])
    right = np.concatenate([case.right for case in cases])
    starts = np.cumsum([0, *(len(case.table) for case in cases)])[:-1]
    owner = np.repeat(np.arange(len(cases)), [len(case.table) for case in cases])
    spread = table.std(axis=0) + 1e-6
    design = (table - table.mean(axis=0)) / spread
    weights = np.zeros(design.shape[1])
    for _ in range(STEPS):
        score = np.exp(np.clip(design @ weights, -30, 30))
        share = score / np.add.reduceat(score, starts)[owner]
        held = score * right
        target = held / np.add.reduceat(held, starts)[owner]
        weights -= RATE * (design.T @ (share - target) / len(cases) + 2 * SENTENCE_PENALTY * weights)
    raw: Float32 = (weights / spread).astype(np.float32)
    return raw


def fit_bias(cases: list[Case], weights: Float32) -> float:
    """The bias that makes the mean probability of a sentence the share of those that answer."""
    score = np.concatenate([case.table @ weights for case in cases])
    share = float(np.concatenate([case.right for case in cases]).mean())
    low, high = -60.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(score + middle)))).mean() < share else (low, middle)
    return low


async def cases_of(encoder: Encoder, folder: Path, split: str, limit: int, others: int) -> list[Case]:
    """Every question and its twin."""
    asked = read_questions(folder, split, limit)
    index = MemoryIndex(encoder, read_documents(folder, (doc for one in asked for doc in one.gold), others))
    cases = [await case_of(index, encoder, one, twin=twin) for one in asked for twin in (False, True)]
    print(f"{folder.name}: {len(asked)} questions, {len(index.passages)} chunks", file=sys.stderr, flush=True)
    return [case for case in cases if case is not None]


def printed(name: str, weights: dict[str, float]) -> str:
    rows = "".join(f'    "{key}": {value:.4g},\n' for key, value in weights.items())
    return f"{name} = {{\n{rows}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--cache-dir", default=str(Path.home() / ".cache" / "fathom"))
    options = parser.parse_args()
    encoder = load_encoder("builtin", cache_dir=options.cache_dir)
    cases: list[Case] = []
    for name, split, share in SETS:
        limit = round(share * options.limit)
        cases += asyncio.run(cases_of(encoder, options.data / name, split, limit, options.others))
    able = [case for case in cases if not case.twin and case.right.any()]
    weights = fit_sentences(able)
    bias = fit_bias(able, weights)
    rows = [
        evidence_features(
            case.want, case.found, case.table, case.table @ weights + bias, case.evidence, case.candidates
        )
        for case in cases
    ]
    table, labels = np.stack(rows), np.array([not case.twin for case in cases], dtype=np.float32)
    answered, base = fit_logistic(table, labels, ABSTENTION_PENALTY)
    score = 1 / (1 + np.exp(-(table @ answered + base)))
    threshold = float(np.quantile(score[labels == 1], 1 - PASSED))
    print(f"AUROC in training {auroc(score[labels == 1].tolist(), score[labels == 0].tolist()):.3f}", file=sys.stderr)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    print('"""Coefficients of the sentence model and of the abstention: fitted, not chosen.\n')
    print(f"Printed by `benchmarks/train_answerer.py --limit {options.limit} --others {options.others}` on {today}")
    print("from the training parts of SQuAD 1.1 (CC BY-SA 4.0), PubMedQA (MIT), MedQuAD (CC BY 4.0) and Vespa")
    print('(Apache-2.0); figures on what was held out: `benchmarks/answers.py`.\n"""\n')
    print(printed("SENTENCE", {"bias": bias, **dict(zip(FEATURES, weights.tolist(), strict=True))}))
    print(
        printed("ABSTENTION", {"bias": base, **dict(zip(ABSTENTION_FEATURES, answered.tolist(), strict=True))}), end=""
    )
    print(f"ABSTAIN_BELOW = {threshold:.4f}  # passed by {PASSED:.0%} of the answerable training questions")


if __name__ == "__main__":
    main()
