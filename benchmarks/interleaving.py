"""Interleaving against an A/B test: how many questions until the better of two rankings of real corpora is known.

    python -m benchmarks.interleaving --data FOLDER [--data FOLDER ...] [--questions 250] [--documents 1500]
        [--repeats 400] [--cap 200000]

FOLDER is a labelled set. Prints one JSON document. Ranking a is the first stage, b a rival of it whose nDCG@10 differs
by about GAPS: another constant fusion weight, or the small cross-encoder on the best DEPTH passages with a blend β.

Users are made up. `position`: rank r is looked at with probability 1 / r, independently. `cascade`: ranks are looked at
in turn until the first click. What is looked at is clicked with probability .9 (relevant) or .1. A step is a question
drawn at random with replacement, so its outcome has the mean of the questions' exact distributions: a draft's first
ten places hang on at most five coins, and each of their 32 outcomes goes through `team_draft` and `credit`.

interleaving  mean credit against .5, as `analysis.compare_means` judges it, after every step from the 50th on;
              tuned for UNPLANNED steps as shipped, and for 1,000 (`planned_1000`)
ab            each step one arm, 50 : 50; `effects.effect` on `clicked` and on `first_click` (1 / rank of the first
              click, 0 without), tuned as `analysis.plan` would for a rise of 3 %
a row         the median and 90th percentile of the steps until it decides (null: more than --cap), the share decided,
              and decided wrong: against nDCG@10, and against its own expectation (`false`, what α = .05 bounds).
              `z_units`: what a z-test of 5 % that looks once needs for a power of .8
ratio         steps of A/B over steps of interleaving: medians as shipped, with `planned_1000`, and of `z_units`; where
              A/B's median is null --cap stands for it
same          A/A: a ranking against itself, and against itself with documents of equal relevance swapped, --same-cap
              steps; `false` is the share of runs that decided
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.evaluation.answers import Asked, read_documents, read_questions
from jobs.evaluation.memory_index import MemoryIndex
from jobs.evaluation.metrics import ndcg
from jobs.experiments.analysis import UNPLANNED
from jobs.experiments.effects import BURN_IN, effect
from jobs.experiments.power import planned_units
from jobs.experiments.sequences import asymptotic, tightest_at
from services.contracts import Candidates
from services.embedding.encoder import load_encoder
from services.experiments.interleaving import credit, team_draft
from services.reranking.cross_encoder import CrossEncoder, load_cross_encoder
from services.reranking.profile import neutral
from services.retrieval.fusion import FusionProfile, fuse
from services.retrieval.lexical import lexical

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Orders = list[list[str]]  # by question, documents best first
Decision = tuple[float, float]  # steps until it fell (inf: never), its direction (1: b is better)

TOP, DEPTH, ROUNDS = 10, 20, 5
ALPHA, POWER, MINIMUM_EFFECT = 0.05, 0.8, 0.03
GAPS = {"weight": (0.01, 0.02, 0.03), "rerank": (0.01, 0.03)}
LEAST, MOST = 0.004, 0.04
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]
BLENDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0)
REWARDS = {"first_click": np.array([0.0, *(1.0 / np.arange(1, TOP + 1))]), "clicked": np.array([0.0, *np.ones(TOP)])}
AB_UNITS, AB_REPEATS = 8_000_000, 40  # A/B repeats a row: as many as take so many units, at least so many
KINDS = ("decided", "false", "wrong")
NEED = 7.849  # (z_.975 + z_.8)²
EMPTY: Float64 = np.zeros(0)
NEVER: Decision = (math.inf, 0.0)


@dataclass(frozen=True)
class Judged:
    """One question and what was found."""

    asked: Asked
    candidates: Candidates

    def order(self, rows: npt.NDArray[Any]) -> list[str]:
        """Documents by their best passage."""
        return list(dict.fromkeys(self.candidates.passages[row].document_id for row in rows.tolist()))

    def relevant(self, order: Iterable[str]) -> Bool:
        """(n,) of documents."""
        return np.array([name in self.asked.gold for name in order])


@dataclass(frozen=True)
class Task:
    """One row. credit (3,): P(0, .5, 1); first (2, 11): by ranking, P(no click, first click at rank 1 … 10)."""

    about: dict[str, Any]
    credit: Float64
    first: Float64
    sign: float
    repeats: int
    cap: int
    seed: int


def fused(judged: Sequence[Judged], profile: FusionProfile) -> Orders:
    return [one.order(fuse(one.candidates, "hybrid", profile).order) for one in judged]


def reranked(judged: Sequence[Judged], logits: Sequence[Float64], blend: float) -> Orders:
    """The best DEPTH of the first stage get β · opinion + (1 − β) · fused, the others (1 − β) · fused."""
    found = []
    for one, said in zip(judged, logits, strict=True):
        fusion = fuse(one.candidates, "hybrid", FusionProfile())
        score = (1 - blend) * fusion.score.astype(np.float64)
        score[fusion.order[: len(said)]] += blend * neutral().calibration["small"].opinion(said)
        found.append(one.order(np.lexsort((fusion.rank, -score))))
    return found


def opinions(model: CrossEncoder, judged: Sequence[Judged]) -> list[Float64]:
    """By question, (DEPTH,) logits of the best passages of the first stage."""
    found = []
    for one in judged:
        best = fuse(one.candidates, "hybrid", FusionProfile()).order[:DEPTH]
        passages = [one.candidates.passages[row] for row in best]
        texts = [lexical(some.title, some.heading, some.text) for some in passages]
        words, *others = model.tokenizer.ids([one.asked.text, *texts])
        found.append(model.score([(words, other) for other in others]).astype(np.float64))
    return found


def coins() -> list[int]:
    """One seed of `team_draft` for each outcome of its first five coins."""
    heads = [np.random.default_rng(seed).random(ROUNDS) < 0.5 for seed in range(1_000)]
    _, first = np.unique(np.array(heads), axis=0, return_index=True)
    return [int(seed) for seed in first]


def drafts(judged: Sequence[Judged], a: Orders, b: Orders) -> tuple[Bool, Float64]:
    """(q · 32, 10): whether the document is relevant; whom a click on it counts for, 1 b, −1 a, 0 neither."""
    relevant, gains = [], []
    seeds = coins()
    for one, first, second in zip(judged, a, b, strict=True):
        # Ten places take no more than the first ten of either order.
        number = {name: place for place, name in enumerate(dict.fromkeys(first[:TOP] + second[:TOP]))}
        left, right = ([number[name] for name in order if name in number] for order in (first, second))
        liked = one.relevant(number)
        for seed in seeds:
            draft = team_draft(left, right, seed)
            relevant.append(liked[list(draft.order[:TOP])])
            gains.append([2 * credit(draft.teams, [place]) - 1 for place in range(TOP)])
    return np.array(relevant), np.array(gains)


def clicks(relevant: Bool, model: str) -> Float64:
    """P(click | every earlier rank was passed), of `relevant`'s shape (…, 10)."""
    liked = np.where(relevant, 0.9, 0.1)
    return liked / np.arange(1, TOP + 1) if model == "position" else liked


