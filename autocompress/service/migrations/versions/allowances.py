"""What people may have and had, and why a search waits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table and the columns."""
    op.create_table(
        "service_allowances",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("searches", sa.Integer),
        sa.Column("workers", sa.Integer),
        sa.Column("trial_seconds", sa.Double),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("used_s", sa.Double, nullable=False),
        sa.Column("begun", sa.Double, nullable=False),
    )
    op.add_column("service_searches", sa.Column("reason", sa.Text))
    op.add_column("service_searches", sa.Column("resumes", sa.Double))
