"""Experiments: what is compared on whom, and which variant serves each tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None


def _serial() -> sa.Column[int]:
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("number", whole, autoincrement=True, nullable=False)


def upgrade() -> None:
    """Forwards."""
    op.create_table(
        "experiments",
        _serial(),
        sa.Column("name", sa.String(length=48), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("salt", sa.String(length=32), nullable=False),
        sa.Column("ramp", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("tracked", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("watched_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", name=op.f("uq_experiments_name")),
    )
    op.create_table(
        "trials",
        sa.Column("experiment", sa.String(length=48), nullable=False),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiments.name"], name=op.f("fk_trials_experiment"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["uid"], ["tenants.uid"], name=op.f("fk_trials_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("experiment", "uid", name=op.f("pk_trials")),
    )
    op.create_index("ix_trials_uid", "trials", ["uid"], unique=False)
    op.create_table(
        "champions",
        _serial(),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("variant", sa.String(length=100), nullable=True),
        sa.Column("overrides", sa.Text(), nullable=False),
        sa.Column("previous", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["tenants.uid"], name=op.f("fk_champions_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_champions")),
    )
    op.create_index("ix_champions_uid", "champions", ["uid", "number"], unique=False)
