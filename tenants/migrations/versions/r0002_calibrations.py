"""A tenant's reranking profiles with their certificates, and the drift that shadow reranks have seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards."""
    _calibrations()
    _drift()


def _calibrations() -> None:
    op.create_table(
        "calibrations",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["tenants.uid"], name=op.f("fk_calibrations_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_calibrations")),
        sa.UniqueConstraint("uid", "version", name=op.f("uq_calibrations_uid")),
    )


def _drift() -> None:
    op.create_table(
        "drift",
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("group", sa.String(length=64), nullable=False),
        sa.Column("certificate", sa.String(length=32), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("alarmed", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["tenants.uid"], name=op.f("fk_drift_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("uid", "group", name=op.f("pk_drift")),
    )
