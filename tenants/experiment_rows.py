"""Experiments in the control plane: what is compared on whom, and which variant serves each tenant.

A spec is JSON that this room does not read into: services/experiments/spec.py does. A tenant is in one running
experiment at most, so no two of them can disturb each other. `champions` is append-only: the newest row of a tenant
serves, a promotion or rollback is one more row, and each row names the one that it can be rolled back to.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants.errors import Conflict, NotFound
from tenants.records import Owner, Tenant
from tenants.rows import Rows, hold, known, to_json
from tenants.scope import Champion, Trial
from tenants.tables import CHAMPIONS, EXPERIMENTS, TENANTS, TRIALS

RUNNING, STOPPED = "running", "stopped"
Action = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. `ramp` is the share of units that take part now; `outcome` is why it ended, None while it runs.

    `tracked` is what was told to MLflow so far; `tenants` are those that still exist.
    """

    name: str
    state: str
    spec: Mapping[str, Any]
    salt: str
    ramp: float
    outcome: Mapping[str, Any] | None
    tracked: Mapping[str, Any]
    tenants: tuple[tuple[str, str], ...]
    created_at: datetime
    stopped_at: datetime | None

    @property
    def uids(self) -> tuple[str, ...]:
        """Of `tenants`, which are (name, uid)."""
        return tuple(uid for _, uid in self.tenants)


@dataclass(frozen=True, slots=True)
class ChampionRow:
    """One promotion or rollback of one tenant; `variant` None = the tenant's plain configuration."""

    champion: Champion
    action: str
    actor: str
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """In the names of `/admin/v1`."""
        return {
            "number": self.champion.number,
            "variant": self.champion.variant,
            "overrides": dict(self.champion.overrides),
            "action": self.action,
            "actor": self.actor,
            "at": self.created_at.isoformat(),
        }


