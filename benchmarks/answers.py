"""Figures of the extractive answerer on labelled sets, and on their unanswerable twins.

    python benchmarks/answers.py --data DIR [--limit 200] [--others 1000] [--sets squad_v1_train:heldout ...]

Each set's corpus is the relevant documents of the sampled questions, every document that shares a title with one
of them, and `--others` random ones; retrieval is exact (jobs/evaluation/memory_index.py). Questions whose relevant
document was not retrieved stay in every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.evaluation.answers import (
    Asked,
    auroc,
    containment,
    false_accepts,
    means,
    measuring_scope,
    read_documents,
    read_questions,
    token_f1,
)
from jobs.evaluation.memory_index import MemoryIndex
from services.contracts import AuditRecord, Caller, Question
from services.embedding.encoder import Encoder, load_encoder
from services.evidence.extract import ExtractiveAnswerer
from services.query import Steps, answer
from services.reranking.first_stage import FirstStage
from services.result import Answer
from tenants.scope import TenantScope

SETS = ("squad_v1_train:heldout", "pubmedqa:dev", "medquad:dev")


class Unrecorded:
    """Measuring leaves no audit: the questions are public and nobody was answered."""

    async def append(self, scope: TenantScope, record: AuditRecord) -> None:
        """Keeps nothing."""


@dataclass(frozen=True)
class Run:
    """One set under measurement."""

    index: MemoryIndex
    scope: TenantScope
    steps: Steps

    async def ask(self, asked: Asked, *, twin: bool) -> Answer:
        """Through the line; a twin's relevant documents are hidden."""
        self.index.without = asked.gold if twin else ()
        return await answer(Question(asked.text), self.scope, self.steps, Caller("benchmark", "none"))


async def measure(encoder: Encoder, folder: Path, split: str, limit: int, others: int) -> dict[str, Any]:
    """The figures of one set."""
    asked = read_questions(folder, split, limit)
    index = MemoryIndex(encoder, read_documents(folder, (doc for one in asked for doc in one.gold), others))
    scope = measuring_scope("builtin", encoder.dimension)
    run = Run(index, scope, Steps(index, FirstStage(), ExtractiveAnswerer(index), Unrecorded()))
    told = [await run.ask(one, twin=False) for one in asked]
    twins = [await run.ask(one, twin=True) for one in asked]
    figures = means([one_question(one, said) for one, said in zip(asked, told, strict=True)])
    sure, unsure = ([1 - (said.draft.abstain_score or 0) for said in answers] for answers in (told, twins))
    return {
        "questions": len(asked),
        "chunks": len(index.passages),
        **{name: round(value, 3) for name, value in figures.items()},
        "auroc": round(auroc(sure, unsure), 3),
        "false_accepts_at_90_recall": round(false_accepts(sure, unsure), 3),
        "twins_declined": round(statistics.fmean(said.draft.grounded == "abstained" for said in twins), 3),
        "answerer_ms_p50": round(statistics.median(said.search.timings_ms["answer"] for said in told), 1),
    }


def one_question(asked: Asked, said: Answer) -> dict[str, float | None]:
    """The figures of one answer; None where the set has no gold for it."""
    shown = [hit.passage for hit in said.search.results]
    first = said.draft.citations[0] if said.draft.citations else None
    text = re.sub(r"\s*\[\d+\]", "", said.draft.answer)
    gold = asked.answers[0] if asked.answers else None
    return {
        "gold_document_shown": float(any(one.document_id in asked.gold for one in shown)),
        "answer_in_evidence": None
        if gold is None
        else max((containment(one.text, gold) for one in shown), default=0.0),
        "containment": None if gold is None else containment(text, gold),
        "token_f1": None if gold is None else token_f1(text, gold),
        "cited_in_gold": None if first is None else float(first.document_id in asked.gold),
        "answered": float(first is not None),
        "sentences": float(len(said.draft.citations)),
        "verbatim": float(all(quoted(said, index) for index in range(len(said.draft.citations)))),
    }


def quoted(said: Answer, index: int) -> bool:
    """Whether a citation's quote is exactly what its chunk holds at its offsets."""
    cite = said.draft.citations[index]
    chunk = next(hit.passage for hit in said.search.results if hit.passage.chunk_id == cite.chunk_id)
    start = chunk.span.char_start
    return chunk.text[cite.char_start - start : cite.char_end - start] == cite.quote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--others", type=int, default=1_000)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--cache-dir", default=str(Path.home() / ".cache" / "fathom"))
    options = parser.parse_args()
    encoder = load_encoder("builtin", cache_dir=options.cache_dir)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine}))
    for name in options.sets:
        folder, split = name.split(":")
        figures = asyncio.run(measure(encoder, options.data / folder, split, options.limit, options.others))
        print(json.dumps({"set": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
