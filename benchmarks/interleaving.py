"""Interleaving against an A/B test: how many questions until the better of two rankings of real corpora is known.

    python -m benchmarks.interleaving --data FOLDER [--data FOLDER ...] [--questions 250] [--documents 1500]
        [--repeats 400] [--cap 400000] [--processes 2]

FOLDER is a labelled set. Prints one JSON document. Ranking a is the first stage, b a rival of it: another constant
fusion weight, or the small cross-encoder on the best DEPTH passages with some blend β; of a family those rivals are
taken whose nDCG@10 (of documents, relevant or not) differs from a's by about GAPS.

Users are made up. `position`: rank r is looked at with probability 1 / r, independently. `cascade`: ranks are looked at
in turn until the first click. What is looked at is clicked with probability .9 (relevant) or .1. A step is a question
drawn at random with replacement, so its outcome has the mean of the questions' exact distributions: a draft's first
ten places hang on at most five coins, and each of their 32 outcomes goes through `team_draft` and `credit`.

interleaving  mean credit against .5, as `jobs.experiments.analysis.compare_means` judges it, looked at after every step
              from the 50th on, tuned for `planned` steps: UNPLANNED as shipped (`planned_1000` the same credits, tuned
              for 1,000)
ab            each step one arm, 50 : 50; `jobs.experiments.effects.effect` on `clicked` and on `first_click` (1 / rank
              of the first click, 0 without), tuned as `analysis.plan` would for a rise of 3 %
units         a row has the median and the 90th percentile of the steps until it decides (null: more than --cap), the
              share decided, and the shares decided wrong: against nDCG@10, and against the method's own expectation
              (`false`; this is what α = .05 bounds). `expected` is that expectation, `z_units` what a two-sided z-test
              of 5 % that looks once needs for a power of .8
ratio         units of A/B over units of interleaving: of the medians (`at_least` where A/B's is the cap), of `z_units`
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
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
Orders = list[list[int]]  # by question, documents best first (numbers within the question)
Decision = tuple[float, float]  # steps until it fell (inf: never), its direction (1: b is better)

TOP, DEPTH, ROUNDS = 10, 20, 5
CLICKED = {True: 0.9, False: 0.1}
ALPHA, POWER, MINIMUM_EFFECT = 0.05, 0.8, 0.03
GAPS = {"weight": (0.005, 0.01, 0.02, 0.03), "rerank": (0.01, 0.03)}
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]
BLENDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0)
REWARDS = {
    "first_click": np.array([0.0, *(1.0 / np.arange(1, TOP + 1))]),
    "clicked": np.array([0.0, *np.ones(TOP)]),
}
AB_UNITS, AB_REPEATS = 20_000_000, 60  # A/B repeats a row: as many as take so many units, at least so many
FIRST_LOOK = 2_000


@dataclass(frozen=True)
class Judged:
    """One question: its candidates, their documents (n,) as numbers, and which of the documents are relevant (d,)."""

    candidates: Candidates
    documents: npt.NDArray[np.int64]
    relevant: Bool
    gold: int

    @classmethod
    def of(cls, asked: Asked, candidates: Candidates) -> Judged:
        names = [one.document_id for one in candidates.passages]
        numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
        relevant = np.array([name in asked.gold for name in numbers])
        return cls(candidates, np.array([numbers[name] for name in names]), relevant, len(set(asked.gold)))

    def order(self, rows: npt.NDArray[Any]) -> list[int]:
        """Documents by their best passage."""
        return list(dict.fromkeys(self.documents[rows].tolist()))

    def ndcg(self, order: Sequence[int]) -> float:
        """Relevant documents that were not found count."""
        grades = {str(one): 1 for one in np.flatnonzero(self.relevant)}
        lost = {f"lost {place}": 1 for place in range(self.gold - len(grades))}
        return ndcg([str(one) for one in order], grades | lost, TOP)


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


def weighted(judged: Sequence[Judged], profile: FusionProfile) -> Orders:
    """The first stage."""
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


def opinions(model: CrossEncoder, asked: Sequence[Asked], judged: Sequence[Judged]) -> list[Float64]:
    """By question, (DEPTH,) logits of the best passages of the first stage."""
    found = []
    for question, one in zip(asked, judged, strict=True):
        best = fuse(one.candidates, "hybrid", FusionProfile()).order[:DEPTH]
        texts = [
            lexical(some.title, some.heading, some.text) for some in (one.candidates.passages[row] for row in best)
        ]
        words, *passages = model.tokenizer.ids([question.text, *texts])
        found.append(model.score([(words, passage) for passage in passages]).astype(np.float64))
    return found


def rivals(mean: Callable[[Orders], float], base: float, made: dict[str, Orders], gaps: Sequence[float]) -> list[str]:
    """For each gap the rival whose mean differs from `base` by about that, each once."""
    distance = {name: abs(mean(orders) - base) for name, orders in made.items()}
    left = {name for name, value in distance.items() if value > 1e-6}
    chosen: list[str] = []
    for gap in gaps:
        if left:
            chosen.append(min(left, key=lambda name: (abs(distance[name] - gap), name)))
            left.discard(chosen[-1])
    return chosen


def coins() -> list[int]:
    """One seed of `team_draft` for each outcome of its first five coins."""
    found: dict[bytes, int] = {}
    seed = 0
    while len(found) < 2**ROUNDS:
        found.setdefault((np.random.default_rng(seed).random(ROUNDS) < 0.5).tobytes(), seed)
        seed += 1
    return list(found.values())


def drafts(judged: Sequence[Judged], a: Orders, b: Orders) -> tuple[Bool, Float64]:
    """(q · 32, 10): whether the document shown is relevant, and which way a click on it counts, 1 b, −1 a, 0 neither."""
    relevant, gains = [], []
    seeds = coins()
    for one, first, second in zip(judged, a, b, strict=True):
        # Ten places take no more than the first ten of either order.
        rows = set(first[:TOP]) | set(second[:TOP])
        left, right = ([row for row in order if row in rows] for order in (first, second))
        for seed in seeds:
            draft = team_draft(left, right, seed)
            relevant.append(one.relevant[list(draft.order[:TOP])])
            gains.append([2 * credit(draft.teams, [place]) - 1 for place in range(TOP)])
    return np.array(relevant), np.array(gains)


def clicks(relevant: Bool, model: str) -> Float64:
    """P(click | every earlier rank was passed), of `relevant`'s shape (…, 10)."""
    liked = np.where(relevant, CLICKED[True], CLICKED[False])
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


