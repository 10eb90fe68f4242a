"""What a calibration run shows: three plots and its figures. Ray-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.calibration.certifying import Replayed
from jobs.calibration.fitting import pairs_of
from jobs.calibration.logs import Logged
from services.reranking.calibration import ece, reliability
from services.reranking.certificate import Certificate, upper_bound
from services.reranking.facts import ROLES
from services.reranking.profile import Profile

BLUE, RED, GREY = "#3b6ea5", "#b5473c", "#888888"
Float64 = npt.NDArray[np.float64]


def calibration_errors(log: Sequence[Logged], profile: Profile) -> dict[str, float]:
    """{role: ECE} on labelled questions that were not fitted on; empty without labels."""
    found: dict[str, float] = {}
    for role in ROLES:
        logits, labels = pairs_of(log, role)
        if len(logits) and role in profile.calibration:
            found[role] = ece(profile.calibration[role].probability(logits), labels)
    return found


def curves(replayed: Replayed) -> dict[str, list[float]]:
    """By price: mean loss and its upper bound for each loss, pairs, quality; for the run's document."""
    named: dict[str, Float64] = {"price": np.array(replayed.prices), "pairs": replayed.pairs.mean(0)}
    for name, table in replayed.losses.items():
        named[name] = table.mean(0)
        named[f"{name}_bound"] = np.array([upper_bound(column) for column in table.T])
    if np.isfinite(replayed.quality).all():
        named["ndcg_at_10"] = replayed.quality.mean(0)
    return {name: [float(value) for value in values] for name, values in named.items()}


def figures(
    replayed: Replayed, log: Sequence[Logged], profile: Profile, certificates: Sequence[Certificate]
) -> Mapping[str, Figure]:
    """By file name; the calibration curve only with labels."""
    made = {
        "risk.png": risk_figure(curves(replayed), replayed.risks()[0], certificates),
        "cost.png": cost_figure(replayed),
    }
    if len(pairs_of(log, "large")[0]):
        made["calibration.png"] = calibration_figure(log, profile)
    return made


def risk_figure(drawn: Mapping[str, list[float]], risk: str, certificates: Sequence[Certificate]) -> Figure:
    """The risk against λ, its bound, and where each certificate ends."""
    figure, axes = _axes()
    axes.plot(drawn["price"], drawn[risk], color=BLUE, label=f"mean {risk}")
    axes.plot(drawn["price"], drawn[f"{risk}_bound"], color=BLUE, linestyle="--", label="90 % upper bound")
    for one in certificates:
        axes.axhline(one.alpha, color=GREY, linewidth=0.8)
        axes.axvline(max(one.price, 1e-6), color=RED, linewidth=0.8)
        axes.annotate(f"{one.group}: α={one.alpha:g}, λ={one.price:g}", (max(one.price, 1e-6), one.alpha), fontsize=7)
    axes.set_xscale("symlog", linthresh=1e-5)
    axes.set(xlabel="price λ (DCG@10 per large pair)", ylabel="loss", title="Risk against λ")
    axes.legend(frameon=False)
    return figure


def cost_figure(replayed: Replayed) -> Figure:
    """Quality (or kept fidelity, without labels) against pairs, with the first stage and the full rerank."""
    figure, axes = _axes()
    labelled = bool(np.isfinite(replayed.quality).all())
    quality = replayed.quality if labelled else 1 - replayed.losses["fidelity"]
    axes.plot(replayed.pairs.mean(0), quality.mean(0), "o-", markersize=3, color=BLUE, label="adaptive, by price")
    if labelled:
        axes.plot([0], [replayed.first.mean()], "s", color=GREY, label="first stage")
        axes.plot([replayed.full_pairs.mean()], [replayed.full.mean()], "D", color=RED, label="full rerank")
    axes.set(xlabel="pairs a question", ylabel="nDCG@10" if labelled else "fidelity", title="Cost against quality")
    axes.legend(frameon=False)
    return figure


def calibration_figure(log: Sequence[Logged], profile: Profile) -> Figure:
    """Said and true probability in bins of equally many pairs, on questions that were not fitted on."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for role, color in zip(ROLES, (RED, BLUE), strict=True):
        logits, labels = pairs_of(log, role)
        if not len(logits) or role not in profile.calibration:
            continue
        p = profile.calibration[role].probability(logits)
        said, true, _ = reliability(p, labels)
        axes.plot(said, true, "o-", markersize=3, color=color, label=f"{role}, ECE {ece(p, labels):.3f}")
    axes.set(xlabel="mean probability", ylabel="share of relevant", title="Calibration")
    axes.legend(frameon=False)
    return figure


def figures_of(certificate: Certificate | None, run_id: str | None, error: float | None) -> dict[str, Any]:
    """CONTRACT section 2's `calibrate` document, as far as a certificate fills it."""
    return {
        "certificate": certificate.certificate_id if certificate else None,
        "lambda": certificate.price if certificate else None,
        "alpha": certificate.alpha if certificate else None,
        "delta": certificate.delta if certificate else None,
        "n": certificate.n if certificate else 0,
        "expires": certificate.expires_at if certificate else None,
        "ece": error,
        "run_id": run_id,
    }


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Axes = figure.subplots()
    return figure, axes
