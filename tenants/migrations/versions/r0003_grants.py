"""Shared collections: which tenant lets which other one search a collection of its corpus."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards."""
    op.create_table(
        "grants",
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("collection", sa.String(length=64), nullable=False),
        sa.Column("subscriber", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["tenants.uid"], name=op.f("fk_grants_owner"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["subscriber"], ["tenants.uid"], name=op.f("fk_grants_subscriber"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner", "collection", "subscriber", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_subscriber", "grants", ["subscriber"], unique=False)