def first_clicks(relevant: Bool, model: str) -> Float64:
    """(n, 11) of `relevant` (n, 10): P(no click), then P(the first click is at rank 1 … 10)."""
    click = clicks(relevant, model)
    passed = np.cumprod(1 - click, axis=1)
    before = np.concatenate([np.ones((len(click), 1)), passed[:, :-1]], axis=1)
    return np.concatenate([passed[:, -1:], before * click], axis=1)


def credits_of(relevant: Bool, gains: Float64, model: str) -> Float64:
    """(3,): P(credit 0, .5, 1) over all drafts; a credit is the sign of the gains of what was clicked."""
    if model == "cascade":
        first = first_clicks(relevant, model)[:, 1:]
        lost, won = ((first * (gains == way)).sum(axis=1).mean() for way in (-1, 1))
        return np.array([lost, 1 - lost - won, won])
    click = clicks(relevant, model)
    balance = np.zeros((len(click), 2 * TOP + 3))  # P(sum of the gains so far = column − TOP − 1)
    balance[:, TOP + 1] = 1.0
    for place in range(TOP):
        up, down = np.roll(balance, 1, axis=1), np.roll(balance, -1, axis=1)
        gain, chance = gains[:, place, None], click[:, place, None]
        moved = np.where(gain > 0, up, np.where(gain < 0, down, balance))
        balance = (1 - chance) * balance + chance * moved
    mean = balance.mean(axis=0)
    return np.array([mean[: TOP + 1].sum(), mean[TOP + 1], mean[TOP + 2 :].sum()])


