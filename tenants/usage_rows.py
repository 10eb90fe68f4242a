"""What a tenant uses now and has used of a daily quota; in the control plane, because it must outlive a restart."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants.errors import NotFound, QuotaExceeded
from tenants.records import FINISHED, Owner
from tenants.rows import Rows
from tenants.tables import JOBS, USAGE


class UsageRows(Rows):
    """Counters per tenant, name and UTC day, and the jobs at work."""

    def spend_today(self, tenant: Owner, name: str, amount: int, quota: int | None) -> int:
        """Count `amount` units of `name` (such as `index_bytes`) and give the day's sum; None = no quota.

        Raises `QuotaExceeded` with the seconds to midnight UTC, counting nothing, when the sum would pass `quota`.
        """
        now = self._clock()
        row = {"uid": tenant.uid, "name": name, "day": now.date().isoformat(), "amount": amount}
        sum_ = USAGE.c.amount + amount
        insert = self._database.insert(USAGE).values(**row)
        add = insert.on_conflict_do_update(index_elements=["uid", "name", "day"], set_={"amount": sum_})
        try:
            with self._database.writing() as connection:
                used = int(connection.execute(add.returning(USAGE.c.amount)).scalar_one())
                _hold_to(name, used - amount, amount, quota, now)
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None
        return used

    def open_jobs(self, tenant: Owner) -> list[str]:
        """The ids of the tenant's jobs that have not finished, oldest first."""
        ours = (JOBS.c.uid == tenant.uid) & JOBS.c.state.not_in(FINISHED)
        with self._database.reading() as connection:
            return list(connection.execute(select(JOBS.c.job_id).where(ours).order_by(JOBS.c.number)).scalars())

    def check_today(self, tenant: Owner, name: str, amount: int, quota: int | None) -> None:
        """Raise as `spend_today` would, and count nothing."""
        _hold_to(name, self.used_today(tenant, name), amount, quota, self._clock())

    def used_today(self, tenant: Owner, name: str) -> int:
        """The day's sum so far."""
        today = (USAGE.c.uid == tenant.uid) & (USAGE.c.name == name) & (USAGE.c.day == self._clock().date().isoformat())
        with self._database.reading() as connection:
            return int(connection.execute(select(USAGE.c.amount).where(today)).scalar_one_or_none() or 0)


def _hold_to(name: str, used: int, amount: int, quota: int | None, now: datetime) -> None:
    if quota is None or used + amount <= quota:
        return
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    raise QuotaExceeded(
        f"this takes {amount} {name.replace('_', ' ')}, and {max(0, quota - used)} are left of your quota of {quota} "
        "a day; it is renewed at midnight UTC",
        retry_after_s=(midnight - now).total_seconds(),
    )
