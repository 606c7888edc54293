"""A store has an id of its own.

Revises 0003.
"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    uuid = sa.Column("uuid", sa.String(length=36), nullable=False)
    table = op.create_table("store", uuid, sa.PrimaryKeyConstraint("uuid", name=op.f("pk_store")))
    op.bulk_insert(table, [{"uuid": str(uuid4())}])