def swapped(judged: Sequence[Judged], orders: Orders) -> Orders:
    """Among the first ten, documents of equal relevance change places in pairs."""
    chance, found = np.random.default_rng(7), []
    for one, order in zip(judged, orders, strict=True):
        changed = list(order)
        for kind in (True, False):
            places = chance.permutation(np.flatnonzero(one.relevant(order[:TOP]) == kind))
            for x, y in zip(places[::2], places[1::2], strict=False):
                changed[x], changed[y] = changed[y], changed[x]
        found.append(changed)
    return found


def tasks(judged: Sequence[Judged], a: Orders, b: Orders, task: Task) -> Iterator[Task]:
    """A pair's rows, one a click model."""
    relevant, gains = drafts(judged, a, b)
    sides = [np.stack([one.relevant(order[:TOP]) for one, order in zip(judged, some, strict=True)]) for some in (a, b)]
    for seed, model in enumerate(("position", "cascade"), 2 * task.seed):
        first = np.stack([first_clicks(side, model).mean(axis=0) for side in sides])
        about = {**task.about, "clicks": model}
        yield replace(task, about=about, credit=credits_of(relevant, gains, model), first=first, seed=seed)


def mean_ndcg(judged: Sequence[Judged], orders: Orders) -> float:
    grades = [dict.fromkeys(one.asked.gold, 1) for one in judged]
    return float(np.mean([ndcg(order, grade, TOP) for order, grade in zip(orders, grades, strict=True)]))


def pairs(judged: Sequence[Judged], base: Orders, logits: Sequence[Float64]) -> dict[str, Orders]:
    """What the first stage is compared with, by name."""
    families = {
        "weight": {f"weight {one}": fused(judged, FusionProfile(constant=one)) for one in WEIGHTS},
        "rerank": {f"rerank β {one}": reranked(judged, logits, one) for one in BLENDS},
    }
    found = {"itself": base, "itself, equals swapped": swapped(judged, base)}
    for family, made in families.items():
        away = {name: abs(mean_ndcg(judged, orders) - mean_ndcg(judged, base)) for name, orders in made.items()}
        for gap in GAPS[family]:
            left = [name for name, value in away.items() if LEAST <= value <= MOST and name not in found]
            if left:
                name = min(left, key=lambda name: abs(away[name] - gap))
                found[name] = made[name]
    return found


def of_set(folder: Path, options: argparse.Namespace, seed: int) -> Iterator[Task]:
    """All rows of one labelled set."""
    split = "dev" if (folder / "qrels" / "dev.tsv").exists() else "test"
    asked = read_questions(folder, split, options.questions)
    documents = read_documents(folder, (doc for one in asked for doc in one.gold), options.documents)
    cache = str(Path.home() / ".cache" / "fathom")
    index = MemoryIndex(load_encoder("builtin", cache_dir=cache), documents)
    vectors = index.encode_queries([one.text for one in asked])
    judged = [Judged(one, index.candidates(one.text, row)) for one, row in zip(asked, vectors, strict=True)]
    logits = opinions(load_cross_encoder("builtin-small", cache_dir=cache), judged)
    base = fused(judged, FusionProfile())
    level = mean_ndcg(judged, base)
    facts = {"set": folder.name, "questions": len(judged), "documents": len(documents), "ndcg_a": round(level, 4)}
    for place, (name, orders) in enumerate(pairs(judged, base, logits).items()):
        gap = round(mean_ndcg(judged, orders) - level, 9)
        moved = np.mean([x[:TOP] != y[:TOP] for x, y in zip(base, orders, strict=True)])
        about = {**facts, "b": name, "ndcg_difference": round(gap, 4), "questions_changed": round(float(moved), 3)}
        cap = options.cap if gap else options.same_cap
        task = Task(about, EMPTY, EMPTY, float(np.sign(gap)), options.repeats, cap, 1_000 * seed + place)
        yield from tasks(judged, base, orders, task)


