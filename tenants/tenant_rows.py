"""Tenants in the control plane: create, read, configure, suspend, delete."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from sqlalchemy import Row, delete, or_, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants.config import MAX_SHARED, SHARED, TenantConfig, validate_config
from tenants.errors import Conflict, IntegrityError, InvalidInput, NotFound
from tenants.ids import TenantName, TenantUid, new_tenant_uid, tenant_name
from tenants.records import Owner, Tenant, TenantState
from tenants.rows import Rows, to_json
from tenants.tables import IDEMPOTENCY, TENANTS


class TenantRows(Rows):
    """The operator's hand on tenants, by name."""

    def create_tenant(self, name: str, config: TenantConfig | None = None) -> Tenant:
        """A new active tenant with a new uid. Raises `Conflict` when the name is taken."""
        tenant = Tenant(tenant_name(name), new_tenant_uid(), "active", config or TenantConfig(), self._clock())
        row = {"uid": tenant.uid, "name": tenant.name, "state": tenant.state, "created_at": tenant.created_at}
        try:
            with self._database.writing() as connection:
                connection.execute(TENANTS.insert().values(**row, config=_config_text(tenant.config)))
        except ConstraintViolated:
            raise Conflict(f"a tenant named {name} exists; choose another name or update that one") from None
        return tenant

    def get_tenant(self, name: str) -> Tenant:
        """Raises `NotFound`."""
        wanted = _name_or_not_found(name)
        with self._database.reading() as connection:
            row = connection.execute(select(TENANTS).where(TENANTS.c.name == wanted)).one_or_none()
        if row is None:
            raise _unknown()
        return tenant_of(row)

    def tenant_by_uid(self, uid: TenantUid) -> Tenant:
        """Raises `NotFound`; for jobs, which know their tenant by uid."""
        with self._database.reading() as connection:
            row = connection.execute(select(TENANTS).where(TENANTS.c.uid == uid)).one_or_none()
        if row is None:
            raise _unknown()
        return tenant_of(row)

    def check_open(self, tenant: Owner) -> None:
        """Raises `NotFound` when the tenant is deleted, or about to be: nothing may be written for it any more."""
        query = select(TENANTS.c.state).where(TENANTS.c.uid == tenant.uid)
        with self._database.reading() as connection:
            state = connection.execute(query).scalar_one_or_none()
        if state in (None, "deleting"):
            raise _unknown()

    def list_tenants(self) -> list[Tenant]:
        """All of them, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(TENANTS).order_by(TENANTS.c.name)).all()
        return [tenant_of(row) for row in rows]

    def update_config(self, name: str, config: TenantConfig) -> Tenant:
        """Replace the configuration; `config.merged` makes one from a partial change."""
        return self._change(name, config=_config_text(config))

    def set_state(self, name: str, state: TenantState) -> Tenant:
        """`deleting` is final: only `delete_tenant` leads on."""
        if state not in get_args(TenantState):
            raise InvalidInput.field("/state", "a tenant is active, suspended or deleting")
        return self._change(name, state=state)

    def delete_tenant(self, name: str) -> None:
        """Leave no row of the tenant, nor its bytes. Its data is the caller's to delete first. Raises `NotFound`."""
        wanted = _name_or_not_found(name)
        with self._database.writing() as connection:
            uid = connection.execute(select(TENANTS.c.uid).where(TENANTS.c.name == wanted)).scalar_one_or_none()
            if uid is None:
                raise _unknown()
            ours = or_(IDEMPOTENCY.c.caller == uid, IDEMPOTENCY.c.tenant == wanted)
            connection.execute(delete(IDEMPOTENCY).where(ours))
            connection.execute(delete(TENANTS).where(TENANTS.c.uid == uid))
        self._database.forget()

    def _change(self, name: str, **values: str) -> Tenant:
        wanted = _name_or_not_found(name)
        with self._database.writing() as connection:
            row = connection.execute(select(TENANTS).where(TENANTS.c.name == wanted).with_for_update()).one_or_none()
            if row is None:
                raise _unknown()
            if row.state == "deleting" and values.get("state") != "deleting":
                raise Conflict(f"tenant {name} is being deleted; wait for the end, then create it anew")
            connection.execute(update(TENANTS).where(TENANTS.c.uid == row.uid).values(**values))
        return self.get_tenant(name)


def tenant_of(row: Row[Any]) -> Tenant:
    """A row with the columns of `TENANTS`. Raises `IntegrityError` when its configuration no longer reads."""
    try:
        config = validate_config(_readable(json.loads(row.config)))
    except InvalidInput as error:
        raise IntegrityError(f"the stored configuration of {row.name} is not readable: {error.detail}") from None
    return Tenant(TenantName(row.name), TenantUid(row.uid), row.state, config, row.created_at)


def _readable(stored: dict[str, Any]) -> dict[str, Any]:
    """Before collections could be shared, any text could stand in their list: it names none."""
    if "shared_collections" not in stored:
        return stored
    names = [name for name in stored["shared_collections"] if re.match(SHARED, name)]
    return stored | {"shared_collections": names[:MAX_SHARED]}


def _config_text(config: TenantConfig) -> str:
    # Only what differs from the defaults: a tenant that chose nothing follows a better default.
    return to_json(config.model_dump(mode="json", exclude_defaults=True))


def _name_or_not_found(name: str) -> TenantName:
    try:
        return tenant_name(name)
    except InvalidInput:
        raise _unknown() from None


def _unknown() -> NotFound:
    return NotFound("there is no such tenant")
