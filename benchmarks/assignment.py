"""Who gets which arm, over a million users: shares, stickiness, ramps, holdout, independence, time.

    python -m benchmarks.assignment [--users 1000000]

Prints one JSON document. All of it goes through `services.experiments.assignment`.

ratio         the treatment's share at 50 : 50 and 90 : 10: whether the configured one lies inside the exact binomial
              99.9 % interval of the observed one
sticky        a digest of all assignments of 10^5 users here and in processes of their own with other hash seeds: what a
              restart or another replica computes
ramps         with a holdout of .1: of those who took part at one ramp, how many have another arm, or none, at the next,
              and how many of the held out were ever enrolled
independence  chi-square p: the arms of two experiments, the arm and the ramp (in tenths), the ramps of two experiments
many          SALTS experiments over a tenth of the users: the shares of p < .01 among the pairs' chi-square tests of
              independence and among each one's binomial test of 50 : 50 (both expected to be .01)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from scipy.stats import binomtest, chi2_contingency

from services.experiments.assignment import arm_of, number, shares, unit_of
from services.experiments.spec import Arm, Spec

Arms = npt.NDArray[np.int8]  # (n,): place of the arm, NONE = takes no part

CONFIDENCE, LEVEL = 0.999, 0.01
STICKY_USERS, TIMED_USERS = 100_000, 100_000
SALTS, BINS = 20, 10
RAMPS = (0.01, 0.05, 0.2, 0.5, 1.0)
HOLDOUT = 0.1
NONE = -1
HASH_SEEDS = ("1", "4242")


def spec(control: float = 1.0, treatment: float = 1.0, holdout: float = 0.0) -> Spec:
    """Two arms of these shares."""
    arms = (Arm(name="control", share=control), Arm(name="treatment", share=treatment))
    return Spec(name="assignment", tenants=("acme",), arms=arms, holdout=holdout)


def units(count: int) -> list[str]:
    """The units of `count` users of one tenant."""
    return [unit_of("user", "acme", f"user-{one}", None, "")[0] for one in range(count)]


def assigned(one: Spec, salt: str, ramp: float, names: list[str]) -> Arms:
    """Every unit's arm."""
    arms = (arm_of(one, salt, ramp, name) for name in names)
    return np.fromiter((NONE if arm is None else arm for arm in arms), np.int8, len(names))


def ratio(names: list[str]) -> dict[str, Any]:
    """Observed against configured shares."""
    found: dict[str, Any] = {}
    for control, treatment in ((50, 50), (90, 10)):
        one = spec(control, treatment)
        expected, treated = float(shares(one)[1]), int((assigned(one, "ratio", 1.0, names) == 1).sum())
        test = binomtest(treated, len(names), expected)
        bound = test.proportion_ci(CONFIDENCE)
        found[f"{control}:{treatment}"] = {
            "treated": treated,
            "share": round(treated / len(names), 6),
            "interval_999": [round(float(bound.low), 6), round(float(bound.high), 6)],
            "inside": bool(bound.low <= expected <= bound.high),
            "p": round(float(test.pvalue), 4),
        }
    return found


def sticky_digest(count: int) -> str:
    """Of the assignments of `count` users: all takers, 90 : 10, and half of them with a holdout."""
    names = units(count)
    kinds = ((spec(), 1.0), (spec(90, 10), 1.0), (spec(50, 50, HOLDOUT), 0.5))
    columns = [assigned(one, f"sticky-{place}", ramp, names) for place, (one, ramp) in enumerate(kinds)]
    return blake3(np.stack(columns).tobytes()).hexdigest()


def sticky(count: int) -> dict[str, Any]:
    """The same digest in other processes."""
    here, others = sticky_digest(count), []
    for seed in HASH_SEEDS:
        command = [sys.executable, "-m", "benchmarks.assignment", "--digest", str(count)]
        run = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True)
        others.append(run.stdout.decode().strip())
    return {"users": count, "processes": 1 + len(others), "digest": here[:16], "same": {here} == set(others)}


