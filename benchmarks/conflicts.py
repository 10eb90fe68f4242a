"""Conflicts between passages: how often ordinary evidence is called contradictory, and how many planted ones are found.

    python -m benchmarks.conflicts --data DIR [--limit 200] [--others 1000] [--show 0] [--sets medquad:dev ...]

Evidence is what the line shows for a set's questions (exact retrieval, first stage). `alarms` is the share of questions
with at least one conflict; the sets hold few true contradictions, so nearly all are false, and `--show` prints some.
`planted`: the first cited sentence of an answer goes into a document of its own with one number changed, or with a
denial put in or taken out; `found` is the share of these for which a conflict names that document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.answers import Run
from jobs.evaluation.answers import measuring_scope, read_documents, read_questions
from jobs.evaluation.memory_index import MemoryIndex
from jobs.evaluation.pipeline import Unrecorded
from services.embedding.encoder import Encoder, load_encoder
from services.evidence.conflicts import conflicts
from services.evidence.extract import ExtractiveAnswerer
from services.query import Steps
from services.reranking.first_stage import FirstStage
from services.result import Answer

SETS = ("squad_v1_train:heldout", "medquad:dev", "pubmedqa:dev", "vespa_docs:dev")
_VERB = re.compile(r"\b(is|are|was|were|can|will|does|did|has|have|should|must|may)\b(?! not)")
_DENIED = re.compile(r"\b(is|are|was|were|can|will|does|did|has|have|should|must|may) not\b")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?![\w.-])")


async def measure(encoder: Encoder, folder: Path, split: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one set."""
    asked = read_questions(folder, split, options.limit)
    documents = read_documents(folder, (doc for one in asked for doc in one.gold), options.others)
    index = MemoryIndex(encoder, documents)
    scope = measuring_scope("builtin", encoder.dimension)
    run = Run(index, scope, Steps(index, FirstStage(), ExtractiveAnswerer(index), Unrecorded()))
    alarms = shown = 0
    planted: dict[str, list[bool]] = {"number": [], "denial": []}
    for one in asked:
        said = await run.ask(one, twin=False)
        passages = [hit.passage for hit in said.search.results]
        found = conflicts(one.text, passages, scope.config)
        alarms += bool(found)
        if found and shown < options.show:
            shown += 1
            units = [passages[pick.place].text[pick.start : pick.end] for pick in found[0].picks]
            sys.stderr.write(f"{one.text}\n  {found[0].note.about}\n  A {units[0]}\n  B {units[1]}\n")
        for kind, text in lies(said):
            liar = replace(passages[0], chunk_id="c_planted", document_id="planted", text=text)
            told = conflicts(one.text, [*passages, liar], scope.config)
            planted[kind].append(any("c_planted" in conflict.note.between for conflict in told))
    rates = {f"found_{kind}": round(sum(hits) / len(hits), 3) for kind, hits in planted.items() if hits}
    counts = {f"planted_{kind}": len(hits) for kind, hits in planted.items()}
    return {"questions": len(asked), "alarms": round(alarms / len(asked), 3), **counts, **rates}


def lies(said: Answer) -> Iterator[tuple[str, str]]:
    """The first cited sentence, changed."""
    if not said.draft.citations:
        return
    quote = said.draft.citations[0].quote
    if number := _NUMBER.search(quote):
        yield "number", quote[: number.start()] + str(int(number.group()) + 7) + quote[number.end() :]
    if denied := _DENIED.search(quote):
        yield "denial", quote[: denied.start()] + denied.group(1) + quote[denied.end() :]
    elif verb := _VERB.search(quote):
        yield "denial", f"{quote[: verb.end()]} not{quote[verb.end() :]}"


def main() -> None:
    """Measure and print, a line a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--others", type=int, default=1_000)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--cache-dir", default=str(Path.home() / ".cache" / "fathom"))
    options = parser.parse_args()
    encoder = load_encoder("builtin", cache_dir=options.cache_dir)
    for name in options.sets:
        folder, split = name.split(":")
        figures = asyncio.run(measure(encoder, options.data / folder, split, options))
        print(json.dumps({"set": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
