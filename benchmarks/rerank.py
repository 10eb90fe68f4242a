"""The whole table of reranking policies, by offline replay of logged full reranks, and the profile that ships.

    python -m benchmarks.rerank --cache FOLDER [--ship] [--output docs/results/reranking.md]

CACHE is what `benchmarks/rerank_collect.py` left. Every set is measured with what was learned on the *other* sets of
FITTED (their dev splits): predictor, calibration, β, worth, saturation. One price for all sets: for either half of the
questions it is the largest whose mean loss on the other half stays within SLACK, as a calibration on a sample would
choose it. Test splits (cranfield, vaswani_npl) only measure. --ship writes the profile of all of FITTED to
services/reranking/pooled.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.rerank_collect import SETS, logs, models_of
from benchmarks.rerank_figures import figure_of, joined_replays, macro, reweighted, validity
from benchmarks.rerank_policies import (
    Fitted,
    Outcome,
    frontier,
    gate,
    joined,
    oracle,
    router,
    saved,
    saved_interval,
    signals,
)
from benchmarks.rerank_report import PLAIN, Report, SetRow, text_of
from jobs.calibration.certifying import Replayed, replay
from jobs.calibration.fitting import full_order, learn
from jobs.calibration.logs import Logged
from services.reranking.calibration import Calibration, ece
from services.reranking.facts import Costs, Limits, Role
from services.reranking.policy import simulate
from services.reranking.profile import POOLED, PRICES, Profile, neutral

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FITTED = ("medquad", "vespa_docs", "cosqa", "pubmedqa")
SLACK = 0.002
GATED = ("large@20", "large@50", "large@100")
ARMS = ("large@0", "small@20", "large@20", "large@100")


@dataclass(frozen=True)
class Measured:
    """One set, with what was learned on the others."""

    name: str
    log: list[Logged]
    fitted: Fitted
    profile: Profile
    fixed: list[Outcome]
    replayed: Replayed

    def at(self, place: int) -> Outcome:
        """The adaptive policy at PRICES[place]."""
        found = self.replayed
        return Outcome("adaptive", found.quality[:, place], found.work[:, place], found.pairs[:, place])

    def named(self, name: str) -> Outcome:
        """One of the fixed policies."""
        return next(one for one in self.fixed if one.name == name)


def measure(name: str, all_logs: Mapping[str, list[Logged]], costs: Costs) -> Measured:
    """Learn on the other fitted sets, replay this one."""
    others = [one for other in FITTED if other != name for one in all_logs.get(other, [])]
    fitted, profile, log = Fitted.of(others), learn(others, neutral(), "pooled"), all_logs[name]
    return Measured(name, log, fitted, profile, frontier(log, fitted, costs), replay(log, profile, PRICES, costs))


def price_for(half: int, measured: Sequence[Measured]) -> int:
    """Place of the last price before the loss on the *other* half of the questions first leaves SLACK."""
    lost = [
        (one.replayed.full[:, None] - one.replayed.quality)[halves(one) != half].mean(0)
        for one in measured
        if one.name in FITTED
    ]
    beyond = np.flatnonzero(np.mean(lost, axis=0) > SLACK)
    return int(beyond[0]) - 1 if len(beyond) else len(PRICES) - 1


def halves(one: Measured) -> Int64:
    """(q,) 0 or 1, alternating: the questions were drawn at random."""
    return np.arange(len(one.log)) % 2


def chosen(one: Measured, places: Sequence[int]) -> Outcome:
    """The adaptive policy, each question at the price that the other half chose."""
    parts, half = [one.at(place) for place in places], halves(one)

    def pick(name: str) -> Float64:
        mixed: Float64 = np.where(half == 0, getattr(parts[0], name), getattr(parts[1], name))
        return mixed

    return Outcome("adaptive", pick("quality"), pick("cost"), pick("pairs"))


def compared(measured: Sequence[Measured], adaptive: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """{policy: its outcome by set}: fixed ones, gates and the router at the adaptive policy's cost, the oracle."""
    names = [one.name for one in measured[0].fixed]
    table = {name: [one.named(name) for one in measured] for name in names}
    budget = macro(adaptive)[0]
    for gated, given in signals([log for one in measured for log in one.log]).items():
        table[f"{gated} gate"] = max(
            (split(gate("", given, *pair(measured, full), budget), measured) for full in GATED),
            key=lambda parts: macro(parts)[1],
        )
    arms = [arm for arm in ARMS if arm in table]
    table["router (copy of 2606.25249)"] = [
        router(
            [(other.log, [other.named(arm) for arm in arms]) for other in measured if other.name != one.name],
            one.log,
            [one.named(arm) for arm in arms],
            float(mine.cost.mean()),
        )
        for one, mine in zip(measured, adaptive, strict=True)
    ]
    table["oracle (depth of the large)"] = [oracle(one.fixed[:7]) for one in measured]
    table["adaptive"] = list(adaptive)
    return table


def pair(measured: Sequence[Measured], full: str) -> tuple[Outcome, Outcome]:
    """Nothing and `full`, over all questions."""
    none = joined("none", [one.named("large@0") for one in measured])
    return none, joined(full, [one.named(full) for one in measured])


