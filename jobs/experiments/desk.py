"""Everything that is done to experiments, for the CLI and the gateway alike: create, show, stop, promote, roll back.

    desk = Desk(store, audit, log, settings)
    desk.create({"name": "cheaper", "tenants": ["acme"], "arms": […]}, "operator")
    desk.look()                                         # what the gateway does every few seconds

Answers are plain JSON values. What is decided is in the control plane before anything else is told of it: an MLflow
that is down is told later, by `look`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from jobs.experiments.analysis import Analysis, planned_for
from jobs.experiments.keeping import Keeper
from jobs.experiments.looking import look_at
from jobs.experiments.observations import by_query, judgements_of, unit_values, unix_ms
from services.audit.reading import AuditReader
from services.contracts import AuditLog, AuditRecord
from services.experiments.spec import Arm, Spec, laid_over, overridden, parse_spec
from services.models import pinned, refuse_strangers
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.errors import Conflict, FathomError, InvalidInput
from tenants.experiment_rows import RUNNING, ChampionRow, Experiment
from tenants.ids import TenantName, TenantUid, new_query_id
from tenants.records import Tenant
from tenants.scope import TenantScope
from tenants.store import Store

PAST_DAYS = 14.0  # of questions that a plan is made of
TELL_S = 3.0  # what a command waits for MLflow
COST_SHARE = 0.05  # of the time, at most, that looking at one experiment may take
_log = logging.getLogger("fathom.experiments")


def utc_now() -> datetime:
    """The desk's default clock."""
    return datetime.now(UTC)


