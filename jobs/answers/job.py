"""Answers a file of questions: what is left of it is asked, answers are kept as they come, a run in MLflow tells of it.

    questions − those that have an answer → ask (pipeline.py, or any `Ask`) → AnswerFile → figures → MLflow

A question that fails is counted and told, and asked again by the next run of the same command. MLflow gets ids,
digests and figures; the texts stay in the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from matplotlib.figure import Figure

from jobs.answers.output import AnswerFile
from jobs.evaluation.datasets import read_jsonl
from jobs.tracking import Run, run
from services.generation.prompt import version_of
from services.settings import Settings
from tenants.corpus.release import pinned
from tenants.errors import InvalidInput
from tenants.scope import TenantScope

EXPERIMENT = "fathom/answers"
TOLD_ERRORS = 20
STAGE = "answer"


@dataclass(frozen=True, slots=True)
class Ask:
    """How to answer: `generator` as in the contract, at most `max_tokens` tokens each."""

    generator: str | None = None
    rerank: str = "auto"
    max_tokens: int | None = None


Row = Mapping[str, Any]  # {"_id", "answer": Answer as JSON} or {"_id", "error": {"code", "detail"}}
Answering = Callable[[Sequence[tuple[str, str]], TenantScope, Settings, Ask], Iterator[Row]]
Show = Callable[[str, int, int], None]


def answer_file(
    questions: Path,
    out: Path,
    scope: TenantScope,
    settings: Settings,
    ask: Ask,
    answering: Answering,
    show: Show = lambda *_: None,
) -> dict[str, Any]:
    """The report. Raises `InvalidInput` for bad files and for a tenant without an index; a kill loses no answer."""
    asked = read_questions(questions)
    scope = pinned(scope)
    if scope.release is None:
        raise InvalidInput("the tenant has no published index; index documents first")
    digest = blake3("\n".join(f"{name}\t{text}" for name, text in asked).encode()).hexdigest()[:32]
    params = {
        "tenant": scope.uid,
        "index_version": scope.release.version,
        "questions": len(asked),
        "questions_digest": digest,
        "generator": ask.generator or "the tenant's",
        "rerank": ask.rerank,
        "prompt": version_of(scope.config.answer.instructions),
    }
    with AnswerFile(out) as kept, run(settings, EXPERIMENT, params) as tracked:
        digests = {name: _digest(text, ask) for name, text in asked}
        left = [one for one in asked if not _stands(one[0], digests, kept, out)]
        found = _keep(answering(left, scope, settings, ask), kept, digests, show)
        report = {"out": str(out), "questions": len(asked), "earlier": len(asked) - len(left), **found}
        _log(tracked, report)
        return {name: value for name, value in report.items() if name != "seconds_each"} | {
            "run_id": tracked.wait_for_id()
        }


def _digest(text: str, ask: Ask) -> str:
    """Of what is asked and how: an answer to something else is not taken for it."""
    return blake3(json.dumps([text, *astuple(ask)]).encode()).hexdigest()[:16]


def _stands(name: str, digests: Mapping[str, str], kept: AnswerFile, out: Path) -> bool:
    found = kept.done.get(name)
    if found not in (None, digests[name]):
        raise InvalidInput(f"{out} answers another question {name}, or was asked for otherwise; name another file")
    return found is not None


def read_questions(path: Path) -> list[tuple[str, str]]:
    """(id, text) of every line. Raises `InvalidInput` for an id that comes twice and for a file without a question."""
    asked = [(str(row["_id"]), str(row["text"])) for row in read_jsonl(path)]
    seen: set[str] = set()
    for name, _ in asked:
        if name in seen:
            raise InvalidInput(f"{path.name} has the question {name} twice; give every question an id of its own")
        seen.add(name)
    if not asked:
        raise InvalidInput(f"{path.name} has no question; one JSON object a line with _id and text")
    return asked


def sentence(report: Mapping[str, Any]) -> str:
    """What a person reads."""
    states = ", ".join(f"{count} {state}" for state, count in report["grounded"].items())
    again = f"; {report['failed']} failed, run the same command again" if report["failed"] else ""
    earlier = f" ({report['earlier']} stood already)" if report["earlier"] else ""
    return f"{report['answered']} answers in {report['seconds']:.1f} s{earlier}: {states}{again}; {report['out']}"


def _keep(rows: Iterator[Row], kept: AnswerFile, digests: Mapping[str, str], show: Show) -> dict[str, Any]:
    """Every answer into the file as it comes; the figures of this run."""
    began = time.monotonic()
    answers: list[Mapping[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for row in rows:
        if "error" in row:
            errors.append({"_id": row["_id"], **row["error"]})
        else:
            kept.append(row["_id"], digests[row["_id"]], row["answer"])
            answers.append(row["answer"])
        show(STAGE, len(kept.done) + len(errors), len(digests))
    states = [one["grounded"] for one in answers]
    return {
        "answered": len(answers),
        "failed": len(errors),
        "errors": errors[:TOLD_ERRORS],
        "grounded": {state: states.count(state) for state in ("full", "partial", "abstained")},
        "generators": _counts([one["generator"] for one in answers]),
        "degraded": _counts([word for one in answers for word in one["degraded"]]),
        "citations": sum(len(one["citations"]) for one in answers),
        "tokens": sum(one["usage"]["completion_tokens"] for one in answers),
        "seconds": round(time.monotonic() - began, 3),
        "seconds_each": [one["timings_ms"]["total"] / 1000 for one in answers],
    }


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}


def _log(tracked: Run, report: Mapping[str, Any]) -> None:
    figures = {name: report[name] for name in ("answered", "failed", "earlier", "citations", "tokens", "seconds")}
    each = report["seconds_each"]
    if each:
        p50, p95 = np.percentile(each, [50, 95])
        figures |= {"answer_p50_s": float(p50), "answer_p95_s": float(p95)}
        tracked.figure(_figure(report), "answers.png")
    tracked.metrics(figures | {f"grounded_{state}": count for state, count in report["grounded"].items()})
    kept = {name: value for name, value in report.items() if name not in ("seconds_each", "out", "errors")}
    tracked.document(kept, "answers.json")


def _figure(report: Mapping[str, Any]) -> Figure:
    """Two bars and a histogram: how the answers are grounded, and how long each took."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.bar(list(report["grounded"]), list(report["grounded"].values()), color="#3b6ea5")
    left.bar_label(bars)
    left.set(ylabel="answers", title="Grounded")
    right.hist(report["seconds_each"], bins=30, color="#3b6ea5")
    right.set(xlabel="seconds", ylabel="answers", title="Time to the whole answer")
    return figure
