"""A claim has a nonce, because a store that is replaced by an older copy numbers its attempts anew.

Revises 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column(
        "attempt", sa.Column("nonce", sa.String(length=16), server_default=sa.text("''"), nullable=False)
    )
