"""Configs are stored once for all seeds; the metrics and the traces of a run are one row of packed numbers each.

Revises 0005.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

from results_db.store.packed import Steps, Values, pack_metrics

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BATCH = 1_000

_shared = sa.table("shared", sa.column("id", sa.Integer), sa.column("digest"), sa.column("value", sa.JSON))
_run = sa.table(
    "run",
    sa.column("id", sa.Integer),
    sa.column("config", sa.JSON),
    *(sa.column(name, sa.Integer) for name in ("settings", "seed", "metric_names")),
    sa.column("metrics", sa.LargeBinary),
)
_metric = sa.table("metric", sa.column("run", sa.Integer), sa.column("name"), sa.column("value", sa.Double))
_old_trace = sa.table(
    "old_trace",
    sa.column("run", sa.Integer),
    sa.column("name"),
    sa.column("steps", sa.JSON),
    sa.column("values", sa.JSON),
)
_trace = sa.table(
    "trace",
    sa.column("run", sa.Integer),
    sa.column("points", sa.JSON),
    sa.column("steps", Steps),
    sa.column("values", Values),
)


def upgrade() -> None:
    """To this revision. Every number stays exactly as it is."""
    op.create_table(
        "shared",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shared")),
        sa.UniqueConstraint("digest", name=op.f("uq_shared_digest")),
    )
    for name in (
        "settings",
        "metric_names",
    ):  # in SQL, because Alembic adds no constraints to tables of SQLite
        op.execute(
            f"ALTER TABLE run ADD COLUMN {name} INTEGER CONSTRAINT fk_run_{name} REFERENCES shared (id)"
        )
    op.add_column("run", sa.Column("seed", sa.BigInteger(), nullable=True))
    op.add_column("run", sa.Column("metrics", sa.LargeBinary(), nullable=True))
    connection = op.get_bind()
    shared: dict[str, int] = {}
    _move_configs(connection, shared)
    op.drop_column("run", "config")
    _move_metrics(connection, shared)
    op.drop_table("metric")
    op.rename_table("trace", "old_trace")
    if connection.dialect.name == "postgresql":  # there the name of a key is a name in the schema
        op.drop_constraint("pk_trace", "old_trace")
    op.create_table(
        "trace",
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("points", sa.JSON(), nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name=op.f("fk_trace_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_trace")),
    )
    _move_traces(connection)
    op.drop_table("old_trace")


def _move_configs(connection: sa.Connection, shared: dict[str, int]) -> None:
    for rows in _pages(connection, [_run.c.id], _run.c.config):
        moved = []
        for row in rows:
            settings, seed = dict(row.config), None
            if type(settings.get("seed")) is int and abs(settings["seed"]) < 2**63:
                seed = settings.pop("seed")
            moved.append({"key": row.id, "settings": _share(connection, shared, settings), "seed": seed})
        update = sa.update(_run).where(_run.c.id == sa.bindparam("key"))
        connection.execute(update.values(settings=sa.bindparam("settings"), seed=sa.bindparam("seed")), moved)


def _move_metrics(connection: sa.Connection, shared: dict[str, int]) -> None:
    update = sa.update(_run).where(_run.c.id == sa.bindparam("key"))
    update = update.values(metric_names=sa.bindparam("names"), metrics=sa.bindparam("packed"))
    # A run that is stored without any metric keeps no row in `metric`.
    stored = sa.text("SELECT id FROM run WHERE outcome IS NOT NULL")
    nothing = {"packed": b""}
    keys = connection.execute(stored).scalars().all()
    if keys:
        none = _share(connection, shared, [])
        connection.execute(update, [{"key": key, "names": none, **nothing} for key in keys])
    for rows in _pages(connection, [_metric.c.run, _metric.c.name], _metric.c.value):
        found = [(run, list(group)) for run, group in groupby(rows, key=lambda row: row.run)]
        moved = [
            {
                "key": run,
                "names": _share(connection, shared, [row.name for row in group]),
                "packed": pack_metrics([row.value for row in group]),
            }
            for run, group in found
        ]
        connection.execute(update, moved)


def _move_traces(connection: sa.Connection) -> None:
    old = _old_trace.c
    for rows in _pages(connection, [old.run, old.name], old.steps, old["values"]):
        moved = []
        for run, each in groupby(rows, key=lambda row: row.run):
            traces = list(each)
            steps = [step for trace in traces for step in trace.steps]
            values = [value for trace in traces for value in trace[3]]
            points = {trace.name: len(trace.steps) for trace in traces}
            moved.append({"run": run, "points": points, "steps": steps, "values": values})
        connection.execute(sa.insert(_trace), moved)


def _pages(connection: sa.Connection, order: Sequence[Any], *columns: Any) -> Iterator[Sequence[Any]]:
    """The rows of a table in this order, those of a thousand runs at a time; the first column is the run's key."""
    key = order[0]
    first = connection.scalar(sa.select(sa.func.min(key)))
    while first is not None:
        page = sa.select(*order, *columns).where(key >= first, key < first + _BATCH)
        yield connection.execute(page.order_by(*order)).all()
        first = connection.scalar(sa.select(sa.func.min(key)).where(key >= first + _BATCH))


def _share(connection: sa.Connection, shared: dict[str, int], value: Any) -> int:
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    if digest not in shared:
        new = sa.insert(_shared).values(digest=digest, value=value)
        shared[digest] = connection.execute(new.returning(_shared.c.id)).scalar_one()
    return shared[digest]
