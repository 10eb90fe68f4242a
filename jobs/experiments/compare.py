"""Two variants of a tenant's configuration over the same labelled questions: which is better, at which cost.

Both sides are asked every question through the line that serves, at one index version, one after the other; which
side is first alternates, so that neither finds the machine warmer. paired.py says what the figures mean. Quality is
one family of claims (Holm's correction over it), the cost is reported beside it: what a gain is worth is a person's
decision.

The document of a comparison holds ids and figures, no text of a question, and is all that a page or a plot of it
needs: `page_of(document)` draws the one again from the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.evaluation.answering import Written
from jobs.evaluation.datasets import Dataset
from jobs.evaluation.pipeline import Asked, Plan, Unrecorded, ask, params_of, report_of, values_of
from jobs.experiments.paired import CONFIDENCE, corrected, paired
from jobs.experiments.report import (
    ArmLine,
    Change,
    Example,
    MetricLine,
    Plot,
    Report,
    changes_between,
    flattened,
    interval,
    number,
    p_value,
    render,
    signed,
)
from jobs.tracking import Run, run
from services.experiments.spec import overridden
from services.generation.prompt import version_of
from services.query import Steps
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.corpus.release import pinned
from tenants.errors import InvalidInput
from tenants.scope import TenantScope

EXPERIMENT = "fathom/ab/offline"
SIDES = ("a", "b")
EXAMPLES = 5
ALPHA = 1 - CONFIDENCE
_SEED = 0
_COSTS = {"pairs": "pairs a question", "latency_ms": "ms", "answer_ms": "ms to the answer", "tokens": "written tokens"}
_ONLY_ANSWERS = frozenset({"generator", "answer", "sources"})  # sections that a search without an answer never reads

Values = Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]]  # measure → (question → value) of A and of B


@dataclass(frozen=True, slots=True)
class Side:
    """What people call a variant, and what it lays over the tenant's configuration as it is served."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def compare(
    dataset: Dataset,
    scope: TenantScope,
    sides: tuple[Side, Side],
    steps: Steps,
    settings: Settings,
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The document of A against B, logged to MLflow as a run with one below it for each side.

    `scope.config` is what is served. The scorer behind `steps` must remember no logits: the second side would get for
    nothing what the first paid for. Raises `InvalidInput` for what cannot be compared.
    """
    scope, plan = pinned(scope), replace(plan, generators=(None,))  # who answers is part of a side
    dataset = replace(dataset, queries=dict(list(dataset.queries.items())[: plan.limit]))
    if not dataset.queries:
        raise InvalidInput("there is no judged question; check that both files speak of the same query ids")
    if scope.release is None:
        raise InvalidInput("the tenant has no published index; index documents first")
    scopes = {place: scope_of(scope, side) for place, side in zip(SIDES, sides, strict=True)}
    params = params_of(dataset, scope, plan, len(dataset.queries))
    with (
        run(settings, EXPERIMENT, params | {"a": sides[0].name, "b": sides[1].name}) as above,
        run(settings, EXPERIMENT, params | _own_params(scopes["a"], sides[0]), above) as first,
        run(settings, EXPERIMENT, params | _own_params(scopes["b"], sides[1]), above) as second,
    ):
        runs = {"a": first.wait_for_id(), "b": second.wait_for_id()}  # MLflow's start is in nobody's latency
        asked = asyncio.run(_ask_both(dataset, scopes, replace(steps, audit=Unrecorded()), plan, progress))
        document = document_of(asked, dataset, scope, scopes, sides, plan)
        document |= {"run_id": above.run_id, "runs": runs}
        _log(document, above, {"a": first, "b": second})
        return document


def document_of(
    asked: Mapping[str, Mapping[str, Asked]],
    dataset: Dataset,
    scope: TenantScope,
    scopes: Mapping[str, TenantScope],
    sides: tuple[Side, Side],
    plan: Plan,
) -> dict[str, Any]:
    """Everything that a comparison says; `asked` {side: {question: outcome}}."""
    quality, costs = _qualities(asked, dataset, plan), _costs(asked, plan)
    metrics = _lines(quality, "higher")
    holm = corrected({name: line["p"] for name, line in metrics.items()})
    metrics = {name: line | {"p_holm": round(holm[name], 6)} for name, line in metrics.items()}
    document: dict[str, Any] = {
        "compared_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tenant": scope.uid,
        "index_version": scope.index_version,
        "dataset": dataset.digest,
        "queries": len(dataset.queries),
        "metrics": metrics,
        "costs": _lines(costs, "lower"),
        "notes": _notes(asked, scopes, plan),
    }
    for place, side in zip(SIDES, sides, strict=True):
        changes = changes_between(scope.config, scopes[place].config)
        own = {"name": side.name, "changes": [asdict(change) for change in changes]}
        document[place] = own | report_of(asked[place], dataset, plan)
    per_query = {name: _side_by_side(values) for name, values in {**quality, **costs}.items()}
    gains, losses = _extremes(per_query[next(iter(metrics))])
    told = {"verdict": verdict(document), "gains": gains, "losses": losses, "per_query": per_query}
    return document | told


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """`winner` a, b or None, the `claim` and its `reason`: by quality alone, after Holm's correction over the metrics.

    A side that is better in one metric and worse in another has not won.
    """
    metrics = document["metrics"]
    shown = {name: line["difference"] for name, line in metrics.items() if line["p_holm"] <= ALPHA}
    better = ", ".join(name for name, difference in shown.items() if difference > 0)
    worse = ", ".join(name for name, difference in shown.items() if difference < 0)
    winner = None if bool(better) == bool(worse) else "b" if better else "a"
    if winner is not None:
        claim = f"{winner.upper()} ({document[winner]['name']}) is better in {better or worse}."
    elif better:
        claim = f"B ({document['b']['name']}) is better in {better} and worse in {worse}."
    elif any(line["wins"] + line["losses"] for line in metrics.values()):
        claim = f"No difference is shown with {document['queries']} questions."
    else:
        claim = "Both sides are equal in every metric on every question."
    name, line = next(iter(metrics.items()))
    reason = (
        f"{name}, B − A: {signed(line['difference'])} (95 % {interval(line['lower'], line['upper'])}), "
        f"p {p_value(line['p_holm'])} after Holm's correction over {len(metrics)} metrics. "
        f"{_costs_said(document['costs'])}"
    )
    return {"winner": winner, "claim": claim, "reason": reason}


def page_of(document: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> str:
    """The HTML page of a document; `texts` of questions by id, where whoever reads the page may see them."""
    known, sides = texts or {}, {place: document[place] for place in SIDES}
    facts = {
        "dataset": document["dataset"],
        "questions": str(document["queries"]),
        "index version": str(document["index_version"]),
        "MLflow run": document["run_id"],
    }
    claimed = {name for name, line in document["metrics"].items() if line["p_holm"] <= ALPHA}
    return render(
        Report(
            title=f"{sides['a']['name']} against {sides['b']['name']}",
            kind="offline comparison on labelled questions",
            generated_at=datetime.fromisoformat(document["compared_at"]),
            verdict=document["verdict"]["claim"],
            reason=document["verdict"]["reason"],
            arms=tuple(
                ArmLine(f"{place.upper()}: {side['name']}", tuple(Change(**change) for change in side["changes"]))
                for place, side in sides.items()
            ),
            tenants=(document["tenant"],),
            facts=tuple((what, value) for what, value in facts.items() if value is not None),
            metrics=tuple(
                _metric_line(name, line, "claimed" if name in claimed else "")
                for name, line in document["metrics"].items()
            ),
            costs=tuple(_metric_line(name, line) for name, line in document["costs"].items()),
            plots=(Plot("Differences", figure_of(document), _caption(document)),),
            examples=tuple(
                Example(one["query"], one["a"], one["b"], known.get(one["query"], ""))
                for one in (*document["gains"], *document["losses"])
            ),
            notes=(*document["notes"], "Each interval is of its metric alone; p is corrected over all metrics."),
        )
    )


def figure_of(document: Mapping[str, Any]) -> Figure:
    """Left the first metric's differences question by question, sorted; right every metric's interval."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    primary = next(iter(document["metrics"]))
    pairs = np.array(list(document["per_query"][primary].values()), np.float64)
    differences = np.sort(pairs[:, 1] - pairs[:, 0])
    colours = np.where(differences < 0, "#c17f2b", "#3b6ea5").tolist()
    left.bar(np.arange(1, len(differences) + 1), differences, width=1.0, color=colours)
    left.set(xlabel="questions, sorted", ylabel=f"{primary}: B − A", title="Question by question")
    _intervals(right, document["metrics"])
    return figure