class Desk:
    """See the module. Threads share it; blocking, so call it in a thread from a request."""

    def __init__(
        self,
        store: Store,
        audit: AuditReader,
        log: AuditLog,
        settings: Settings,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._audit = audit
        self._log = log
        self._settings = settings
        self._keeper = Keeper(store, settings)
        self._now = now
        self._cost_s: dict[str, float] = {}
        self._telling_of: set[str] = set()
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="fathom-mlflow")  # one: nothing is told twice at once

    @property
    def root(self) -> str:
        """Where the tenants' data lies."""
        return self._settings.root

    def create(self, raw: object, actor: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Start an experiment; `dry_run` only checks it and plans its size.

        Aliases of registered models become the versions that they mean now: an arm stays what it is. Raises
        `InvalidInput` naming the field, `NotFound` for a tenant, `Conflict` for a name or a tenant that is taken.
        """
        spec = parse_spec(raw)
        for number, arm in enumerate(spec.arms):
            refuse_strangers(arm.overrides.get("rerankers"), spec.tenants, f"/arms/{number}/overrides/rerankers")
        spec = self._pinned(spec)
        tenants = [self._store.get_tenant(name) for name in spec.tenants]
        for tenant in tenants:
            for number, arm in enumerate(spec.arms):
                overridden(serving_config(self._store, tenant), arm.overrides, f"/arms/{number}/overrides")
        plan = self._plan(spec, tenants)
        if plan["planned"] is not None:
            spec = spec.model_copy(update={"planned": plan["planned"]})
        told: dict[str, Any] = spec.model_dump(mode="json")
        if dry_run:
            return {"name": spec.name, "state": "planned", "spec": told, "plan": plan}
        made = self._store.create_experiment(spec.name, told, spec.ramp, tenants)
        self._witness(made, {"action": "create", "actor": actor})
        self._tell(made, None)
        return {**self._told(self._store.get_experiment(made.name)), "plan": plan}

    def experiments(self) -> list[dict[str, Any]]:
        """Newest first, without figures."""
        return [self._told(one) for one in self._store.list_experiments()]

    def show(self, name: str) -> dict[str, Any]:
        """One experiment with its figures as of now. Raises `NotFound`."""
        found = self._store.get_experiment(name)
        return {**self._told(found), "analysis": look_at(self._store, self._audit, found, self._now()).to_json()}

    def set_ramp(self, name: str, ramp: float, actor: str) -> dict[str, Any]:
        """Let another share of units take part; nobody changes arms. Raises `NotFound`, `Conflict`, `InvalidInput`."""
        if not 0 <= ramp <= 1:
            raise InvalidInput.field("/ramp", "a ramp is a share between 0 and 1")
        changed = self._store.set_ramp(name, ramp)
        self._witness(changed, {"action": "ramp", "ramp": ramp, "actor": actor})
        return self._told(changed)

    def stop(self, name: str, actor: str, why: str = "") -> dict[str, Any]:
        """End it; the champion answers everybody again. Raises `NotFound`, `Conflict`."""
        return self._end(self._store.get_experiment(name), {"word": "stopped", "why": why, "by": actor})

    def promote(self, name: str, actor: str, arm: str | None = None) -> dict[str, Any]:
        """Serve an arm's variant to everybody of the experiment from now on, and end the experiment.

        Without `arm` the one that the verdict calls better, or the only one beside the control. What was cut off half
        way is finished by doing it again. Raises `InvalidInput` where there is no such arm, `NotFound`, and `Conflict`
        for one that serves already, or while another experiment runs on one of the tenants.
        """
        found = self._store.get_experiment(name)
        spec = parse_spec(found.spec)
        self._refuse_beside(found)
        chosen = spec.arm(arm or self._promotable(spec, found))
        serving = self._serving(found)
        others = [tenant for tenant in found.tenants if serving[tenant[1]] != spec.variant(chosen.name)]
        told = {"word": "promoted", "arm": chosen.name, "by": actor}
        if not others and {**(found.outcome or {}), **told} == found.outcome:
            raise Conflict(f"{spec.variant(chosen.name)} serves already; roll it back first")
        crowns = [(owner, self._crown(owner, chosen)) for owner in map(self._owner, others)]  # all can be, or none is
        ended = self._end(found, told)
        for owner, overrides in crowns:
            self._crowned(owner, self._store.promote(owner, spec.variant(chosen.name), overrides, actor))
        return ended

    def rollback(self, name: str, actor: str) -> dict[str, Any]:
        """Serve again what served before the promotion. Raises `NotFound`, and `Conflict` when nothing of it serves."""
        found = self._store.get_experiment(name)
        self._refuse_beside(found)
        serving = self._serving(found)
        ours = [owner for owner in self._owners(found) if (serving[owner.uid] or "").startswith(f"{name}/")]
        if not ours:
            raise Conflict(f"no tenant is served by a variant of {name}; see `fathom ab show {name}`")
        for owner in ours:
            self._crowned(owner, self._store.rollback(owner, actor))
        outcome = {**(found.outcome or {}), "word": "rolled back", "by": actor, "at": self._now().isoformat()}
        self._tell(self._store.set_outcome(name, outcome), None)
        return self._told(self._store.get_experiment(name))

    def delete(self, name: str) -> dict[str, Any]:
        """Forget one that has ended; what was promoted stays. Raises `NotFound`, `Conflict`."""
        self._store.delete_experiment(name)
        return {"name": name, "deleted": True}

    def look(self) -> None:
        """Look at every running experiment that nobody else looks at; stop what harms; tell MLflow what it lacks."""
        looked = [(one, self._look(one)) for one in self._store.list_experiments(running=True) if self._due(one)]
        seen = {one.name: analysis for one, analysis in looked if analysis is not None}
        for one in self._store.list_experiments():
            if one.name in seen or (self._keeper.lacks(one) and self._due(one)):
                self._hand_over(one, seen.get(one.name))

    def _due(self, one: Experiment) -> bool:
        every_s = max(self._settings.experiment_poll_s, self._cost_s.get(one.name, 0.0) / COST_SHARE)
        return self._store.claim_watch(one.name, every_s * 0.9)

    def _look(self, one: Experiment) -> Analysis | None:
        began = time.monotonic()
        try:
            analysis = look_at(self._store, self._audit, one, self._now())
            if analysis.verdict.stops:
                _log.warning("experiment %s is stopped: %s", one.name, analysis.verdict.reason)
                told = {"word": analysis.verdict.word, "by": "guardrail", "verdict": analysis.verdict.to_json()}
                self._end(one, told)
        except FathomError as error:
            _log.warning("experiment %s could not be looked at: %s", one.name, error.detail)
            return None
        except Exception:  # noqa: BLE001 - whatever is wrong with one experiment, the others keep their guardrails
            _log.exception("experiment %s could not be looked at", one.name)
            return None
        self._cost_s[one.name] = time.monotonic() - began
        return analysis

    def _end(self, found: Experiment, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """`outcome` is kept with the verdict of the last look, which sees every window closed."""
        told = {"at": self._now().isoformat(), **outcome}
        ended = found if outcome["word"] == "promoted" and found.state != RUNNING else None
        ended = ended or self._store.stop_experiment(found.name, told)
        analysis = look_at(self._store, self._audit, ended, self._now())
        ended = self._store.set_outcome(found.name, {"verdict": analysis.verdict.to_json(), **told})
        self._witness(ended, {"action": "end", **{name: told[name] for name in ("word", "by")}})
        self._tell(ended, analysis)
        return self._told(self._store.get_experiment(found.name))

    def _refuse_beside(self, found: Experiment) -> None:
        """What serves must not change under an experiment that compares with it."""
        for other in self._store.list_experiments(running=True):
            if other.name != found.name and set(other.uids) & set(found.uids):
                raise Conflict(f"{other.name} runs on a tenant of {found.name}; stop it first")

    def _serving(self, found: Experiment) -> dict[str, str | None]:
        """{uid: the variant that serves}."""
        rows = {owner.uid: self._store.champions(owner, 1) for owner in self._owners(found)}
        return {uid: newest[0].champion.variant if newest else None for uid, newest in rows.items()}

    def _promotable(self, spec: Spec, found: Experiment) -> str:
        if len(spec.arms) == 2:
            return spec.arms[1].name
        verdict = look_at(self._store, self._audit, found, self._now()).verdict
        if verdict.word == "better" and verdict.arm is not None:
            return verdict.arm
        raise InvalidInput.field("/arm", f"no arm is better yet ({verdict.word}); name the one to promote")

    def _tell(self, one: Experiment, analysis: Analysis | None) -> None:
        """MLflow: now if it answers at once, else behind the caller's back, else at the next look."""
        with suppress(TimeoutError):
            self._teller.submit(self._telling, one, analysis).result(TELL_S)

    def _hand_over(self, one: Experiment, analysis: Analysis | None) -> None:
        """MLflow, behind the caller's back; what still waits for it is not handed over twice."""
        if one.name not in self._telling_of:
            self._telling_of.add(one.name)
            self._teller.submit(self._telling, one, analysis)

    def _telling(self, one: Experiment, analysis: Analysis | None) -> None:
        self._telling_of.discard(one.name)
        try:
            seen = analysis or look_at(self._store, self._audit, one, self._now())
            self._keeper.keep(self._store.get_experiment(one.name), seen)
        except FathomError as error:
            _log.info("experiment %s is told to MLflow later: %s", one.name, error.detail)

    def _told(self, one: Experiment) -> dict[str, Any]:
        return {
            "name": one.name,
            "state": one.state,
            "ramp": one.ramp,
            "tenants": [name for name, _ in one.tenants],
            "spec": dict(one.spec),
            "outcome": None if one.outcome is None else dict(one.outcome),
            "created_at": one.created_at.isoformat(),
            "stopped_at": None if one.stopped_at is None else one.stopped_at.isoformat(),
            "run_id": one.tracked.get("run"),
            "model": one.tracked.get("model"),
        }

    def _pinned(self, spec: Spec) -> Spec:
        return spec.model_copy(update={"arms": tuple(self._pinned_arm(arm) for arm in spec.arms)})

    def _pinned_arm(self, arm: Arm) -> Arm:
        asked = arm.overrides.get("rerankers")
        if not isinstance(asked, dict):
            return arm
        fixed = {
            role: pinned(str(name), registry=self._settings.registry) if str(name).startswith("models:/") else name
            for role, name in asked.items()
        }
        return arm.model_copy(update={"overrides": {**arm.overrides, "rerankers": fixed}})

    def _plan(self, spec: Spec, tenants: list[Tenant]) -> dict[str, Any]:
        """What the tenants' own last questions say of the size; None where they say nothing yet."""
        since = self._now() - timedelta(days=PAST_DAYS)
        values = [value for tenant in tenants for value in self._past_values(spec, tenant, since)]
        mean = float(np.mean(values)) if values else 0.0
        told = {"units_seen": len(values), "days": PAST_DAYS, "metric": spec.metric, "mean": mean or None}
        if spec.planned is not None or spec.kind != "ab" or len(values) < 50 or mean == 0:
            return {**told, "planned": spec.planned, "days_needed": None}
        planned = planned_for(spec, np.array(values, np.float64))
        a_day = len(values) / PAST_DAYS * spec.ramp * (1 - spec.holdout)
        return {**told, "planned": planned, "days_needed": round(planned / a_day, 1) if a_day else None}

    def _past_values(self, spec: Spec, tenant: Tenant, since: datetime) -> list[float]:
        """Each known unit's value in a window as long as the experiment's, from its first question since then."""
        heard = self._store.feedback_since(tenant, since)
        said = by_query(judgements_of(heard))
        units = self._audit.units_since(tenant.uid, unix_ms(since))
        return [unit_values(rows, said, rows[0].at_ms + spec.window_s * 1000)[spec.metric] for rows in units.values()]

    def _owners(self, one: Experiment) -> list[TenantScope]:
        return [self._owner(tenant) for tenant in one.tenants]

    def _owner(self, tenant: tuple[str, str]) -> TenantScope:
        config = self._store.get_tenant(tenant[0]).config
        return TenantScope(TenantName(tenant[0]), TenantUid(tenant[1]), config, self._settings.root)

    def _crown(self, owner: TenantScope, arm: Arm) -> dict[str, Any]:
        """The overrides that serve the owner with the arm in them. Raises `InvalidInput` where they no longer fit."""
        rows = self._store.champions(owner, 1)
        overrides = laid_over(rows[0].champion.overrides if rows else {}, arm.overrides)
        overridden(owner.config, overrides)  # the tenant's configuration may have changed since
        return overrides

    def _crowned(self, owner: TenantScope, row: ChampionRow) -> None:
        self._append(owner, {"action": row.action, "variant": row.champion.variant, "actor": row.actor})

    def _witness(self, one: Experiment, facts: Mapping[str, Any]) -> None:
        for owner in self._owners(one):
            self._append(owner, {"experiment": one.name, **facts})

    def _append(self, owner: TenantScope, facts: Mapping[str, Any]) -> None:
        """One more record in the tenant's chain: who changed what answers its questions."""
        at_ms = unix_ms(self._now())
        query_id = new_query_id(at_ms)
        told = {"query_id": query_id, "state": "change", "change": dict(facts)}
        asyncio.run(_appended(self._log, owner, AuditRecord(query_id, at_ms, told)))


def serving_config(store: Store, tenant: Tenant) -> TenantConfig:
    """The tenant's configuration under what was promoted last."""
    rows = store.champions(tenant, 1)
    return overridden(tenant.config, rows[0].champion.overrides) if rows else tenant.config


def open_desk(settings: Settings, store: Store, audit: AuditReader, log: AuditLog) -> Desk:
    """What a gateway is given."""
    return Desk(store, audit, log, settings)


async def _appended(log: AuditLog, owner: TenantScope, record: AuditRecord) -> None:
    await log.append(owner, record)
