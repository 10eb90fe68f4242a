"""Two variants over the same questions: the mean difference, its interval, a test, and Holm's correction. Pure.

    difference  mean of d = b − a over the questions; positive where B has more
    interval    BCa bootstrap over questions (Efron 1987, "Better bootstrap confidence intervals", JASA 82)
    p           sign flips (Fisher 1935; for retrieval Smucker, Allan & Carterette, CIKM 2007): were A and B the same,
                every d_i would be as likely −d_i; P(|mean of ±d| ≥ |mean of d|), two-sided. Exact over all 2^m flips of
                the m questions that differ where these are no more than the resamples, else (count + 1) / (resamples
                + 1) of random ones, never 0 (Phipson & Smyth 2010)

Questions are the units: what is inferred is about further questions like these, over the same index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

Float64 = npt.NDArray[np.float64]
CONFIDENCE = 0.95
_EQUAL = 1e-12  # of the largest value: below it two values differ by rounding alone
_CELLS = 2_000_000  # of one block of resamples, so that memory does not grow with the questions


@dataclass(frozen=True, slots=True)
class Paired:
    """One measure over n questions, in its own unit; see the module.

    `lower` and `upper` bound the difference at 95 %, None where one question alone says nothing of its spread. `wins`
    are the questions where B has more, `losses` those where A has.
    """

    mean_a: float
    mean_b: float
    difference: float
    lower: float | None
    upper: float | None
    p: float
    wins: int
    losses: int
    ties: int

    @property
    def n(self) -> int:
        """Questions."""
        return self.wins + self.losses + self.ties


def paired(a: Float64, b: Float64, seed: int = 0, resamples: int = 10_000) -> Paired:
    """Compare `a` (n,) with `b` (n,), the same question at the same place; finite values.

    Raises `ValueError` without a question, for different lengths and for what is not finite.
    """
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"two rows of the same questions are compared, these are {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a value is not finite")
    d = differences(a, b)
    lower, upper = _interval(d, seed, resamples)
    return Paired(
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(d.mean()),
        lower=lower,
        upper=upper,
        p=_sign_flip(d[d != 0], seed, resamples),
        wins=int((d > 0).sum()),
        losses=int((d < 0).sum()),
        ties=int((d == 0).sum()),
    )


def differences(a: Float64, b: Float64) -> Float64:
    """(n,) float64 b − a; exactly 0 where only rounding parts them."""
    d: Float64 = b.astype(np.float64) - a
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()))
    d[np.abs(d) <= _EQUAL * scale] = 0.0
    return d


def corrected(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down p-values (Holm 1979, Scand. J. Statist. 6): P(any false claim) over all names ≤ α.

    With the m values in rising order: p̃_(i) = max over j ≤ i of min(1, (m − j + 1) · p_(j)).
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def _interval(d: Float64, seed: int, resamples: int) -> tuple[float | None, float | None]:
    """BCa at 95 %; a spread of nothing has no width (and no acceleration), one question has no spread."""
    if len(d) < 2:
        return None, None
    if float(np.ptp(d)) <= _EQUAL * float(np.abs(d).max()):
        return float(d.mean()), float(d.mean())
    found = bootstrap(
        (d,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _CELLS // len(d)),
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _sign_flip(d: Float64, seed: int, resamples: int) -> float:
    """P of the module; `d` (m,) are the differences that are not 0."""
    if not len(d):
        return 1.0
    # What is as extreme but for the rounding of a sum in another order counts as extreme.
    bound = abs(float(d.sum())) - _EQUAL * float(np.abs(d).sum())
    exact = len(d) < 63 and 2 ** len(d) <= resamples
    blocks = _every_flip(len(d)) if exact else _random_flips(len(d), seed, resamples)
    extreme = sum(int((np.abs(signs @ d) >= bound).sum()) for signs in blocks)
    return extreme / 2 ** len(d) if exact else (extreme + 1) / (resamples + 1)


def _every_flip(count: int) -> Iterator[Float64]:
    """(2^count, count) of ±1: the bits of 0 … 2^count − 1."""
    yield _signs((np.arange(2**count)[:, None] >> np.arange(count)) & 1)


def _random_flips(count: int, seed: int, resamples: int) -> Iterator[Float64]:
    """(resamples, count) of ±1 in blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // count)
    for start in range(0, resamples, block):
        yield _signs(rng.integers(0, 2, (min(block, resamples - start), count)))


def _signs(bits: npt.NDArray[np.int64]) -> Float64:
    signs: Float64 = 1.0 - 2.0 * bits.astype(np.float64)
    return signs