def _intervals(axes: Axes, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    for place, line in enumerate(metrics.values()):
        if line["lower"] is not None:
            axes.plot([line["lower"], line["upper"]], [place, place], color="#3b6ea5", linewidth=2)
        axes.plot([line["difference"]], [place], "o", color="#3b6ea5")
    axes.axvline(0, color="#808080", linewidth=1)
    axes.set_yticks(range(len(metrics)), list(metrics))
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set(xlabel="B − A, 95 % interval", title="Metrics")


async def _ask_both(
    dataset: Dataset,
    scopes: Mapping[str, TenantScope],
    steps: Steps,
    plan: Plan,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Asked]]:
    """{side: {question: outcome}}; the very first question is asked once before it counts, for models load with it."""
    asked: dict[str, dict[str, Asked]] = {place: {} for place in SIDES}
    for place in SIDES:
        await ask(next(iter(dataset.queries)), scopes[place], steps, replace(plan, answers=False), dataset)
    for count, query in enumerate(dataset.queries, 1):
        for place in SIDES if count % 2 else reversed(SIDES):
            asked[place][query] = await ask(query, scopes[place], steps, plan, dataset)
        if progress is not None:
            progress(count, len(dataset.queries))
    return asked


def scope_of(scope: TenantScope, side: Side) -> TenantScope:
    """The scope that a side is asked with. Raises `InvalidInput` that names the side."""
    try:
        return replace(scope, config=overridden(scope.config, side.overrides))
    except InvalidInput as error:
        raise InvalidInput(f"{side.name}: {error.detail}", errors=error.errors) from None


