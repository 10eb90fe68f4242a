"""How likely a result is looked at, by its rank, from clicks alone: what clicks are divided by. Pure.

Position-based model: P(click on d for q at rank k) = p_k · r_qd, p_1 = 1 (r bears what all of p share). Clicks by
rank alone confuse p with r, for relevant results stand high. What tells them apart is the same (q, d) at several
ranks, after prices, weights, documents or models changed, or an experiment interleaved: r_qd is the same then, and
only p differs (Agarwal et al., "Estimating position bias without intrusive interventions",
WSDM 2019). Their pairs of ranks are taken together here: given the clicks m_qd of a result over all its ranks,

    log L(x) = Σ_qd Σ_k c_qdk · log( n_qdk e^{x_k} / Σ_j n_qdj e^{x_j} ),      x = log p,  n times shown, c clicks

holds no r any more (the conditional likelihood of fixed effects; Hausman, Hall, Griliches, Econometrica 1984). It is
concave, needs no pair to have clicks, and gets a prior around the power law of Joachims, Swaminathan, Schnabel
("Unbiased learning-to-rank with biased feedback", WSDM 2017):

    x_k ~ N(−η log k, SPREAD²),   η ~ N(ETA, ETA_SPREAD²)

So with no data p = 1 / k, with some the exponent moves, with many every rank has its own p. It assumes that a look
depends on the rank and not on what stands above (no trust bias, no cascade), and that ranks did not change for
reasons that change how well a chunk answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

ETA, ETA_SPREAD, SPREAD = 1.0, 0.5, 0.3
RANKS = 50  # ranks with a p of their own at most; below them the power law goes on
CLIP = 10.0  # the most that a click may weigh: Joachims et al. 2017, section 5.2
_STEPS, _ENOUGH = 100, 1e-9


@dataclass(frozen=True, slots=True)
class Seen:
    """What was shown and clicked: (n,) int64 columns, a row per result and rank.

    `item` numbers a question's result from 0, `rank` is 1-based, `shown` ≥ `clicks` ≥ 0 count showings.
    """

    item: Int64
    rank: Int64
    shown: Int64
    clicks: Int64


@dataclass(frozen=True, slots=True)
class Examination:
    """`p` (RANKS,) float64 chance of a look relative to rank 1, `eta` the power law's exponent behind them.

    `clicks` counts those that the estimate learned from: on results that were shown at several ranks.
    """

    p: Float64
    eta: float = ETA
    clicks: int = 0

    def at(self, rank: int) -> float:
        """Relative to rank 1, > 0."""
        return float(self.p[rank - 1]) if rank <= len(self.p) else float(rank) ** -self.eta

    def weight(self, rank: int) -> float:
        """What a click at this rank counts: min(1/p, CLIP)."""
        return min(1.0 / self.at(rank), CLIP)


def prior() -> Examination:
    """Nothing is known: p_k = k^−ETA."""
    return Examination(np.arange(1, RANKS + 1, dtype=np.float64) ** -ETA)


def estimate(seen: Seen) -> Examination:
    """The most likely p given the clicks and the prior, see the module; Newton's method, halving steps."""
    shown, clicks = _tables(seen)
    if not len(shown):
        return prior()
    x, eta = -ETA * _LOGS, ETA
    value = _objective(x, eta, shown, clicks)
    for _ in range(_STEPS):
        step = _newton(x, eta, shown, clicks)
        size = 1.0
        while (found := _objective(x + size * step[:-1], eta + size * step[-1], shown, clicks)) < value and size > 1e-6:
            size /= 2
        if found - value < _ENOUGH:
            break
        x, eta, value = x + size * step[:-1], eta + float(size * step[-1]), found
    return Examination(np.exp(x), eta, int(clicks.sum()))


_LOGS: Float64 = np.log(np.arange(1, RANKS + 1, dtype=np.float64))


def _tables(seen: Seen) -> tuple[Float64, Float64]:
    """(items, RANKS) float64 times shown and clicks of the items that say something: clicked, at several ranks."""
    near = seen.rank <= RANKS
    _, item = np.unique(seen.item[near], return_inverse=True)
    count = int(item.max()) + 1 if len(item) else 0
    shown, clicks = np.zeros((count, RANKS)), np.zeros((count, RANKS))
    np.add.at(shown, (item, seen.rank[near] - 1), seen.shown[near])
    np.add.at(clicks, (item, seen.rank[near] - 1), seen.clicks[near])
    telling = ((shown > 0).sum(axis=1) > 1) & (clicks.sum(axis=1) > 0)
    return shown[telling], clicks[telling]


def _shares(x: Float64, shown: Float64) -> Float64:
    """(items, RANKS) where a click of the item falls: n e^x / Σ n e^x."""
    mass = shown * np.exp(x)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))


def _objective(x: Float64, eta: float, shown: Float64, clicks: Float64) -> float:
    """The log likelihood and the log prior, up to a constant; x_1 = 0."""
    told = clicks > 0
    likelihood = float((clicks[told] * np.log(_shares(x, shown)[told])).sum())
    off = (x + eta * _LOGS)[1:]
    return likelihood - float((off**2).sum()) / (2 * SPREAD**2) - (eta - ETA) ** 2 / (2 * ETA_SPREAD**2)


def _newton(x: Float64, eta: float, shown: Float64, clicks: Float64) -> Float64:
    """(RANKS + 1,) float64 step of (x, η); 0 for x_1."""
    shares, total = _shares(x, shown), clicks.sum(axis=1)
    off = x + eta * _LOGS
    slope = np.append(
        (clicks - shares * total[:, None]).sum(axis=0) - off / SPREAD**2,
        -(off @ _LOGS) / SPREAD**2 - (eta - ETA) / ETA_SPREAD**2,
    )
    bend = np.zeros((RANKS + 1, RANKS + 1))
    bend[:-1, :-1] = np.diag(total @ shares + 1 / SPREAD**2) - (shares * total[:, None]).T @ shares
    bend[:-1, -1] = bend[-1, :-1] = _LOGS / SPREAD**2
    bend[-1, -1] = (_LOGS @ _LOGS) / SPREAD**2 + 1 / ETA_SPREAD**2
    step = np.zeros(RANKS + 1)
    step[1:] = np.linalg.solve(bend[1:, 1:], slope[1:])
    return step