def credited(task: Task) -> dict[str, Any]:
    """Interleaving, `repeats` times."""
    values = np.array([0.0, 0.5, 1.0])
    mean = float(task.credit @ values)
    once = z_units(mean - 0.5, float(task.credit @ (values - mean) ** 2))

    def told(planned: int) -> dict[str, Any]:
        looks = [partial(_credited, task, repeat, planned) for repeat in range(task.repeats)]
        return summary([_until(look, once, task.cap) for look in looks], task, mean - 0.5)

    return {"expected": round(mean, 5), "z_units": _whole(once), **told(UNPLANNED), "planned_1000": told(1_000)}


def _credited(task: Task, repeat: int, planned: int, size: int) -> Decision:
    drawn = np.random.default_rng([task.seed, 1, repeat]).random(size)
    credits_so_far = np.searchsorted(np.cumsum(task.credit)[:2], drawn, side="right") / 2
    lower, upper = asymptotic(credits_so_far, ALPHA, tightest_at(planned, ALPHA))
    out = np.flatnonzero((lower > 0.5) | (upper < 0.5))
    out = out[out >= BURN_IN - 1]
    return (float(out[0] + 1), 1.0 if lower[out[0]] > 0.5 else -1.0) if len(out) else NEVER


def _until(look: Callable[[int], Decision], guess: float, cap: int) -> Decision:
    """What `look` at so many steps says; the steps are doubled until it has decided."""
    size = int(min(cap, max(2_000, guess)))
    while (found := look(size)) == NEVER and size < cap:
        size = min(cap, 2 * size)
    return found


def split_in_arms(task: Task, metric: str) -> dict[str, Any]:
    """A/B by one metric."""
    reward = REWARDS[metric]
    means = task.first @ reward
    spreads = task.first @ reward**2 - means**2
    once = z_units(float(means[1] - means[0]), 2 * float(spreads.sum()))
    # All arms together, so that planning does not look at the difference.
    pooled, variance = float(means.mean()), float(spreads.mean() + means.var())
    planned = planned_units(pooled, math.sqrt(variance), MINIMUM_EFFECT, ALPHA, POWER, [0.5, 0.5])
    repeats = int(min(task.repeats, max(AB_REPEATS, AB_UNITS / min(max(once, 1), task.cap))))
    looks = [partial(_split, task, repeat, reward, planned) for repeat in range(repeats)]
    told = summary([_until(look, once, task.cap) for look in looks], task, float(means[1] - means[0]))
    return {"expected": [round(float(one), 5) for one in means], "planned": planned, "z_units": _whole(once), **told}


def _split(task: Task, repeat: int, reward: Float64, planned: int, size: int) -> Decision:
    treated = np.random.default_rng([task.seed, 2, repeat]).random(size) < 0.5
    drawn = np.random.default_rng([task.seed, 3, repeat]).random(size)
    first, second = (np.searchsorted(np.cumsum(side)[:-1], drawn, side="right") for side in task.first)
    value = reward[np.where(treated, second, first)]
    found = effect(treated.astype(np.int8), value, np.full(size, np.nan), np.array([0.5, 0.5]), ALPHA, planned)[0]
    if found.p > ALPHA:
        return NEVER
    series = found.series
    out = np.flatnonzero((np.array(series.lower) > 0) | (np.array(series.upper) < 0))
    place = int(out[0]) if len(out) else -1  # it may leave 0 only between two of the looks that a series shows
    return float(series.step[place]), float(np.sign(series.difference[place]))


