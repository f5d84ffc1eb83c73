"""Searches, their events, and tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "service_searches",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(100), nullable=False, unique=True),
        sa.Column("owner", sa.String(100), nullable=False, index=True),
        sa.Column("key", sa.String(200)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("config", sa.String(500), nullable=False),
        sa.Column("config_text", sa.Text, nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("trials", sa.Integer),
        sa.Column("timeout_s", sa.Double),
        sa.Column("workers", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(100)),
        sa.Column("lease_expires", sa.Double),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("run_revision", sa.Integer, nullable=False),
        sa.Column("run_started", sa.Double),
        sa.Column("begun", sa.Boolean, nullable=False),
        sa.Column("interrupted", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("spent_s", sa.Double, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(32)),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("owner", "key", name="service_searches_key"),
    )
    op.create_index("service_searches_order", "service_searches", ["state", "priority", "created"])
    op.create_table(
        "service_events",
        sa.Column("search", sa.String(32), sa.ForeignKey("service_searches.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
    )
    op.create_table(
        "service_tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, index=True),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
    )
