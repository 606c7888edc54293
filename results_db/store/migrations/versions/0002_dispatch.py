"""Attempts are claimed before their jobs are submitted, and keep a log's tail.

Revises 0001.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WORKERS_OWN: dict[str, sa.types.TypeEngine[Any]] = {
    "started_at": sa.DateTime(timezone=True),
    "heartbeat_at": sa.DateTime(timezone=True),
    "host": sa.String(length=255),
    "process": sa.String(length=64),
    "device": sa.String(length=255),
}


def upgrade() -> None:
    """To this revision."""
    # Not in a batch: on SQLite a batch replaces the table, and dropping the old one would drop every run's metrics.
    op.add_column("run", sa.Column("last_number", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE run SET last_number = "
        "(SELECT coalesce(max(attempt.number), 0) FROM attempt WHERE attempt.run = run.id)"
    )
    with op.batch_alter_table("attempt") as attempt:
        attempt.add_column(sa.Column("intended_at", sa.DateTime(timezone=True), nullable=True))
        attempt.add_column(sa.Column("log_tail", sa.Text(), nullable=True))
        attempt.add_column(sa.Column("job_name", sa.String(length=200), nullable=True))
        for name, kind in _WORKERS_OWN.items():
            attempt.alter_column(name, existing_type=kind, nullable=True)
    op.execute("UPDATE attempt SET intended_at = started_at")
    with op.batch_alter_table("attempt") as attempt:
        attempt.alter_column("intended_at", existing_type=sa.DateTime(timezone=True), nullable=False)
    op.create_index(op.f("ix_attempt_job_name"), "attempt", ["job_name"])
