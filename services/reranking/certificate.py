"""How cheap reranking may become before it loses more than was agreed, proved on the tenant's own questions. Pure.

Learn then Test (Angelopoulos, Bates, Candès, Jordan, Lei, 2021): prices λ_1 = 0 < λ_2 < … are fixed before the
losses are seen; each null "the risk at λ_j exceeds α" is tested at level δ in this order, and the first that
stands ends the sequence. Every price before it is certified: with probability ≥ 1 − δ over the drawn questions,
none of them has a risk above α. Several risks hold together when the largest of their p-values is ≤ δ.

The p-value is a bet against the null (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting", JRSS-B 2023). Losses L_1, L_2 … lie in [0, 1] and come in an order that knows nothing of them:

    K_t = Π_{i ≤ t} (1 + ν_i · (α − L_i)),   p = min(1, 1 / max_t K_t)                             (Ville)
    ν_i = min(1, sqrt(2 · log(1/δ) / (n · σ²_{i−1}))),   σ²_i = (¼ + Σ_{j ≤ i} (L_j − μ_j)²) / (i + 1)
    μ_i = (½ + Σ_{j ≤ i} L_j) / (i + 1),   σ²_0 = ¼

A certificate speaks of one corpus and of the models that it was made with; `broken` says what has changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tenants.scope import TURNOVER, TenantScope

Float64 = npt.NDArray[np.float64]

DELTA = 0.1
REGRET, EVIDENCE = 0.01, 0.05
PRICES = 30
NEEDED = ((1_000, 0.01), (300, 0.02))  # questions that pay for a regret of at most α
CHURN = 0.2  # share of the corpus that may come or go before a certificate no longer speaks of it
DAYS = 90
_ID_CHARS = 20


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a certificate depends on. `models` {role: "reference@revision dtype tokenizer"}.

    `fingerprint` names parser, chunker and embedder; `turnover` counts the chunks that ever came or went. A pooled
    certificate speaks of no corpus: fingerprint "" and chunks 0.
    """

    models: Mapping[str, str]
    fingerprint: str = ""
    chunks: int = 0
    turnover: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """`price` is the largest certified λ; `risks` {loss: its α}, `alpha` the regret's (or the fidelity's).

    `n` questions certified it, named by `split`, the digest of their ids; `source` is tenant or pooled; `watch` is
    the fidelity loss that shadow reranks are held against. Times are ISO 8601, UTC.
    """

    group: str
    price: float
    alpha: float
    delta: float
    n: int
    p_value: float
    risks: Mapping[str, float]
    split: str
    source: str
    issued_at: str
    expires_at: str
    watch: float
    conditions: Conditions

    @property
    def certificate_id(self) -> str:
        """`c_` and the digest of everything that it says."""
        return f"c_{blake3(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:_ID_CHARS]}"

    def to_json(self) -> dict[str, Any]:
        """For a profile; with its id."""
        return {"certificate": self.certificate_id, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Certificate:
        """What `to_json` wrote."""
        known = {name: value[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "conditions": Conditions(**value["conditions"])})


def conditions_of(scope: TenantScope, models: Mapping[str, str]) -> Conditions:
    """What holds now: these models on the scope's pinned version."""
    release = scope.release
    if release is None:
        return Conditions(models)
    return Conditions(models, release.fingerprint, release.chunks, int(release.profile.get(TURNOVER, 0)))


def group_of(criticality: str, language: str) -> str:
    """The name of a group: certificates, shadow losses and alarms are kept by it."""
    return f"{criticality}/{language}"


def broken(certificate: Certificate, now: Conditions, at: datetime) -> str | None:
    """Why the certificate no longer holds, half a sentence; None while it does."""
    made = certificate.conditions
    if at >= datetime.fromisoformat(certificate.expires_at):
        return f"it expired on {certificate.expires_at[:10]}"
    for role, model in made.models.items():
        if now.models.get(role) != model:
            return f"the {role} model or its precision has changed"
    if made.fingerprint and now.fingerprint != made.fingerprint:
        return "the parser, the chunker or the embedder has changed"
    if made.chunks and (share := abs(now.turnover - made.turnover) / made.chunks) > CHURN:
        return f"{share:.0%} of the corpus has changed"
    return None


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for one question: the price to pay, the certificate behind it, and the sentence that says so."""

    price: float
    certificate: Certificate | None
    reason: str


def standing(
    certificates: Mapping[str, Certificate], group: str, now: Conditions, at: datetime, alarms: Mapping[str, str]
) -> Standing:
    """The group's certificate, or price 0 (the full rerank) and why; `alarms` {group: certificate id} are voided."""
    certificate = certificates.get(group)
    if certificate is None:
        return Standing(0.0, None, f"No certificate for {group} questions yet, so everything is worth its price.")
    if alarms.get(group) == certificate.certificate_id:
        return Standing(0.0, None, "Traffic lost more than was certified (drift alarm), so everything is reranked.")
    if (why := broken(certificate, now, at)) is not None:
        return Standing(0.0, None, f"The certificate no longer holds: {why}. Run `fathom calibrate` again.")
    risk = f"loses at most {certificate.alpha:g} with {1 - certificate.delta:.0%} confidence"
    return Standing(certificate.price, certificate, f"Certified on {certificate.n} questions: {risk}.")


def affordable(questions: int) -> float | None:
    """The smallest regret α that so many questions can certify; None when there are too few."""
    return next((alpha for needed, alpha in NEEDED if questions >= needed), None)


def wealth(losses: npt.ArrayLike, alpha: npt.ArrayLike, delta: float = DELTA) -> Float64:
    """Log K_t of the module's formula: (n,) for losses (n,), (n, m) for losses (n, m); `alpha` broadcasts over m."""
    table = np.asarray(losses, np.float64)
    if table.size and not (table.min() >= 0 and table.max() <= 1):
        raise ValueError("losses lie in [0, 1]")
    count = np.arange(2, len(table) + 2, dtype=np.float64).reshape(-1, *([1] * (table.ndim - 1)))
    mean = (0.5 + np.cumsum(table, axis=0)) / count
    variance = (0.25 + np.cumsum((table - mean) ** 2, axis=0)) / count
    before = np.concatenate([np.full_like(variance[:1], 0.25), variance[:-1]])
    bet = np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / (max(1, len(table)) * before)))
    value: Float64 = np.cumsum(np.log1p(bet * (np.asarray(alpha, np.float64) - table)), axis=0)
    return value