def summary(found: Sequence[Decision], task: Task, expected: float) -> dict[str, Any]:
    """See `a row` in the module; without a true difference every decision is false."""
    steps, way = np.array(found).T
    decided = np.isfinite(steps)
    truth = float(np.sign(expected)) if abs(expected) > 1e-9 and task.sign else 0.0
    shares = {"decided": decided, "false": decided & (way != truth), "wrong": decided & (way != task.sign)}
    row = {"repeats": len(steps)} | {kind: round(float(mask.mean()), 4) for kind, mask in shares.items()}
    median, high = np.quantile(steps, [0.5, 0.9], method="higher")
    return row | {"median": _whole(median), "p90": _whole(high)}


def z_units(distance: float, variance: float) -> float:
    """Steps of a z-test that looks once; `variance` is that of the estimate times the steps."""
    return NEED * variance / distance**2 if abs(distance) > 1e-9 else math.inf


def trial(task: Task) -> dict[str, Any]:
    """One row of the document."""
    inter = credited(task)
    arms = {metric: split_in_arms(task, metric) for metric in REWARDS}
    row = {**task.about, "interleaving": inter, "ab": arms}
    if not task.sign:
        return row
    few = {"shipped": inter["median"], "planned_1000": inter["planned_1000"]["median"], "z_units": inter["z_units"]}
    row["ratio"] = {metric: {} for metric in arms}
    for metric, arm in arms.items():
        for kind, steps in few.items():
            many = arm["z_units"] if kind == "z_units" else arm["median"] or task.cap
            row["ratio"][metric][kind] = round(many / steps, 1) if many and steps else None
    return row


def totals(rows: Sequence[dict[str, Any]], same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all pairs, each weighing by its repeats."""
    found: dict[str, Any] = {}
    for metric in REWARDS:
        for kind in ("shipped", "planned_1000", "z_units"):
            times = [row["ratio"][metric][kind] for row in rows if row["ratio"][metric][kind] is not None]
            counts = {"rows": len(times), "at_least_10": sum(one >= 10 for one in times)}
            found[f"ratio_{metric}_{kind}"] = {**counts, "median": round(float(np.median(times or [0])), 1)}
    for name, group in (("pairs", rows), ("same", same)):
        methods = {"interleaving": [row["interleaving"] for row in group]}
        methods["planned_1000"] = [one["planned_1000"] for one in methods["interleaving"]]
        methods |= {metric: [row["ab"][metric] for row in group] for metric in REWARDS}
        for method, some in methods.items():
            runs = sum(one["repeats"] for one in some)
            shares = {kind: sum(one[kind] * one["repeats"] for one in some) / runs for kind in KINDS}
            found[f"{name}_{method}"] = {"runs": runs} | {kind: round(share, 4) for kind, share in shares.items()}
    return found


def _whole(value: float) -> int | None:
    return math.ceil(value) if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--questions", type=int, default=250)
    parser.add_argument("--documents", type=int, default=1_500, help="besides those that are relevant or near")
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--cap", type=int, default=200_000)
    parser.add_argument("--same-cap", type=int, default=20_000)
    options = parser.parse_args()
    started = time.perf_counter()
    made = [task for seed, folder in enumerate(options.data, 1) for task in of_set(folder, options, seed)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(trial, made))
    same = [row for row in rows if "ratio" not in row]
    rows = [row for row in rows if "ratio" in row]
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "seconds": round(time.perf_counter() - started, 1),
        "options": {name: value for name, value in vars(options).items() if isinstance(value, int)},
    }
    document = {**about, "totals": totals(rows, same), "pairs": rows, "same": same}
    print(json.dumps(document, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