def _own_params(scope: TenantScope, side: Side) -> dict[str, object]:
    own = {f"override.{key}": value for key, value in flattened(side.overrides).items()}
    return {"side": side.name, "prompt": version_of(scope.config.answer.instructions), **own}


def _qualities(asked: Mapping[str, Mapping[str, Asked]], dataset: Dataset, plan: Plan) -> Values:
    """Rank metrics, the first of them nDCG@k; with answers also what they are worth where both sides can be judged."""
    a, b = (values_of(asked[place], dataset, plan.k) for place in SIDES)
    found = {name: (a[name], b[name]) for name in a}
    if plan.answers:
        found |= {name: _figures(asked, dataset, name) for name in ("correct", "token_f1", "citation_precision")}
    return {name: values for name, values in found.items() if values[0]}


def _figures(
    asked: Mapping[str, Mapping[str, Asked]], dataset: Dataset, name: str
) -> tuple[dict[str, float], dict[str, float]]:
    """A figure of jobs/evaluation/answering.py, of the questions where both sides have it."""
    told = {
        place: {query: _figure(one.written[0], name, query in dataset.answers) for query, one in asked[place].items()}
        for place in SIDES
    }
    a, b = ({query: value for query, value in told[place].items() if value is not None} for place in SIDES)
    return {query: a[query] for query in a if query in b}, {query: b[query] for query in a if query in b}


def _figure(written: Written, name: str, has_gold: bool) -> float | None:
    if name == "token_f1":  # an abstention has no word of the gold answer
        return (written.figures.get(name) or 0.0) if has_gold else None
    return written.figures.get(name)


def _costs(asked: Mapping[str, Mapping[str, Asked]], plan: Plan) -> Values:
    """By the names of _COSTS."""
    read: dict[str, Callable[[Asked], float]] = {
        "pairs": lambda one: one.pairs,
        "latency_ms": lambda one: one.latency_ms,
    }
    if plan.answers:
        read |= {"answer_ms": lambda one: one.written[0].answer_ms, "tokens": lambda one: one.written[0].tokens}
    a, b = (asked[place] for place in SIDES)
    return {
        name: ({query: of(one) for query, one in a.items()}, {query: of(one) for query, one in b.items()})
        for name, of in read.items()
    }


