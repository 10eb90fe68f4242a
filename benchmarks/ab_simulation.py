"""Simulated experiments against what `jobs.experiments` promises: false claims, found effects, lost units.

    python -m benchmarks.ab_simulation [--runs 2000] [--processes 2]

Prints one JSON document. Every run goes through the code that judges real experiments (`effects.effect`,
`ratio.mismatch_series`), looked at after every unit; of the mismatch trials a quarter of --runs are made.

same         A/A tests of 20,000 units: a metric of rate .3, of rate .01 and a latency (lognormal, σ 1), shares 50 : 50
             and 90 : 10. `false_claims` is the share of runs whose sequence excluded 0 at any look (at most α = .05);
             `z_test_30_peeks` the same runs by a z-test at 5 % that is asked 30 times.
platform     the same A/A tests as an experiment judges them: the size planned from the first 200 units, a sequence that
             decides and one that guards, half of α each; `false_claims` of either at any look.
effect       +3 % on a rate of .3 at the size that `planned_units` plans for a power of .8: found at that size, and at
             any look up to it; the size of a z-test that looks once; and the same with a covariate (correlation .7).
mismatch     10^6 units, 50 : 50: alarms without any loss (at most .01; `counted` is too coarse to tell .006 from .012,
             `weighted` is not; each with its standard error), and with 1 % of one arm's exposures lost.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.experiments.analysis import PLAN_AFTER, UNPLANNED, guard_units, planned_for
from jobs.experiments.effects import effect
from jobs.experiments.power import planned_units
from jobs.experiments.ratio import ALPHA, CONCENTRATIONS, mismatch_series
from services.experiments.spec import parse_spec

Float64 = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Float64]
Trial = Callable[[int], list[float]]

SAME_UNITS, PEEKS = 20_000, 30
RATE, LIFT, LEVEL, POWER = 0.3, 0.03, 0.05, 0.8
CORRELATION = 0.7
LOSS, MISMATCH_UNITS = 0.01, 1_000_000


def rate(chance: np.random.Generator, units: int, mean: float) -> Float64:
    """(units,) of 0 and 1."""
    return (chance.random(units) < mean).astype(np.float64)


def latency(chance: np.random.Generator, units: int) -> Float64:
    """(units,) ms, median 400, far skewed."""
    return chance.lognormal(math.log(400), 1.0, units)


METRICS: dict[str, Draw] = {
    "rate_.3": partial(rate, mean=0.3),
    "rate_.01": partial(rate, mean=0.01),
    "latency": latency,
}


def same_trial(seed: int, metric: str, share: float) -> list[float]:
    """[claimed at any look, claimed by a peeked z-test] of one A/A test; `share` is the treatment's."""
    chance = np.random.default_rng([1, seed])
    value = METRICS[metric](chance, SAME_UNITS)
    arm = (chance.random(SAME_UNITS) < share).astype(np.int8)
    shares = np.array([1 - share, share])
    found = effect(arm, value, np.full(SAME_UNITS, np.nan), shares, LEVEL, SAME_UNITS)[0]
    return [float(found.p <= LEVEL), float(peeked(arm == 1, value))]


def platform_trial(seed: int, metric: str, share: float) -> list[float]:
    """[claimed at any look by either sequence] of one A/A test, as `analysis.analyse` makes them."""
    chance = np.random.default_rng([5, seed])
    value = METRICS[metric](chance, SAME_UNITS)
    arm = (chance.random(SAME_UNITS) < share).astype(np.int8)
    arms = [{"name": "control", "share": 1 - share}, {"name": "same", "share": share}]
    spec = parse_spec({"name": "aa", "tenants": ["acme"], "arms": arms, "alpha": LEVEL})
    first = value[:PLAN_AFTER]
    planned = planned_for(spec, first) if first.mean() else UNPLANNED
    nothing, shares = np.full(SAME_UNITS, np.nan), np.array([1 - share, share])
    both = [effect(arm, value, nothing, shares, LEVEL / 2, n)[0] for n in (planned, guard_units(planned))]
    return [float(any(one.p <= one.alpha for one in both))]


def peeked(treated: npt.NDArray[np.bool_], value: Float64) -> bool:
    """Whether a two-sided z-test at 5 %, asked after every thirtieth of the units, rejects once."""
    at = np.linspace(0, len(value), PEEKS + 1).astype(int)[1:] - 1
    sums = [
        np.cumsum(part)[at]
        for mask in (treated, ~treated)
        for part in (mask.astype(np.float64), mask * value, mask * value * value)
    ]
    n1, s1, q1, n0, s0, q0 = sums
    spread = (q1 / n1 - (s1 / n1) ** 2) / n1 + (q0 / n0 - (s0 / n0) ** 2) / n0
    score = np.divide(s1 / n1 - s0 / n0, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)
    return bool((np.abs(score) > NormalDist().inv_cdf(1 - LEVEL / 2)).any())