def ramps(names: list[str]) -> dict[str, Any]:
    """Raises the ramp step by step and compares neighbours."""
    one, held = spec(50, 50, HOLDOUT), np.array([number("ramps", "holdout", name) < HOLDOUT for name in names])
    before = np.full(len(names), NONE, np.int8)
    moved = left = enrolled_held = 0
    taking: dict[str, float] = {}
    for ramp in RAMPS:
        now = assigned(one, "ramps", ramp, names)
        took = before != NONE
        left += int((took & (now == NONE)).sum())
        moved += int((took & (now != NONE) & (now != before)).sum())
        enrolled_held += int((held & (now != NONE)).sum())
        taking[str(ramp)] = round(float((now != NONE).mean()), 5)
        before = now
    return {
        "holdout": HOLDOUT,
        "held_out": round(float(held.mean()), 5),
        "take_part": taking,
        "expected": {str(ramp): round(ramp * (1 - HOLDOUT), 5) for ramp in RAMPS},
        "changed_arm": moved,
        "left": left,
        "of_units": len(names),
        "held_out_enrolled": enrolled_held,
    }


def chi_square(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """The p-value of independence of two (n,) integer columns."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)
    return float(chi2_contingency(table, correction=False).pvalue)


def independence(names: list[str]) -> dict[str, Any]:
    """Between experiments, and between the numbers of one."""
    one = spec()
    first, second = (assigned(one, salt, 1.0, names) for salt in ("first", "second"))
    places = {
        salt: np.fromiter((int(BINS * number(salt, "ramp", name)) for name in names), np.int8, len(names))
        for salt in ("first", "second")
    }
    return {
        "arms_of_two_experiments_p": round(chi_square(first, second), 4),
        "arm_and_ramp_p": round(chi_square(first, places["first"]), 4),
        "ramps_of_two_experiments_p": round(chi_square(places["first"], places["second"]), 4),
        "arm_and_other_ramp_p": round(chi_square(first, places["second"]), 4),
    }


def many(names: list[str]) -> dict[str, Any]:
    """SALTS experiments over the same users: p-values ought to be uniform."""
    one = spec()
    arms = [assigned(one, f"many-{place}", 1.0, names) for place in range(SALTS)]
    p = np.array([chi_square(a, b) for a, b in combinations(arms, 2)])
    lone = np.array([binomtest(int((arm == 1).sum()), len(names), 0.5).pvalue for arm in arms])
    return {
        "experiments": SALTS,
        "users": len(names),
        "pairs": len(p),
        "pairs_p_below_.01": round(float((p < LEVEL).mean()), 4),
        "pairs_p_smallest": round(float(p.min()), 5),
        "ratios_p_below_.01": round(float((lone < LEVEL).mean()), 4),
    }


def timing() -> dict[str, float]:
    """Microseconds of one core for one assignment, the best of three rounds."""
    one, found = spec(90, 10, HOLDOUT), {}
    names = units(TIMED_USERS)
    for ramp in (0.01, 1.0):
        rounds = []
        for _ in range(3):
            began = time.process_time()
            for name in names:
                arm_of(one, "timing", ramp, name)
            rounds.append(time.process_time() - began)
        found[f"ramp_{ramp}"] = round(min(rounds) / len(names) * 1e6, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--digest", type=int, help="only print the digest of so many users' assignments")
    options = parser.parse_args()
    if options.digest:
        print(sticky_digest(options.digest))
        return
    started = time.perf_counter()
    names = units(options.users)
    figures = {
        "ratio": ratio(names),
        "sticky": sticky(min(STICKY_USERS, options.users)),
        "ramps": ramps(names),
        "independence": independence(names),
        "many_experiments": many(names[: max(1, options.users // 10)]),
        "microseconds_per_assignment": timing(),
    }
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "users": options.users,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps({**about, **figures}, indent=1))


if __name__ == "__main__":
    main()
