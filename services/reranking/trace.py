"""How one order came about, in memory: what the audit writes down and what a shadow rerank needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.contracts import CrossEncoderFacts
from services.reranking.certificate import Certificate
from services.reranking.defences import Flags
from services.reranking.facts import Facts, Limits, Role
from services.reranking.policy import Verdict
from services.reranking.profile import Profile

POLICY = "greedy-voc-2"  # names the rule: another one gets another name


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms a question is reranked.

    `wish` is auto or always; `group` as certificates name it; `why` a sentence about the price; `certificate` holds
    at this price, None = nothing is promised; not `calibrated` when the profile was measured with other models.
    """

    wish: str
    profile: Profile
    digest: str
    group: str
    price: float
    limits: Limits
    certificate: Certificate | None
    why: str
    calibrated: bool = True


@dataclass(frozen=True, slots=True)
class Trace:
    """One reranked question. Arrays of `verdict` and `flags` are by candidate row.

    `verdict.score` is what the policy ended with, before the defences; `Ranked.score` is what the order sorts by.
    `models` by role are those that were at hand; `failure` is the degradation's cause, for people.
    """

    terms: Terms
    facts: Facts
    verdict: Verdict
    flags: Flags
    models: Mapping[Role, CrossEncoderFacts]
    failure: str | None = None
