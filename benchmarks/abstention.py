"""Fit the abstention on sorted calibrated scores, certify its threshold, and measure it on what was held out.

    python benchmarks/abstention.py --data DIR [--large REFERENCE] [--fit 150] [--limit 100] [--cache DIR]

Fitted on training questions and their twins, each as if 3 or 10 candidates had been scored, so that the model
knows what adaptive reranking leaves unscored; a model of the old features alone beside it, for comparison. The
threshold refuses at most 5 % of answerable questions, at 90 % confidence, on a fifth of the questions that the
weights did not see. Calibration and β are the pooled profile's; where nothing is pooled yet they come from the fitted
questions. Prints coefficients.py's lines, and for each held-out set the AUROC of answerable against twin and the
share of twins accepted at 90 % recall.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from jobs.evaluation.abstaining import Probe, Score, certified_threshold, probe, row_of
from jobs.evaluation.answers import auroc, false_accepts, fit_logistic, read_documents, read_questions
from jobs.evaluation.memory_index import MemoryIndex
from services.contracts import Float32, Passage
from services.embedding.encoder import Encoder, load_encoder
from services.evidence.abstention import ABSTENTION_FEATURES, RERANKED_FEATURES
from services.reranking.calibration import Calibration, fit_calibration
from services.reranking.cross_encoder import load_cross_encoder
from services.reranking.profile import pooled
from services.retrieval.lexical import lexical, readable

FIT = (("squad_v1_train", "trained"), ("pubmedqa", "train"), ("medquad", "train"), ("vespa_docs", "dev"))
MEASURE = (("squad_v1_train", "heldout"), ("pubmedqa", "dev"), ("medquad", "dev"), ("cosqa", "dev"))
DEPTH = 10
SCORED = (3, 10)
PENALTY = 10.0
REFUSED, CONFIDENCE = 0.05, 0.9
BLEND = 0.5


@dataclass(frozen=True)
class Table:
    """Rows of features with their labels (1 = answerable) and the number of the question they are of."""

    rows: Float32
    labels: Float32
    owners: Float32


def scorer_of(reference: str, cache_dir: str) -> Score:
    model = load_cross_encoder(reference, cache_dir=cache_dir)

    def score(text: str, passages: Sequence[Passage]) -> Float32:
        texts = [readable(text), *(lexical(one.title, one.heading, one.text) for one in passages)]
        asked, *ids = model.tokenizer.ids(texts)
        return model.score([(asked, one) for one in ids])

    return score


class Remembering:
    """An encoder that embeds a text once: a question, its twin and fewer scored candidates share most sentences."""

    def __init__(self, encoder: Encoder, path: Path | None) -> None:
        self._encoder = encoder
        self._path = path
        self._known: dict[str, Float32] = pickle.loads(path.read_bytes()) if path and path.is_file() else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, texts: Sequence[str]) -> Float32:
        """(n, d) float32 unit rows."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def save(self) -> None:
        """For the next run."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(pickle.dumps(self._known))


def cached(path: Path | None, make: Callable[[], list[Probe]]) -> list[Probe]:
    """What `path` holds, else what `make` gives, kept there: a run that was cut short goes on where it was."""
    if path is not None and path.is_file():
        kept: list[Probe] = pickle.loads(path.read_bytes())
        return kept
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(found))
    return found


async def probes_of(encoder: Encoder, score: Score, folder: Path, split: str, limit: int, others: int) -> list[Probe]:
    asked = read_questions(folder, split, limit)
    index = MemoryIndex(encoder, read_documents(folder, (doc for one in asked for doc in one.gold), others))
    began = time.perf_counter()
    found = [await probe(index, encoder, score, one, DEPTH, twin=twin) for one in asked for twin in (False, True)]
    said = f"{folder.name} {split}: {len(asked)} questions, {time.perf_counter() - began:.0f} s"
    print(said, file=sys.stderr, flush=True)
    return found


def calibration_of(probes: Sequence[Probe]) -> tuple[Calibration, float, str]:
    """The pooled profile's calibration and β, else what these questions teach."""
    known = pooled()
    if known.source != "neutral" and known.blend > 0:
        return known.calibration["large"], known.blend, "pooled"
    logits = np.concatenate([one.logits for one in probes])
    return fit_calibration(logits, np.concatenate([one.relevant for one in probes])), BLEND, "fitted here"