def shown(judged: Sequence[Judged], orders: Orders) -> Bool:
    """(q, 10): whether the documents at these ranks are relevant."""
    return np.array([one.relevant[order[:TOP]] for one, order in zip(judged, orders, strict=True)])


def swapped(judged: Sequence[Judged], orders: Orders) -> Orders:
    """Among the first ten, documents of equal relevance change places in pairs."""
    chance, found = np.random.default_rng(7), []
    for one, order in zip(judged, orders, strict=True):
        changed = list(order)
        for kind in (True, False):
            places = chance.permutation(np.flatnonzero(one.relevant[order[:TOP]] == kind)).tolist()
            for x, y in pairwise(places[: len(places) // 2 * 2]):
                if places.index(x) % 2 == 0:
                    changed[x], changed[y] = changed[y], changed[x]
        found.append(changed)
    return found


def tasks(judged: Sequence[Judged], about: dict[str, Any], a: Orders, b: Orders, task: Task) -> list[Task]:
    """A pair's rows, one a click model."""
    relevant, gains = drafts(judged, a, b)
    sides = [shown(judged, orders) for orders in (a, b)]
    found = []
    for place, model in enumerate(("position", "cascade")):
        first = np.stack([first_clicks(side, model).mean(axis=0) for side in sides])
        row = replace(task, about={**about, "clicks": model}, credit=credits_of(relevant, gains, model), first=first)
        found.append(replace(row, seed=task.seed + place))
    return found


def of_set(folder: Path, options: argparse.Namespace, seed: int) -> tuple[list[Task], list[Task]]:
    """(pairs that differ, A/A controls) of one labelled set."""
    split = "dev" if (folder / "qrels" / "dev.tsv").exists() else "test"
    asked = read_questions(folder, split, options.questions)
    documents = read_documents(folder, (doc for one in asked for doc in one.gold), options.documents)
    index = MemoryIndex(load_encoder("builtin", cache_dir=options.cache_dir, threads=options.processes), documents)
    vectors = index.encode_queries([one.text for one in asked])
    judged = [Judged.of(one, index.candidates(one.text, row)) for one, row in zip(asked, vectors, strict=True)]
    model = load_cross_encoder("builtin-small", cache_dir=options.cache_dir, threads=options.processes)
    logits = opinions(model, asked, judged)
    base = weighted(judged, FusionProfile())
    made = {
        "weight": {f"weight {one}": weighted(judged, FusionProfile(constant=one)) for one in WEIGHTS},
        "rerank": {f"rerank β {one}": reranked(judged, logits, one) for one in BLENDS},
    }

    def mean(orders: Orders) -> float:
        return float(np.mean([one.ndcg(order) for one, order in zip(judged, orders, strict=True)]))

    empty = Task({}, np.zeros(3), np.zeros((2, TOP + 1)), 0.0, options.repeats, options.cap, seed * 1_000)
    facts = {"set": folder.name, "questions": len(judged), "documents": len(documents), "ndcg_a": round(mean(base), 4)}
    different: list[Task] = []
    for family, gaps in GAPS.items():
        for name in rivals(mean, mean(base), made[family], gaps):
            orders = made[family][name]
            gap = mean(orders) - mean(base)
            moved = np.mean([x[:TOP] != y[:TOP] for x, y in zip(base, orders, strict=True)])
            about = {**facts, "b": name, "ndcg_difference": round(gap, 4), "questions_changed": round(float(moved), 3)}
            task = replace(empty, sign=float(np.sign(gap)), seed=empty.seed + 10 * len(different))
            different += tasks(judged, about, base, orders, task)
    control = replace(empty, cap=options.same_cap)
    same = tasks(judged, {**facts, "b": "itself"}, base, base, replace(control, seed=empty.seed + 500))
    return different, same + tasks(
        judged,
        {**facts, "b": "itself, equals swapped"},
        base,
        swapped(judged, base),
        replace(control, seed=empty.seed + 600),
    )


def credited(task: Task) -> dict[str, Any]:
    """Interleaving, `repeats` times."""
    values = np.array([0.0, 0.5, 1.0])
    mean = float(task.credit @ values)
    spread = float(task.credit @ (values - mean) ** 2)
    once = z_units(mean - 0.5, spread)
    found: dict[str, list[Decision]] = {"as_shipped": [], "planned_1000": []}
    for repeat in range(task.repeats):
        for name, planned in (("as_shipped", UNPLANNED), ("planned_1000", 1_000)):
            chance = np.random.default_rng([task.seed, 1, repeat])
            found[name].append(_credited(chance, task, planned, once))
    told = summary(found["as_shipped"], task, mean - 0.5)
    tuned = summary(found["planned_1000"], task, mean - 0.5)
    return {"expected": round(mean, 5), "z_units": _whole(once), **told, "planned_1000": tuned}


def _credited(chance: np.random.Generator, task: Task, planned: int, guess: float) -> Decision:
    credit_so_far, size = np.zeros(0), _start(guess, task.cap)
    edges = np.cumsum(task.credit)[:2]
    while True:
        drawn = np.searchsorted(edges, chance.random(size - len(credit_so_far)), side="right") / 2
        credit_so_far = np.concatenate([credit_so_far, drawn])
        lower, upper = asymptotic(credit_so_far, ALPHA, tightest_at(planned, ALPHA))
        out = np.flatnonzero((lower > 0.5) | (upper < 0.5))
        out = out[out >= BURN_IN - 1]
        if len(out):
            return float(out[0] + 1), 1.0 if lower[out[0]] > 0.5 else -1.0
        if size >= task.cap:
            return math.inf, 0.0
        size = min(task.cap, 2 * size)


def split_in_arms(task: Task, metric: str) -> dict[str, Any]:
    """A/B by one metric."""
    reward = REWARDS[metric]
    means = task.first @ reward
    spreads = task.first @ reward**2 - means**2
    once = z_units(float(means[1] - means[0]), 2 * float(spreads.sum()))
    # All arms together, so that planning does not look at the difference.
    pooled, variance = float(means.mean()), float(spreads.mean() + means.var())
    planned = planned_units(pooled, math.sqrt(variance), MINIMUM_EFFECT, ALPHA, POWER, [0.5, 0.5])
    start = _start(once, task.cap)
    repeats = min(task.repeats, max(AB_REPEATS, AB_UNITS // start))
    found = [
        _split(np.random.default_rng([task.seed, 2, repeat]), task, reward, planned, start) for repeat in range(repeats)
    ]
    told = summary(found, task, float(means[1] - means[0]))
    return {"expected": [round(float(one), 5) for one in means], "planned": planned, "z_units": _whole(once), **told}


def _split(chance: np.random.Generator, task: Task, reward: Float64, planned: int, size: int) -> Decision:
    arm, value = np.zeros(0, np.int8), np.zeros(0)
    edges = np.cumsum(task.first, axis=1)[:, :-1]
    shares = np.array([0.5, 0.5])
    while True:
        arms, draw = chance.random((2, size - len(arm)))
        treated = arms < 0.5
        places = [np.searchsorted(edges[side], draw, side="right") for side in (0, 1)]
        arm = np.concatenate([arm, treated.astype(np.int8)])
        value = np.concatenate([value, reward[np.where(treated, places[1], places[0])]])
        found = effect(arm, value, np.full(size, np.nan), shares, ALPHA, planned)[0]
        if found.p <= ALPHA:
            series = found.series
            out = np.flatnonzero((np.array(series.lower) > 0) | (np.array(series.upper) < 0))
            # The sequence may leave 0 between two of the looks that a series shows.
            place = int(out[0]) if len(out) else -1
            return float(series.step[place]), float(np.sign(series.difference[place]))
        if size >= task.cap:
            return math.inf, 0.0
        size = min(task.cap, 2 * size)


def summary(found: Sequence[Decision], task: Task, expected: float) -> dict[str, Any]:
    """See `units` in the module; without a true difference every decision is false."""
    steps, way = np.array(found).T
    decided = np.isfinite(steps)
    truth = float(np.sign(expected)) if abs(expected) > 1e-9 and task.sign else 0.0
    row = {"repeats": len(steps), "decided": _share(decided), "false": _share(decided & (way != truth))}
    if not task.sign:
        return row
    median, high = np.quantile(steps, [0.5, 0.9], method="higher")
    return {**row, "wrong": _share(decided & (way != task.sign)), "median": _whole(median), "p90": _whole(high)}


def z_units(distance: float, variance: float) -> float:
    """Steps of a z-test that looks once; `variance` is that of the estimate times the steps."""
    quantile = NormalDist().inv_cdf
    need = (quantile(1 - ALPHA / 2) + quantile(POWER)) ** 2
    return need * variance / distance**2 if abs(distance) > 1e-9 else math.inf


def trial(task: Task) -> dict[str, Any]:
    """One row of the document."""
    inter = credited(task)
    arms = {metric: split_in_arms(task, metric) for metric in REWARDS}
    row = {**task.about, "interleaving": inter, "ab": arms}
    if task.sign:
        row["ratio"] = {metric: ratio(inter, arm, task.cap) for metric, arm in arms.items()}
    return row


def ratio(inter: dict[str, Any], arm: dict[str, Any], cap: int) -> dict[str, Any]:
    """A/B's units over interleaving's; None where interleaving has not decided either."""
    median, z = inter["median"], (arm["z_units"] or math.inf) / (inter["z_units"] or math.inf)
    times = None if median is None else round((arm["median"] or cap) / median, 1)
    return {"median": times, "at_least": arm["median"] is None, "z_units": round(z, 1) if math.isfinite(z) else None}


def totals(rows: Sequence[dict[str, Any]], same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all pairs, each weighing by its repeats."""
    found: dict[str, Any] = {}
    for metric in REWARDS:
        known = [row["ratio"][metric] for row in rows if row["ratio"][metric]["median"] is not None]
        times = sorted(one["median"] for one in known)
        found[f"ratio_{metric}"] = {
            "rows": len(times),
            "at_least_10": sum(one >= 10 for one in times),
            "median": times[len(times) // 2] if times else None,
            "smallest": times[0] if times else None,
        }
    for name, group, kinds in (("pairs", rows, ("false", "wrong")), ("same", same, ("false",))):
        parts = {"interleaving": [row["interleaving"] for row in group]}
        parts |= {metric: [row["ab"][metric] for row in group] for metric in REWARDS}
        for method, some in parts.items():
            weights = [one["repeats"] for one in some]
            shares = {kind: float(np.average([one[kind] for one in some], weights=weights)) for kind in kinds}
            found[f"{name}_{method}"] = {"runs": sum(weights), **{kind: round(one, 4) for kind, one in shares.items()}}
    return found


def _start(guess: float, cap: int) -> int:
    return int(min(cap, max(FIRST_LOOK, guess)))


def _whole(value: float) -> int | None:
    return math.ceil(value) if math.isfinite(value) else None


def _share(mask: Bool) -> float:
    return round(float(mask.mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--questions", type=int, default=250)
    parser.add_argument("--documents", type=int, default=1_500, help="besides those that are relevant or near")
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--cap", type=int, default=400_000)
    parser.add_argument("--same-cap", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache-dir", default=str(Path.home() / ".cache" / "fathom"))
    options = parser.parse_args()
    started = time.perf_counter()
    made = [of_set(folder, options, seed) for seed, folder in enumerate(options.data, 1)]
    ranked = time.perf_counter()
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        same = list(pool.map(trial, [task for _, tasks_ in made for task in tasks_]))
        rows = list(pool.map(trial, [task for tasks_, _ in made for task in tasks_]))
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processes": options.processes,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_of_ranking": round(ranked - started, 1),
        "cap": options.cap,
        "same_cap": options.same_cap,
    }
    print(
        json.dumps({**about, "totals": totals(rows, same), "pairs": rows, "same": same}, ensure_ascii=False, indent=1)
    )


if __name__ == "__main__":
    main()