class ExperimentRows(Rows):
    """Experiments and champions."""

    def create_experiment(
        self, name: str, spec: Mapping[str, Any], ramp: float, tenants: Sequence[Tenant]
    ) -> Experiment:
        """Start it. Raises `Conflict` for a name that is taken, or a tenant that is in another running experiment."""
        row = {"name": name, "state": RUNNING, "spec": to_json(spec), "salt": secrets.token_hex(16)}
        try:
            with self._database.writing() as connection:
                for tenant in sorted(tenants, key=lambda one: one.uid):  # one order: two calls must not hold each other
                    self._refuse_second(connection, tenant)
                now = self._clock()  # whoever creates it tells of it; others look after a while
                times = {"created_at": now, "watched_at": now}
                made = EXPERIMENTS.insert().values(**row, ramp=repr(ramp), tracked="{}", **times)
                connection.execute(made)
                connection.execute(TRIALS.insert(), [{"experiment": name, "uid": tenant.uid} for tenant in tenants])
        except ConstraintViolated:
            raise Conflict(f"there is an experiment {name} already; choose another name") from None
        return self.get_experiment(name)

    def get_experiment(self, name: str) -> Experiment:
        """Raises `NotFound`."""
        found = self._experiments(EXPERIMENTS.c.name == known(name, "experiment"))
        if not found:
            raise NotFound(f"there is no experiment {name}")
        return found[0]

    def list_experiments(self, *, running: bool = False) -> list[Experiment]:
        """Newest first."""
        return self._experiments(EXPERIMENTS.c.state == RUNNING if running else EXPERIMENTS.c.number > 0)

    def set_ramp(self, name: str, ramp: float) -> Experiment:
        """Raises `NotFound`, `Conflict` for one that has ended."""
        self._alter(name, {"ramp": repr(ramp)})
        return self.get_experiment(name)

    def stop_experiment(self, name: str, outcome: Mapping[str, Any]) -> Experiment:
        """End it: from now on the champion answers everybody. Raises `NotFound`, `Conflict` when it has ended."""
        self._alter(name, {"state": STOPPED, "outcome": to_json(outcome), "stopped_at": self._clock()})
        return self.get_experiment(name)

    def set_outcome(self, name: str, outcome: Mapping[str, Any]) -> Experiment:
        """Of one that has ended: what became of it afterwards. Raises `NotFound`."""
        with self._database.writing() as connection:
            connection.execute(update(EXPERIMENTS).where(EXPERIMENTS.c.name == name).values(outcome=to_json(outcome)))
        return self.get_experiment(name)

    def delete_experiment(self, name: str) -> None:
        """Raises `NotFound`, `Conflict` while it runs. What was promoted stays."""
        if self.get_experiment(name).state == RUNNING:
            raise Conflict(f"{name} is running; stop it first")
        with self._database.writing() as connection:
            connection.execute(delete(EXPERIMENTS).where(EXPERIMENTS.c.name == name))

    def set_tracked(self, name: str, tracked: Mapping[str, Any]) -> None:
        """What MLflow holds of it now."""
        with self._database.writing() as connection:
            connection.execute(update(EXPERIMENTS).where(EXPERIMENTS.c.name == name).values(tracked=to_json(tracked)))

    def claim_watch(self, name: str, every_s: float) -> bool:
        """True for one caller in `every_s` seconds, whoever asks: replicas share the work of watching."""
        now = self._clock()
        due = EXPERIMENTS.c.watched_at.is_(None) | (EXPERIMENTS.c.watched_at <= now - timedelta(seconds=every_s))
        with self._database.writing() as connection:
            ours = update(EXPERIMENTS).where(EXPERIMENTS.c.name == name, due).values(watched_at=now)
            return bool(connection.execute(ours).rowcount)

    def promote(self, tenant: Owner, variant: str, overrides: Mapping[str, Any], actor: str) -> ChampionRow:
        """Serve this variant from now on; one that serves already is left as it is. Raises `NotFound`."""
        with self._database.writing() as connection:
            hold(connection, tenant)
            serving = _newest(connection, tenant)
            if serving is not None and serving.variant == variant:
                return _champion_row(serving)
            values = {"variant": variant, "overrides": to_json(overrides), "previous": serving.number if serving else 0}
            return self._crown(connection, tenant, values, "promote", actor)

    def rollback(self, tenant: Owner, actor: str) -> ChampionRow:
        """Serve again what served before the last promotion. Raises `Conflict` when nothing was promoted."""
        with self._database.writing() as connection:
            hold(connection, tenant)
            serving = _newest(connection, tenant)
            if serving is None or serving.variant is None:
                raise Conflict("nothing was promoted, so there is nothing to roll back")
            before = _row(connection, serving.previous)
            values = {
                "variant": before.variant if before else None,
                "overrides": before.overrides if before else "{}",
                "previous": before.previous if before else 0,
            }
            return self._crown(connection, tenant, values, "rollback", actor)

    def champions(self, tenant: Owner, limit: int = 20) -> list[ChampionRow]:
        """The tenant's promotions and rollbacks, newest first: the first one serves."""
        ours = select(CHAMPIONS).where(CHAMPIONS.c.uid == tenant.uid).order_by(CHAMPIONS.c.number.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_champion_row(row) for row in connection.execute(ours)]

    def _crown(
        self, connection: Connection, tenant: Owner, values: Mapping[str, Any], action: Action, actor: str
    ) -> ChampionRow:
        row = {**values, "uid": tenant.uid, "action": action, "actor": actor, "created_at": self._clock()}
        number = connection.execute(CHAMPIONS.insert().values(**row)).inserted_primary_key[0]  # type: ignore[index]
        made = _row(connection, number)
        assert made is not None
        return _champion_row(made)

    def _experiments(self, where: Any) -> list[Experiment]:
        query = select(EXPERIMENTS).where(where).order_by(EXPERIMENTS.c.number.desc())
        members = (
            select(TRIALS.c.experiment, TENANTS.c.name, TENANTS.c.uid)
            .join(TENANTS, TENANTS.c.uid == TRIALS.c.uid)
            .join(EXPERIMENTS, EXPERIMENTS.c.name == TRIALS.c.experiment)
            .where(where)
            .order_by(TENANTS.c.name)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            of: dict[str, list[tuple[str, str]]] = {}
            for row in connection.execute(members):
                of.setdefault(row[0], []).append((row[1], row[2]))
        return [_experiment(row, tuple(of.get(row.name, ()))) for row in rows]

    def _alter(self, name: str, values: Mapping[str, Any]) -> None:
        self.get_experiment(name)
        running = (EXPERIMENTS.c.name == name) & (EXPERIMENTS.c.state == RUNNING)
        with self._database.writing() as connection:
            if not connection.execute(update(EXPERIMENTS).where(running).values(**values)).rowcount:
                raise Conflict(f"{name} has ended; create another one")

    def _refuse_second(self, connection: Connection, tenant: Tenant) -> None:
        hold(connection, tenant)
        other = (
            select(EXPERIMENTS.c.name)
            .join(TRIALS, TRIALS.c.experiment == EXPERIMENTS.c.name)
            .where(TRIALS.c.uid == tenant.uid, EXPERIMENTS.c.state == RUNNING)
            .limit(1)
        )
        busy = connection.execute(other).scalar_one_or_none()
        if busy is not None:
            raise Conflict(f"{tenant.name} takes part in {busy}; stop that experiment first")


def live(connection: Connection, tenant: Owner) -> tuple[Champion | None, Trial | None]:
    """What answers the tenant's questions now: its champion (None = its plain configuration), its experiment."""
    newest = _newest(connection, tenant)
    running = (
        select(EXPERIMENTS)
        .join(TRIALS, TRIALS.c.experiment == EXPERIMENTS.c.name)
        .where(TRIALS.c.uid == tenant.uid, EXPERIMENTS.c.state == RUNNING)
        .limit(1)
    )
    row = connection.execute(running).one_or_none()
    trial = None if row is None else Trial(row.name, row.salt, float(row.ramp), json.loads(row.spec))
    return (None if newest is None else _champion(newest)), trial


def _newest(connection: Connection, tenant: Owner) -> Row[Any] | None:
    query = select(CHAMPIONS).where(CHAMPIONS.c.uid == tenant.uid).order_by(CHAMPIONS.c.number.desc()).limit(1)
    return connection.execute(query).one_or_none()


def _row(connection: Connection, number: int) -> Row[Any] | None:
    return connection.execute(select(CHAMPIONS).where(CHAMPIONS.c.number == number)).one_or_none()


def _champion(row: Row[Any]) -> Champion:
    return Champion(row.number, row.variant, json.loads(row.overrides), row.action == "rollback")


def _champion_row(row: Row[Any]) -> ChampionRow:
    return ChampionRow(_champion(row), row.action, row.actor, row.created_at)


def _experiment(row: Row[Any], tenants: tuple[tuple[str, str], ...]) -> Experiment:
    return Experiment(
        name=row.name,
        state=row.state,
        spec=json.loads(row.spec),
        salt=row.salt,
        ramp=float(row.ramp),
        outcome=None if row.outcome is None else json.loads(row.outcome),
        tracked=json.loads(row.tracked),
        tenants=tenants,
        created_at=row.created_at,
        stopped_at=row.stopped_at,
    )
