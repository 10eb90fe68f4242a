"""Shared collections in the control plane: which tenant lets which other one search a collection of its corpus.

A grant is the owner's side; the subscriber names the collection as `owner/collection` in its `shared_collections`.
Both are needed. Nothing is remembered between questions, so what is revoked is gone with the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, tuple_
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants.errors import InvalidInput, NotFound
from tenants.ids import collection_name
from tenants.records import Owner, Tenant
from tenants.rows import Rows
from tenants.tables import GRANTS, TENANTS
from tenants.tenant_rows import tenant_of


@dataclass(frozen=True, slots=True)
class Grant:
    """`subscriber` may search `collection` of `owner`; both are tenants' names."""

    owner: str
    collection: str
    subscriber: str
    created_at: datetime

    @property
    def name(self) -> str:
        """What the subscriber writes into `shared_collections`."""
        return f"{self.owner}/{self.collection}"

    def to_json(self) -> dict[str, str]:
        """In the names of `/admin/v1`."""
        return {
            "name": self.name,
            "owner": self.owner,
            "collection": self.collection,
            "subscriber": self.subscriber,
            "created_at": self.created_at.isoformat(),
        }


class GrantRows(Rows):
    """Grants between tenants."""

    def grant(self, owner: Tenant, collection: str, subscriber: Tenant) -> Grant:
        """Again is no error. Raises `InvalidInput` for a bad name or oneself, `NotFound` when either tenant is gone."""
        if owner.uid == subscriber.uid:
            raise InvalidInput.field("/subscriber", "a tenant searches its own collections anyway; name another tenant")
        row = {"owner": owner.uid, "collection": collection_name(collection), "subscriber": subscriber.uid}
        made = self._database.insert(GRANTS).values(**row, created_at=self._clock()).on_conflict_do_nothing()
        try:
            with self._database.writing() as connection:
                connection.execute(made)
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None
        given = (one for one in self.list_grants(owner) if one.owner == owner.name and one.collection == collection)
        grant = next((one for one in given if one.subscriber == subscriber.name), None)
        if grant is None:  # a tenant went at this moment, and its grants with it
            raise NotFound("there is no such tenant")
        return grant

    def list_grants(self, tenant: Owner) -> list[Grant]:
        """Those that the tenant gave and those that it got, by name."""
        owners, subscribers = TENANTS.alias("owners"), TENANTS.alias("subscribers")
        query = (
            select(owners.c.name, GRANTS.c.collection, subscribers.c.name, GRANTS.c.created_at)
            .join(owners, owners.c.uid == GRANTS.c.owner)
            .join(subscribers, subscribers.c.uid == GRANTS.c.subscriber)
            .where((GRANTS.c.owner == tenant.uid) | (GRANTS.c.subscriber == tenant.uid))
            .order_by(owners.c.name, GRANTS.c.collection, subscribers.c.name)
        )
        with self._database.reading() as connection:
            return [Grant(*row) for row in connection.execute(query)]

    def revoke_grant(self, owner: Tenant, collection: str, subscriber: Tenant) -> None:
        """Raises `NotFound` when there is no such grant."""
        ours = (GRANTS.c.owner == owner.uid) & (GRANTS.c.subscriber == subscriber.uid)
        with self._database.writing() as connection:
            if connection.execute(delete(GRANTS).where(ours, GRANTS.c.collection == collection)).rowcount == 0:
                raise NotFound("there is no such grant")

    def granted(self, subscriber: Owner, names: Sequence[str]) -> list[tuple[Tenant, str]]:
        """(owner, collection) of those of `names` (`owner/collection`) that the tenant may search now, in their order.

        One read. A name that is not granted, not there, or of a suspended owner is left out, all in the same way.
        """
        wanted = [tuple(name.split("/", 1)) for name in names if name.count("/") == 1]
        if not wanted:
            return []
        query = (
            select(TENANTS, GRANTS.c.collection)
            .join(GRANTS, GRANTS.c.owner == TENANTS.c.uid)
            .where(GRANTS.c.subscriber == subscriber.uid, TENANTS.c.state == "active")
            .where(tuple_(TENANTS.c.name, GRANTS.c.collection).in_(wanted))
        )
        with self._database.reading() as connection:
            found = {(row.name, row.collection): row for row in connection.execute(query)}
        return [_shared(found[name]) for name in wanted if name in found]


def _shared(row: Row[Any]) -> tuple[Tenant, str]:
    return tenant_of(row), row.collection
