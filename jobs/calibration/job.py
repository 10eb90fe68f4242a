"""One calibration from questions to a serving profile. Ray-free: the shell gives the function that reranks.

    questions → full reranks → split → fit on one part → certify on the other → MLflow → the tenant's profile serves

Nothing is stored before the end, so a job may be stopped at any time. With too few questions nothing is stored at
all: the profile that ships goes on serving, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jobs.calibration.certifying import ALPHAS, NEEDED, Issue, Replayed, certify, replay, with_certificates
from jobs.calibration.fitting import halves, learn
from jobs.calibration.logs import Logged
from jobs.calibration.questions import Questions
from jobs.calibration.report import calibration_errors, curves, figures, figures_of
from jobs.tracking import Run, run
from services.contracts import CrossEncoderFacts
from services.reranking.certificate import Certificate, conditions_of, group_of
from services.reranking.facts import Costs, Role
from services.reranking.profile import PRICES, Profile, model_name, pooled
from services.settings import Settings
from tenants.corpus.release import pinned
from tenants.errors import InvalidInput
from tenants.scope import TenantScope
from tenants.store import Store

EXPERIMENT = "fathom/calibration"

Models = dict[Role, CrossEncoderFacts]
Collect = Callable[[Questions, TenantScope, Settings], Iterable[tuple[Logged | None, Models]]]
Show = Callable[[str, int, int], None]  # stage, done, of


@dataclass(frozen=True, slots=True)
class Made:
    """What the figures led to; certificates empty = too few questions."""

    profile: Profile
    certificates: tuple[Certificate, ...]
    replayed: Replayed
    held: Sequence[Logged]


def calibrate(
    questions: Questions,
    scope: TenantScope,
    store: Store,
    settings: Settings,
    collect: Collect,
    show: Show,
    *,
    keep_fit: bool = False,
) -> dict[str, Any]:
    """The `calibrate` document of CONTRACT section 2, with `message`, a sentence for a person.

    `keep_fit` serves what was learned also where too few questions certify it: of cross-encoders that no profile knows,
    what a logit is worth is better learned than assumed. Everything is reranked then.

    Raises `InvalidInput` without a published index or without a question, `Unavailable` without the large model.
    """
    scope = pinned(scope)
    if scope.release is None:
        raise InvalidInput("the tenant has no published index; index documents first")
    if not questions.asked:
        raise InvalidInput(
            "there is no question to calibrate on: give --queries and --qrels, or ask some first (the audit must keep "
            "texts: audit.store_text)"
        )
    with run(settings, EXPERIMENT, _params(questions, scope)) as tracked:
        log, models = _collected(questions, scope, settings, collect, show)
        if len(log) < 3:
            raise InvalidInput("hardly any of the questions finds anything; check that they are about this corpus")
        made = make(log, models, scope, show)
        report = _report(made, questions, scope, tracked)
        if made.certificates or keep_fit:
            report["version"] = store.add_calibration(scope, made.profile.to_json(), report)
        if keep_fit and not made.certificates:
            report["message"] = f"{len(questions.asked)} questions certify nothing; what was learned of them serves."
    return report


def make(log: Sequence[Logged], models: Models, scope: TenantScope, show: Show) -> Made:
    """Fit on one part of the log and certify on the other."""
    fitted, held = halves(log)
    names: dict[str, str] = {role: model_name(facts) for role, facts in models.items()}
    revisions = {role: facts.revision for role, facts in models.items()}
    profile = replace(learn(fitted, pooled(), "tenant"), models=revisions)

    def tick(done: int, of: int) -> None:
        show("certify", done, of)

    replayed = replay(held, profile, PRICES, Costs.measured(models), tick)
    issue = Issue(scope.config.languages[0], conditions_of(scope, names), "tenant", datetime.now(UTC))
    tried = (certify(held, replayed, criticality, issue) for criticality in ALPHAS)
    certificates = tuple(one for one in tried if one is not None)
    return Made(with_certificates(profile, certificates), certificates, replayed, held)


def _collected(
    questions: Questions, scope: TenantScope, settings: Settings, collect: Collect, show: Show
) -> tuple[list[Logged], Models]:
    log: list[Logged] = []
    models: Models = {}
    show("rerank", 0, len(questions.asked))
    for number, (one, served) in enumerate(collect(questions, scope, settings), 1):
        models = served
        if one is not None:
            log.append(one)
        show("rerank", number, len(questions.asked))
    return log, models


def _report(made: Made, questions: Questions, scope: TenantScope, tracked: Run) -> dict[str, Any]:
    errors = calibration_errors(made.held, made.profile)
    own = {one.group: one for one in made.certificates}
    group = group_of(scope.config.rerank.criticality, scope.config.languages[0])
    certificate = own.get(group) or (None if own else pooled().groups.get(group))
    _track(made, errors, tracked)
    document = figures_of(certificate, tracked.wait_for_id(), errors.get("large"))
    return document | {
        "source": "tenant" if own else "pooled",
        "group": group,
        "groups": {name: {"lambda": one.price, "alpha": one.alpha, "n": one.n} for name, one in own.items()},
        "blend": made.profile.blend,
        "questions": len(questions.asked),
        "asked_from": questions.source,
        "pairs": _pairs(made.replayed, certificate),
        "message": _sentence(made, questions, certificate),
    }


def _pairs(replayed: Replayed, certificate: Certificate | None) -> dict[str, float]:
    """Mean pairs a question: of the full rerank, and at the certified price where it is one of the tested."""
    found = {"full": float(replayed.full_pairs.mean())}
    if certificate is not None and certificate.price in replayed.prices:
        found["certified"] = float(replayed.pairs[:, replayed.prices.index(certificate.price)].mean())
    return found


def _sentence(made: Made, questions: Questions, certificate: Certificate | None) -> str:
    if not made.certificates:
        least = min(NEEDED.values())
        held = len(made.held)
        fallback = "the pooled certificate" if certificate is not None else "no certificate: everything is reranked"
        return (
            f"{len(questions.asked)} questions leave {held} to certify on, {least} are the least; nothing was stored, "
            f"and the profile that ships goes on serving with {fallback}."
        )
    if certificate is None:
        return "The tenant's criticality needs more questions than there are; its group has no certificate yet."
    risk = "nDCG@10" if "regret" in certificate.risks else "agreement with the full rerank"
    return (
        f"Certified on {certificate.n} questions: price λ = {certificate.price:g} loses at most {certificate.alpha:g} "
        f"of {risk}, with {1 - certificate.delta:.0%} confidence."
    )


def _track(made: Made, errors: dict[str, float], tracked: Run) -> None:
    replayed = made.replayed
    tracked.metrics({f"ece_{role}": value for role, value in errors.items()})
    tracked.metrics({"blend": made.profile.blend, "full_pairs": float(replayed.full_pairs.mean())})
    for one in made.certificates:
        name = one.group.replace("/", "_")
        tracked.metrics({f"lambda_{name}": one.price, f"p_value_{name}": one.p_value, f"n_{name}": one.n})
    certificates = [one.to_json() for one in made.certificates]
    tracked.document({"certificates": certificates, "curves": curves(replayed)}, "calibration.json")
    tracked.document(made.profile.to_json(), "profile.json")
    for name, figure in figures(replayed, made.held, made.profile, made.certificates).items():
        tracked.figure(figure, name)


def _params(questions: Questions, scope: TenantScope) -> dict[str, object]:
    release = scope.release
    assert release is not None
    return {
        "tenant": scope.uid,
        "index_version": release.version,
        "fingerprint": release.fingerprint,
        "chunks": release.chunks,
        "questions": len(questions.asked),
        "asked_from": questions.source,
        "dataset_digest": questions.digest,
        "criticality": scope.config.rerank.criticality,
        "small": scope.config.rerankers.small,
        "large": scope.config.rerankers.large,
    }