def _lines(values: Values, better: Literal["higher", "lower"]) -> dict[str, dict[str, Any]]:
    """One document line a measure; a win is a question where B is better."""
    found = {}
    for name, (a, b) in values.items():
        rows = np.array([(a[query], b[query]) for query in a], np.float64)
        one = paired(rows[:, 0], rows[:, 1], _SEED)
        found[name] = {
            "a": round(one.mean_a, 6),
            "b": round(one.mean_b, 6),
            "difference": round(one.difference, 6),
            "lower": None if one.lower is None else round(one.lower, 6),
            "upper": None if one.upper is None else round(one.upper, 6),
            "p": round(one.p, 6),
            "n": one.n,
            "wins": one.wins if better == "higher" else one.losses,
            "losses": one.losses if better == "higher" else one.wins,
            "ties": one.ties,
            "better": better,
        }
    return found


def _side_by_side(values: tuple[Mapping[str, float], Mapping[str, float]]) -> dict[str, list[float]]:
    a, b = values
    return {query: [round(a[query], 6), round(b[query], 6)] for query in a}


def _extremes(pairs: Mapping[str, list[float]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """B's greatest wins and losses, greatest first."""
    rows: list[dict[str, Any]] = [
        {"query": query, "a": a, "b": b, "difference": round(b - a, 6)} for query, (a, b) in pairs.items() if a != b
    ]
    rows.sort(key=lambda row: -row["difference"])
    gains = [row for row in rows[:EXAMPLES] if row["difference"] > 0]
    return gains, [row for row in rows[: -EXAMPLES - 1 : -1] if row["difference"] < 0]


def _notes(asked: Mapping[str, Mapping[str, Asked]], scopes: Mapping[str, TenantScope], plan: Plan) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    notes = []
    a, b = (scopes[place].config for place in SIDES)
    parts = [name for name in TenantConfig.model_fields if getattr(a, name) != getattr(b, name)]
    if not parts:
        notes.append("Both sides have the same configuration.")
    elif not plan.answers and set(parts) <= _ONLY_ANSWERS:
        notes.append(f"The sides differ only in {' and '.join(parts)}, which only answers can show: add --answers.")
    if plan.rerank != "auto":
        notes.append(f"Every question was asked with rerank {plan.rerank}, whatever a side's own policy is.")
    for place in SIDES:
        lacks = Counter(name for one in asked[place].values() for name in one.degraded)
        told = [
            f"{place.upper()}: {count} of {len(asked[place])} questions had {name}." for name, count in lacks.items()
        ]
        notes += told
    return tuple(notes)


def _costs_said(costs: Mapping[str, Mapping[str, Any]]) -> str:
    told = [f"{number(line['a'])} and {number(line['b'])} {_COSTS[name]}" for name, line in costs.items()]
    return f"A and B cost {', '.join(told)}."


def _caption(document: Mapping[str, Any]) -> str:
    primary, line = next(iter(document["metrics"].items()))
    return f"by {primary} B wins {line['wins']} questions, A {line['losses']}, {line['ties']} are equal"


def _metric_line(name: str, line: Mapping[str, Any], state: str = "") -> MetricLine:
    span = line["lower"], line["upper"]
    p = line.get("p_holm", line["p"])
    return MetricLine(
        name, "B", line["a"], line["b"], line["difference"], *span, p, line["n"], line["better"], "", state
    )


def _log(document: Mapping[str, Any], above: Run, below: Mapping[str, Run]) -> None:
    for name, line in (document["metrics"] | document["costs"]).items():
        told = {key: line[key] for key in ("difference", "lower", "upper", "p", "p_holm") if line.get(key) is not None}
        above.metrics({f"{name.replace('@', '_at_')}_{key}": value for key, value in told.items()})
    above.document(document, "comparison.json")
    above.text(page_of(document), "report.html")
    above.figure(figure_of(document), "comparison.png")
    for place, one in below.items():
        report = document[place]
        one.tags({"mlflow.runName": f"{place.upper()} {report['name']}"})
        one.metrics({name.replace("@", "_at_"): value for name, value in report["metrics"].items()})
        one.metrics({f"latency_{name}_ms": value for name, value in report["latency_ms"].items()})
        one.metrics({"pairs_per_query": report["pairs_per_query"]})
