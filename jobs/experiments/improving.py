"""The loop that improves a tenant's reranker by its users' clicks: one step at a time, without a person. Ray-free.

    enough feedback? → train on it → better on held-out clicks? → certify → A/B test → better for users? → promote

`advance` does what is due and says why it stops there; a scheduler calls it again. Where it stands is read from the
control plane, so a pass may be killed at any moment: the next one goes on, and what was begun twice is harmless. Each
gate that fails ends the round with its reason, and the champion stays. A certificate that the corpus or the traffic has
outgrown is renewed first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from jobs.experiments.desk import Desk, serving_config
from jobs.experiments.freshness import stale
from services.experiments.serving import Variants
from services.experiments.spec import overridden
from tenants.config import TenantConfig
from tenants.corpus.release import pinned
from tenants.errors import FathomError, InvalidInput
from tenants.experiment_rows import RUNNING, Experiment
from tenants.records import Tenant
from tenants.store import Store

ACTOR = "loop"
PREFIX = "loop-"
Stage = Literal["recertified", "gathering", "waiting", "untrained", "no_gain", "testing", "rejected", "promoted"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a round needs. `feedback` is judgements since the last round; `gain` of nDCG@10 on held-out clicks.

    `ramp`, `metric`, `guardrails`, `window_s`, `planned`, `minimum_effect` are the experiment's.
    """

    tenant: str
    role: Literal["small", "large"] = "large"
    feedback: int = 300
    gain: float = 0.005
    ramp: float = 1.0
    metric: str = "click_rank"
    guardrails: Mapping[str, float] = field(default_factory=dict)
    window_s: float = 1_800.0
    planned: int | None = None
    minimum_effect: float = 0.03


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training made: the registered version, nDCG@10 on held-out clicks after and before, as best blended."""

    reference: str
    after: float
    before: float
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """Where a pass stopped, why, and figures; `done` when the round is over."""

    stage: Stage
    reason: str
    done: bool
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"stage": self.stage, "reason": self.reason, "done": self.done, **self.facts}


Train = Callable[[str], Trained]  # from a base reference
Certify = Callable[[TenantConfig], Mapping[str, Any]]  # a configuration's cross-encoders, on the tenant's own clicks


def advance(store: Store, desk: Desk, wishes: Wishes, train: Train, certify: Certify) -> Step:
    """Do what is due. Raises `NotFound` for the tenant, and what the desk and the stores raise."""
    tenant = store.get_tenant(wishes.tenant)
    ours = [one for one in store.list_experiments() if one.name.startswith(prefix_of(tenant))]
    running = [one for one in store.list_experiments(running=True) if tenant.uid in one.uids]
    if running and running[0] not in ours:
        return _stop("waiting", f"{tenant.name} takes part in {running[0].name}; the loop waits for its end")
    if running:
        return _judged(desk, running[0])
    if ours and (ended := _unheard(store, ours[0])) is not None:
        return ended
    since = ours[0].created_at if ours else tenant.created_at
    if (why := stale(pinned(Variants().champion(store.scope_of(tenant, desk.root))), datetime.now(UTC))) is not None:
        fresh = _certified(certify, serving_config(store, tenant))
        if fresh is not None:
            return Step("recertified", f"the certificate was renewed, for {why}", False, {"certified": fresh})
    told = _judgements(store, tenant, since)
    if told < wishes.feedback:
        return _stop("gathering", f"{told} of {wishes.feedback} judgements since {since:%Y-%m-%d %H:%M}")
    number = max((int(one.name.rpartition("-")[2]) for one in ours), default=0) + 1
    return _round(store, desk, wishes, tenant, number, train, certify)


def _round(
    store: Store, desk: Desk, wishes: Wishes, tenant: Tenant, number: int, train: Train, certify: Certify
) -> Step:
    serving = serving_config(store, tenant)
    try:
        made = train(getattr(serving.rerankers, wishes.role))
    except InvalidInput as error:
        return _stop("untrained", error.detail)
    facts = {"model": made.reference, "run_id": made.run_id, "before": made.before, "after": made.after}
    if made.after < made.before + wishes.gain:
        gained = f"nDCG@10 {made.before:.4f} → {made.after:.4f} on held-out clicks, {wishes.gain:g} more are asked for"
        return _stop("no_gain", gained, **facts)
    overrides = {"rerankers": {wishes.role: made.reference}}
    certified = _certified(certify, overridden(serving, overrides))
    spec = {
        "name": f"{prefix_of(tenant)}{number}",
        "tenants": [tenant.name],
        "arms": [{"name": "champion"}, {"name": "challenger", "overrides": overrides}],
        "metric": wishes.metric,
        "guardrails": [{"metric": name, "tolerance": part} for name, part in wishes.guardrails.items()],
        "ramp": wishes.ramp,
        "window_s": wishes.window_s,
        "planned": wishes.planned,
        "minimum_effect": wishes.minimum_effect,
        "note": f"made by the loop: {made.reference}",
    }
    desk.create(spec, ACTOR)
    reason = f"{made.reference} is tried on users: nDCG@10 {made.before:.4f} → {made.after:.4f} on held-out clicks"
    return Step("testing", reason, False, {"experiment": spec["name"], "certified": certified, **facts})


def _unheard(store: Store, newest: Experiment) -> Step | None:
    """The end of a round that the guardrails made between two passes: it is told once."""
    outcome = dict(newest.outcome or {})
    if outcome.get("by") != "guardrail" or outcome.get("told"):
        return None
    store.set_outcome(newest.name, outcome | {"told": True})
    return _stop("rejected", str(outcome["verdict"]["reason"]), experiment=newest.name)


def _judged(desk: Desk, experiment: Experiment) -> Step:
    """What the experiment says now; a verdict is acted on."""
    seen = desk.show(experiment.name)
    if seen["state"] != RUNNING:  # the guardrails were quicker
        return _stop("rejected", str(seen["outcome"]["verdict"]["reason"]), experiment=experiment.name)
    verdict = seen["analysis"]["verdict"]
    facts = {"experiment": experiment.name, "units": seen["analysis"]["units"], "planned": seen["analysis"]["planned"]}
    if verdict["word"] in ("collecting", "worse"):  # worse, but not yet by enough to be sure of harm
        return Step("testing", verdict["reason"], False, facts)
    if verdict["word"] == "better":
        desk.promote(experiment.name, ACTOR, verdict["arm"])
        return _stop("promoted", verdict["reason"], **facts)
    desk.stop(experiment.name, ACTOR, verdict["reason"])
    return _stop("rejected", verdict["reason"], **facts)


def prefix_of(tenant: Tenant) -> str:
    """How the loop's experiments of a tenant begin; by uid, for a name may be too long and be given away again."""
    return f"{PREFIX}{tenant.uid.replace('_', '-')}-"


def _certified(certify: Certify, config: TenantConfig) -> str | None:
    """The certificate of the challenger; without one it is reranked in full, up to the latency budget."""
    try:
        made = certify(config).get("certificate")
    except FathomError:
        return None
    return None if made is None else str(made)


def _judgements(store: Store, tenant: Tenant, since: datetime) -> int:
    return sum(bool(one.body.get("clicked") or one.body.get("relevant")) for one in store.feedback_since(tenant, since))


def _stop(stage: Stage, reason: str, **facts: Any) -> Step:
    return Step(stage, reason, stage not in ("gathering", "waiting"), facts)