def split(outcome: Outcome, measured: Sequence[Measured]) -> list[Outcome]:
    """Back to the sets."""
    ends = np.cumsum([len(one.log) for one in measured])[:-1]
    parts = [np.split(values, ends) for values in (outcome.quality, outcome.cost, outcome.pairs)]
    return [Outcome(outcome.name, *some) for some in zip(*parts, strict=True)]


def overhead(measured: Sequence[Measured], place: int, costs: Costs) -> tuple[float, float]:
    """p50 and p95 milliseconds of CPU that the policy itself took for one question, all its decisions together."""
    spent = []
    for one in measured:
        for log in one.log:
            began = time.process_time()
            simulate(log.facts, log.logits, one.profile, PRICES[max(1, place)], costs, Limits())
            spent.append((time.process_time() - began) * 1000)
    p50, p95 = np.percentile(spent, [50, 95])
    return float(p50), float(p95)


def row_of(one: Measured, mine: Outcome) -> SetRow:
    """The set's line of the second table."""
    pairs = [(log.logits["large"], log.grades > 0) for log in one.log if log.grades is not None]
    logits, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
    kept = np.isfinite(logits)
    said = one.fitted.calibration["large"].probability(logits[kept])
    return SetRow(
        name=one.name,
        questions=len(one.log),
        blend=one.profile.blend,
        first=float(one.replayed.first.mean()),
        small=float(one.named("small@100").quality.mean()) if "small" in one.fitted.blend else float("nan"),
        large=float(one.replayed.full.mean()),
        adaptive=float(mine.quality.mean()),
        pairs=float(mine.pairs.mean()),
        ece=ece(said, labels[kept]),
    )


def report_of(measured: Sequence[Measured], costs: Costs) -> Report:
    """Everything that the page says."""
    places = [price_for(half, measured) for half in (0, 1)]
    adaptive = [chosen(one, places) for one in measured]
    table = compared(measured, adaptive)
    sizes = [len(one.log) for one in measured]
    groups = np.repeat(np.arange(len(sizes)), max(sizes))
    others = [reweighted(table[one.name], sizes) for one in measured[0].fixed]
    whole = reweighted(adaptive, sizes)
    curve = [reweighted([one.at(place) for one in measured], sizes) for place in range(len(PRICES))]
    pooled = joined_replays([one.replayed for one in measured])
    return Report(
        rows=[row_of(one, mine) for one, mine in zip(measured, adaptive, strict=True)],
        points={name: macro(parts) for name, parts in table.items()},
        curve=[(price, *macro([one.at(place) for one in measured]), saved(curve[place], others))
               for place, price in enumerate(PRICES)],
        saving=saved(whole, others),
        interval=saved_interval(whole, others, groups),
        validity=[validity(pooled, alpha) for alpha in (0.01, 0.02)],
        overhead=overhead(measured, places[0], costs),
        prices=tuple(PRICES[place] for place in places),
        plain={one.name: plain(one.log) for one in measured},
    )  # fmt: skip


def plain(log: Sequence[Logged]) -> list[float]:
    """nDCG@10 by PLAIN's weights of the uncalibrated large logit."""
    unfitted = Calibration()
    return [float(np.mean([one.quality(full_order(one, unfitted, weight)) for one in log])) for weight in PLAIN]


def draw(report: Report, path: Path) -> None:
    """Quality against cost."""
    points = report.points
    small = [name for name in points if name.startswith("small@") and "→" not in name]
    lines = {
        "large, fixed depths": [points[name][:2] for name in points if name.startswith("large@")],
        **({"small, fixed depths": [points["large@0"][:2], *(points[name][:2] for name in small)]} if small else {}),
        "adaptive, by price": [(cost, quality) for _, cost, quality, *_ in reversed(report.curve)],
    }  # fmt: skip
    singles = {name: points[name][:2] for name in points if "gate" in name or "router" in name or "oracle" in name}
    figure = figure_of(lines, singles | {"adaptive, chosen price": points["adaptive"][:2]})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def ship(all_logs: Mapping[str, list[Logged]], cache: Path) -> None:
    """The profile that a tenant without a calibration gets."""
    log = [one for name in FITTED for one in all_logs.get(name, [])]
    revisions = {role: one.revision for role, one in models_of(cache).items()}
    profile = replace(learn(log, neutral(), "pooled"), models=revisions)
    POOLED.write_text(json.dumps(profile.to_json(), indent=1) + "\n", "utf-8")


def _in_all(all_logs: Mapping[str, list[Logged]], role: Role) -> bool:
    return all(role in one.logits for log in all_logs.values() for one in log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/reranking.md"))
    args = parser.parse_args()
    all_logs = logs(args.cache, list(SETS))
    models = {role: one for role, one in models_of(args.cache).items() if _in_all(all_logs, role)}
    costs = Costs.work(models)
    measured = [measure(name, all_logs, costs) for name in all_logs]
    report = report_of(measured, costs)
    image = args.output.with_name("reranking.png")
    draw(report, image)
    args.output.write_text(text_of(report, models, image.name), encoding="utf-8")
    if args.ship:
        ship(all_logs, args.cache)
    print(json.dumps({"written": str(args.output), "pseq": report.saving, "interval": report.interval}))


if __name__ == "__main__":
    main()