def table_of(
    probes: Sequence[Probe], encoder: Encoder, calibration: Calibration, blend: float, scored: Sequence[int]
) -> Table:
    rows, labels, owners = [], [], []
    for number, one in enumerate(probes):
        for count in scored:
            row = row_of(one, encoder, calibration, blend, count)
            if row is not None:
                rows.append(row)
                labels.append(not one.twin)
                owners.append(number // 2)
    return Table(np.stack(rows), np.array(labels, np.float32), np.array(owners, np.float32))


def measured(table: Table, weights: Float32, bias: float) -> dict[str, float]:
    score = table.rows[:, : len(weights)] @ weights + bias
    sure, unsure = score[table.labels == 1].tolist(), score[table.labels == 0].tolist()
    return {"auroc": round(auroc(sure, unsure), 3), "false_accepts": round(false_accepts(sure, unsure), 3)}


def printed(weights: Float32, bias: float, threshold: float) -> None:
    print("RERANKED = {")
    print(f'    "bias": {bias:.4g},')
    for name, value in zip(RERANKED_FEATURES, weights.tolist(), strict=True):
        print(f'    "{name}": {value:.4g},')
    print("}")
    told = f"refuses at most {REFUSED:.0%} of answerable questions, at {CONFIDENCE:.0%} confidence"
    print(f"RERANKED_BELOW = {threshold:.4f}  # {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--large", default="builtin-large")
    parser.add_argument("--fit", type=int, default=150, help="questions of each training set")
    parser.add_argument("--limit", type=int, default=100, help="questions of each held-out set")
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--cache", type=Path, help="folder of scored questions, by set; of one model only")
    parser.add_argument("--cache-dir", default=str(Path.home() / ".cache" / "fathom"))
    options = parser.parse_args()
    known = Remembering(
        load_encoder("builtin", cache_dir=options.cache_dir),
        options.cache / "vectors.pickle" if options.cache else None,
    )
    encoder = cast(Encoder, known)
    score = scorer_of(options.large, options.cache_dir)

    def read(sets: Sequence[tuple[str, str]], limit: int) -> list[list[Probe]]:
        def made(name: str, split: str) -> list[Probe]:
            return asyncio.run(probes_of(encoder, score, options.data / name, split, limit, options.others))

        def path(name: str, split: str) -> Path | None:
            return options.cache / f"{name}-{split}-{limit}.pickle" if options.cache else None

        found = []
        for name, split in sets:
            found.append(cached(path(name, split), partial(made, name, split)))
            known.save()
        return found

    fitted = [one for part in read(FIT, options.fit) for one in part]
    held = list(zip(MEASURE, read(MEASURE, options.limit), strict=True))
    calibration, blend, origin = calibration_of(fitted)
    table = table_of(fitted, encoder, calibration, blend, SCORED)
    known.save()
    kept = table.owners % 5 != 0
    weights, bias = fit_logistic(table.rows[kept], table.labels[kept], PENALTY)
    old, old_bias = fit_logistic(table.rows[kept][:, : len(ABSTENTION_FEATURES)], table.labels[kept], PENALTY)
    unseen = table.rows[~kept & (table.labels == 1)]
    threshold = certified_threshold((1 / (1 + np.exp(-(unseen @ weights + bias)))).tolist(), REFUSED, CONFIDENCE)
    printed(weights, bias, threshold)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    print(json.dumps({"date": today, "calibration": origin, "blend": blend, "fitted": len(fitted) // 2}))
    for (name, split), probes in held:
        for scored in SCORED:
            rows = table_of(probes, encoder, calibration, blend, [scored])
            figures = {"reranked": measured(rows, weights, bias), "same_without_scores": measured(rows, old, old_bias)}
            print(json.dumps({"set": f"{name}:{split}", "scored": scored, "questions": len(probes) // 2, **figures}))
    known.save()


if __name__ == "__main__":
    main()
