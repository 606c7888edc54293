"""A run keeps the values that few others share, such as drawn ones; an attempt names its compiled kernels.

Revises 0008.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

from results_db.store.shared import divide

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_shared = sa.table("shared", sa.column("id", sa.Integer), sa.column("digest"), sa.column("value", sa.JSON))
_run = sa.table(
    "run",
    *(sa.column(name, sa.Integer) for name in ("id", "settings", "metric_names")),
    sa.column("own", sa.Text),
)


def upgrade() -> None:
    """To this revision."""
    op.add_column("run", sa.Column("own", sa.Text(), nullable=True))
    op.add_column("attempt", sa.Column("kernels", sa.String(length=16), nullable=True))
    _divide_configs(op.get_bind())


def _divide_configs(connection: sa.Connection) -> None:
    runs = connection.execute(sa.select(_run.c.id, _run.c.settings).where(_run.c.settings.is_not(None))).all()
    used = sa.select(_run.c.settings)
    configs = dict(
        connection.execute(sa.select(_shared.c.id, _shared.c.value).where(_shared.c.id.in_(used))).all()
    )
    keys: dict[str, int] = {}
    moved = []
    divided = divide([configs[run.settings] for run in runs])
    for run, (common, own) in zip(runs, divided, strict=True):
        if own:
            text = json.dumps(common, sort_keys=True)
            if text not in keys:
                digest = hashlib.sha256(text.encode()).hexdigest()
                new = sa.insert(_shared).values(digest=digest, value=common)
                keys[text] = connection.execute(new.returning(_shared.c.id)).scalar_one()
            moved.append({"key": run.id, "common": keys[text], "values": json.dumps(own)})
    if moved:
        update = sa.update(_run).where(_run.c.id == sa.bindparam("key"))
        update = update.values(settings=sa.bindparam("common"), own=sa.bindparam("values"))
        connection.execute(update, moved)
        _delete_unused(connection)


def _delete_unused(connection: sa.Connection) -> None:
    uses = (_run.c.settings, _run.c.metric_names)
    for key in uses:  # without them, the database looks at every run for each row that is deleted
        op.create_index(f"while_{key.name}", "run", [key.name])
    unused = (_shared.c.id.not_in(sa.select(key).where(key.is_not(None))) for key in uses)
    connection.execute(sa.delete(_shared).where(*unused))
    for key in uses:
        op.drop_index(f"while_{key.name}", "run")