def effect_trial(seed: int, units: int, covariate: bool) -> list[float]:
    """[found at `units`, found at any look, covered, variance taken away by the covariate] of one test of +3 %."""
    chance = np.random.default_rng([2, seed])
    arm = (chance.random(units) < 0.5).astype(np.int8)
    value = rate(chance, units, RATE)
    before = np.full(units, np.nan)
    if covariate:
        noise = math.sqrt(RATE * (1 - RATE) * (1 / CORRELATION**2 - 1))
        before = value + chance.normal(0.0, noise, units)
    turned = (arm == 1) & (chance.random(units) < RATE * LIFT / (1 - RATE))
    found = effect(arm, np.where(turned, 1.0, value), before, np.array([0.5, 0.5]), LEVEL, units)[0]
    any_look = found.p <= LEVEL and found.difference > 0
    covered = found.relative_lower <= LIFT <= found.relative_upper
    return [float(found.lower > 0), float(any_look), float(covered), found.reduction]


def mismatch_trial(seed: int, loss: float) -> list[float]:
    """[alarmed at any look, units that were seen until then (NaN without)]."""
    chance = np.random.default_rng([3, seed])
    arms = (chance.random(MISMATCH_UNITS) < (1 - loss) / (2 - loss)).astype(np.int8)
    over = np.flatnonzero(mismatch_series(arms, [0.5, 0.5]) > math.log(1 / ALPHA))
    return [float(len(over) > 0), float(over[0] + 1) if len(over) else math.nan]


def weighted_trial(seed: int) -> list[float]:
    """[1 / E at the first alarm, 0 without one] of units drawn from the bet: its mean is P(alarm) without any loss.

    E is the likelihood of the bet over that of the null, so P_null(alarm) = mean over the bet of 1{alarm} / E.
    """
    chance = np.random.default_rng([4, seed])
    concentrations, parts = zip(*CONCENTRATIONS, strict=True)
    c = float(chance.choice(concentrations, p=parts))
    series = mismatch_series((chance.random(MISMATCH_UNITS) < chance.beta(c / 2, c / 2)).astype(np.int8), [0.5, 0.5])
    over = np.flatnonzero(series > math.log(1 / ALPHA))
    return [math.exp(-series[over[0]]) if len(over) else 0.0]


def repeat(pool: ProcessPoolExecutor, trial: Trial, runs: int) -> Float64:
    """(runs, figures) of one trial."""
    return np.array(list(pool.map(trial, range(runs), chunksize=max(1, runs // 50))))


def same(pool: ProcessPoolExecutor, runs: int) -> list[dict[str, Any]]:
    rows = []
    for metric in METRICS:
        for share in (0.5, 0.1):
            claims = repeat(pool, partial(same_trial, metric=metric, share=share), runs).mean(axis=0)
            row = {"metric": metric, "treated": share, "units": SAME_UNITS, "runs": runs}
            rows.append({**row, "false_claims": claims[0].round(4), "z_test_30_peeks": claims[1].round(4)})
    return rows


def found(pool: ProcessPoolExecutor, runs: int) -> dict[str, Any]:
    deviation = math.sqrt(RATE * (1 - RATE))
    quantile = NormalDist().inv_cdf
    once = 4 * ((quantile(1 - LEVEL / 2) + quantile(POWER)) * deviation / (RATE * LIFT)) ** 2
    figures: dict[str, Any] = {"z_test_units": math.ceil(once), "runs": runs}
    for name, kept in (("plain", 1.0), ("covariate", 1 - CORRELATION**2)):
        units = planned_units(RATE, deviation * math.sqrt(kept), LIFT, LEVEL, POWER, [0.5, 0.5])
        means = repeat(pool, partial(effect_trial, units=units, covariate=kept < 1), runs).mean(axis=0).round(4)
        row = dict(zip(("found_at_plan", "found_at_any_look", "covered_at_plan", "reduction"), means, strict=True))
        figures[name] = {"planned_units": units, "times_z_test": round(units / once, 2), **row}
    return figures


def as_judged(pool: ProcessPoolExecutor, runs: int) -> list[dict[str, Any]]:
    return [
        {
            "metric": metric,
            "treated": share,
            "runs": runs,
            "false_claims": error_of(repeat(pool, partial(platform_trial, metric=metric, share=share), runs)[:, 0]),
        }
        for metric in METRICS
        for share in (0.5, 0.1)
    ]


def lost(pool: ProcessPoolExecutor, runs: int) -> dict[str, Any]:
    false, true = (repeat(pool, partial(mismatch_trial, loss=loss), runs) for loss in (0.0, LOSS))
    weighted = repeat(pool, weighted_trial, runs)[:, 0]
    until = true[:, 1]
    spread = np.nanpercentile(until, [10, 50, 90]).round().astype(int).tolist() if np.isfinite(until).any() else None
    return {
        "units": MISMATCH_UNITS,
        "runs": runs,
        "false_alarms_counted": error_of(false[:, 0]),
        "false_alarms_weighted": error_of(weighted),
        "loss": LOSS,
        "detected": float(true[:, 0].mean()),
        "units_until_p10_p50_p90_of_detected": spread,
    }


def error_of(values: Float64) -> list[float]:
    """[mean, its standard error]."""
    return [round(float(values.mean()), 5), round(float(values.std()) / math.sqrt(len(values)), 5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    started = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        figures: dict[str, Any] = {
            "same": same(pool, options.runs),
            "platform": as_judged(pool, max(1, options.runs // 4)),
            "effect": found(pool, options.runs),
            "mismatch": lost(pool, max(1, options.runs // 4)),
        }
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processes": options.processes,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps({**about, **figures}, indent=1))


if __name__ == "__main__":
    main()
