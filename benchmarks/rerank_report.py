"""The page docs/results/reranking.md of a comparison's figures. Pure but for the date."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.rerank_figures import Validity
from services.contracts import CrossEncoderFacts
from services.reranking.facts import Role
from services.reranking.profile import neutral

PLAIN = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
Point = tuple[float, float, float]  # GFLOP, nDCG@10, pairs


@dataclass(frozen=True)
class SetRow:
    """One set: nDCG@10 of the first stage, both models at depth 100, and the adaptive policy at its price."""

    name: str
    questions: int
    blend: float
    first: float
    small: float
    large: float
    adaptive: float
    pairs: float
    ece: float


@dataclass(frozen=True)
class Report:
    """`curve` (price, GFLOP, nDCG@10, pairs, PSEQ); `overhead` p50 and p95 in ms of CPU; `points` by policy.

    `plain` nDCG@10 by set of w·σ(large logit) + (1 − w)·fused at depth 100, for PLAIN.
    """

    rows: Sequence[SetRow]
    points: Mapping[str, Point]
    curve: Sequence[tuple[float, float, float, float, float]]
    saving: float
    interval: tuple[float, float]
    validity: Sequence[Validity]
    overhead: tuple[float, float]
    prices: tuple[float, ...]
    plain: Mapping[str, Sequence[float]]


def text_of(report: Report, models: Mapping[Role, CrossEncoderFacts], image: str) -> str:
    """Markdown."""
    named = ", ".join(f"{role} `{one.name}` {one.dtype}" for role, one in sorted(models.items()))
    return "\n".join(
        [
            "# Adaptive reranking against fixed depths",
            "",
            "`make bench-rerank DATA=FOLDER` "
            f"({sum(row.questions for row in report.rows)} questions, {datetime.now(UTC):%Y-%m-%d}; {named}). "
            "Every set is measured with what was learned on the others, at a price that other questions chose; means "
            "weigh every set alike. Cost is GFLOP of the pairs really scored, cold cache. nDCG@10 by documents.",
            "",
            f"![nDCG@10 against cost]({image})",
            "",
            *_goals(report),
            *_reading(report),
            "",
            "## By set",
            "",
            *_sets(report.rows),
            "",
            "## Without calibration",
            "",
            "w·σ(logit of the large) + (1 − w)·fused at depth 100: what a profile that nothing was learned of does; "
            f"services/reranking/profile.py's has w = {neutral().blend:g}.",
            "",
            *_plain(report),
            "",
            "## Policies",
            "",
            "Gates and the router are held to the adaptive policy's mean cost. Unscored candidates keep (1 − β)·fused"
            " in fixed policies; the adaptive one gives them their expected p.",
            "",
            *_policies(report.points),
            "",
            "## The adaptive policy by price",
            "",
            *_curve(report),
            "",
        ]
    )


def _goals(report: Report) -> list[str]:
    full, mine = report.points["large@100"], report.points["adaptive"]
    losses = {row.name: row.adaptive - row.large for row in report.rows}
    worst, under = min(losses, key=lambda name: losses[name]), min(row.adaptive - row.first for row in report.rows)
    fewer = full[2] / mine[2] if mine[2] else float("inf")
    lines = [
        "| goal | reached |",
        "|---|---|",
        f"| ≥ 4× fewer pairs than depth 100 at ΔnDCG@10 ≥ −.003, worst set ≥ −.010 | {fewer:.1f}× fewer, "
        f"Δ {mine[1] - full[1]:+.4f}, worst {worst} {losses[worst]:+.4f} |",
        f"| PSEQ ≥ 30 % | {_saving(report)} |",
        f"| ≥ 20 % of the oracle's gap | {_gap(report.points):.0%} |",
        f"| never more than .002 below the first stage | smallest gain of a set {under:+.4f} |",
        f"| ECE ≤ .03 per set | largest {max(row.ece for row in report.rows):.3f} |",
        f"| decision overhead p95 ≤ 3 ms | p50 {report.overhead[0]:.2f}, p95 {report.overhead[1]:.2f} ms of CPU |",
    ]
    return lines + [
        f"| certified α = {one.alpha:g}: violations ≤ 10 % | {one.violations:.1%} of 200 splits; mean certified λ "
        f"{one.price:.2g}, test loss {one.risk:.4f}, {one.kept:.0%} of the full rerank's cost |"
        for one in report.validity
    ]


def _saving(report: Report) -> str:
    """Without a policy that beats the first stage nothing can be saved, and no share of it either."""
    if math.isnan(report.saving):
        return "undefined: the first stage alone, which costs nothing, is as good as the adaptive policy"
    low, high = report.interval
    return f"{report.saving:.0%}, 95 % interval {low:.0%} … {high:.0%}"


def _reading(report: Report) -> list[str]:
    """What the figures amount to, when the models are the limit."""
    points = {name: point[1] for name, point in report.points.items() if "oracle" not in name and name != "adaptive"}
    best = max(points, key=lambda name: points[name])
    gain = points[best] - points["large@0"]
    if gain > 0.01:
        return []
    return [
        "",
        f"**These models are the limit.** The best fixed policy ({best}) changes the first stage's nDCG@10 by "
        f"{gain:+.4f} on sets that they were not calibrated on, an oracle of depths by "
        f"{report.points['oracle (depth of the large)'][1] - points['large@0']:+.4f}. Where β is 0 no pair can change "
        "an order, and every price above 0 asks for none. Savings can be judged once a model gains something.",
    ]


def _gap(points: Mapping[str, Point]) -> float:
    """Of the quality that an oracle of depths has over the best fixed depth of the large model."""
    best = max(point[1] for name, point in points.items() if name.startswith("large@"))
    gap = points["oracle (depth of the large)"][1] - best
    return (points["adaptive"][1] - best) / gap if gap > 0 else 0.0


def _sets(rows: Sequence[SetRow]) -> list[str]:
    head = "| set | questions | β | first stage | small@100 | large@100 | gain | adaptive | Δ large@100 | pairs | ECE |"
    lines = [
        f"| {row.name} | {row.questions} | {row.blend:.2f} | {row.first:.4f} | {row.small:.4f} | {row.large:.4f} "
        f"| {row.large - row.first:+.4f} | {row.adaptive:.4f} | {row.adaptive - row.large:+.4f} | {row.pairs:.1f} "
        f"| {row.ece:.3f} |"
        for row in rows
    ]
    return [head, "|" + "---|" * 11, *lines]


def _plain(report: Report) -> list[str]:
    head = ["| set | " + " | ".join(f"w = {weight:g}" for weight in PLAIN) + " |", "|" + "---|" * (1 + len(PLAIN))]
    means = [sum(column) / len(column) for column in zip(*report.plain.values(), strict=True)]
    rows = {**report.plain, "mean": means}
    return head + [f"| {name} | " + " | ".join(f"{value:.4f}" for value in row) + " |" for name, row in rows.items()]


def _policies(points: Mapping[str, Point]) -> list[str]:
    lines = [
        f"| {name} | {cost:.1f} | {pairs:.1f} | {quality:.4f} |" for name, (cost, quality, pairs) in points.items()
    ]
    return ["| policy | GFLOP | pairs | nDCG@10 |", "|---|---|---|---|", *lines]


def _curve(report: Report) -> list[str]:
    chosen = " and ".join(f"{price:.2g}" for price in report.prices)
    lines = [
        f"| {price:.3g} | {cost:.1f} | {pairs:.1f} | {quality:.4f} | {saving:+.0%} |"
        for price, cost, quality, pairs, saving in report.curve
    ]
    head = ["| λ | GFLOP | pairs | nDCG@10 | PSEQ |", "|---|---|---|---|---|"]
    return [f"Chosen for either half of the questions on the other: {chosen}.", "", *head, *lines]
