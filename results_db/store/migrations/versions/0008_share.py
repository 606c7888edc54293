"""A store can be shared with a group of users.

Revises 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("store", sa.Column("shared_with", sa.String(length=255), nullable=True))