def p_value(losses: npt.ArrayLike, alpha: float, delta: float = DELTA) -> float:
    """Of the null "mean loss > α"; losses (n,) in [0, 1] in an order that knows nothing of them. 1 without any."""
    found = wealth(losses, alpha, delta)
    return float(np.exp(-max(0.0, float(found.max(initial=0.0)))))


def upper_bound(losses: npt.ArrayLike, delta: float = DELTA) -> float:
    """The smallest α whose null is rejected at δ: exceeds the mean loss with probability ≥ 1 − δ. In [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(losses, middle, delta) <= delta else (middle, high)
    return high


def hoeffding_bound(losses: npt.ArrayLike, delta: float = DELTA) -> float:
    """Mean + sqrt(log(1/δ) / 2n), for comparison only: too wide at these sample sizes to certify anything."""
    table = np.asarray(losses, np.float64)
    return float(min(1.0, table.mean() + np.sqrt(np.log(1 / delta) / (2 * len(table)))))


@dataclass(frozen=True, slots=True)
class Tested:
    """One sequence: `passed` prices from the front are certified; `p_values` (m,) of all, the largest over risks."""

    passed: int
    p_values: tuple[float, ...]


def fixed_sequence(losses: Mapping[str, Float64], alphas: Mapping[str, float], delta: float = DELTA) -> Tested:
    """`losses` {risk: (n, m)} of n questions at m rising prices; `alphas` {risk: α}. See the module."""
    shape = next(iter(losses.values())).shape
    found = np.zeros(shape[1])
    for risk, table in losses.items():
        peak = wealth(table, alphas[risk], delta).max(axis=0, initial=0.0)
        found = np.maximum(found, np.exp(-np.maximum(0.0, peak)))
    stands = np.flatnonzero(found > delta)
    return Tested(int(stands[0]) if len(stands) else shape[1], tuple(found.tolist()))


def split_digest(ids: Sequence[str]) -> str:
    """Names a set of questions, whatever their order: 128 bits of blake3."""
    return blake3("\n".join(sorted(ids)).encode()).hexdigest()[:32]
