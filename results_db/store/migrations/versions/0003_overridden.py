"""A launch says which config keys the command line set, and has a digest of its spec's content.

Revises 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision. Of earlier launches it is not known."""
    op.add_column("sweep", sa.Column("overridden", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("sweep", sa.Column("content", sa.String(length=64), nullable=True))
