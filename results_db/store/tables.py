"""The tables, the same on SQLite and PostgreSQL.

They are tables of SQLAlchemy's core: no row is ever an object of its own, and importing the ORM takes a tenth of the
time of a short command.
"""

from datetime import UTC, datetime
from functools import partial

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from results_db.store.packed import Steps, Values


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite stores no time zone, so the zone is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
"""All tables, with explicit names of their constraints."""

_filled = partial(Column, nullable=False)
"""A column that is never null. `Column` alone may be."""


def _of(table: str) -> ForeignKey:
    """A row of another table, with which this one is removed."""
    return ForeignKey(f"{table}.id", ondelete="CASCADE")


store = Table(
    "store",
    METADATA,
    _filled("uuid", String(36), primary_key=True),
    Column("shared_with", String(255)),
)
"""The store's own id, in one row. A path is no identity: a file can be replaced, and a folder be left over."""

sweep = Table(
    "sweep",
    METADATA,
    _filled("id", Integer, primary_key=True),
    _filled("name", String(200), index=True),
    _filled("spec", Text),
    Column("overridden", JSON(none_as_null=True)),
    Column("content", String(64)),
    _filled("launched_at", UtcDateTime),
)
"""One launch of a spec, with the composed text of the spec."""

shared = Table(
    "shared",
    METADATA,
    _filled("id", Integer, primary_key=True),
    _filled("digest", String(64), unique=True),
    _filled("value", JSON),
)
"""A JSON value that many runs share, stored once: a config without its seed, or the names of a run's metrics."""

experiment = Table(
    "experiment",
    METADATA,
    _filled("name", String(40), primary_key=True),
    _filled("declared", JSON),
)
"""What is known of an experiment, see `contract.Experiment`."""

run = Table(
    "run",
    METADATA,
    _filled("id", Integer, primary_key=True),
    _filled("run_id", String(64), unique=True),
    Column("settings", ForeignKey("shared.id")),
    Column("own", Text),
    Column("seed", BigInteger),
    _filled("state", String(16), index=True),
    Column("outcome", String(16)),
    Column("seconds", Double),
    _filled("staged_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    _filled("last_number", Integer, server_default="0"),
    Column("metric_names", ForeignKey("shared.id")),
    Column("metrics", LargeBinary),
    Column("note", Text),
)
"""One training: one config, one seed. `run_id` is the hash of the config.

Columns:
    settings: the config without its seed; null for each value in `own`.
    own: the values of the config that this run keeps for itself, as a JSON object; see `shared.divide`.
    seed: null if the config has none.
    metric_names: the names of `metrics`, in their order; null until the run is stored.
    metrics: see `packed.pack_metrics`.
    last_number: the largest attempt number ever claimed, withdrawn claims included.
    note: what a user wrote about it.
"""

sweep_run = Table(
    "sweep_run",
    METADATA,
    _filled("sweep", _of("sweep"), primary_key=True),
    _filled("run", _of("run"), primary_key=True, index=True),
)
"""A run of a sweep. Several sweeps may share a run."""

tag = Table(
    "tag",
    METADATA,
    _filled("run", _of("run"), primary_key=True),
    _filled("name", String(64), primary_key=True),
)
"""A word that a user gave to a run. A run may have several."""

attempt = Table(
    "attempt",
    METADATA,
    _filled("id", Integer, primary_key=True),
    _filled("run", _of("run")),
    _filled("number", Integer),
    _filled("restart", Integer),
    _filled("nonce", String(16), server_default=text("''")),
    _filled("state", String(16), index=True),
    _filled("intended_at", UtcDateTime, key="claimed_at"),
    Column("started_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    _filled("step", Integer),
    _filled("progress", JSON),
    Column("error", Text),
    Column("exit_code", Integer),
    Column("log_tail", Text),
    _filled("launcher", String(64)),
    Column("host", String(255)),
    Column("process", String(64)),
    Column("device", String(255)),
    Column("kernels", String(16)),
    Column("git_commit", String(64)),
    Column("git_dirty", Boolean),
    _filled("versions", JSON),
    Column("job_name", String(200), index=True),
    Column("job_id", String(64)),
    Column("log", Text),
    UniqueConstraint("run", "number", "restart"),
)
"""One try of a run, with its provenance; each restart of a requeued job has its own row.

Values that only the worker knows are null until it begins.
"""

trace = Table(
    "trace",
    METADATA,
    _filled("run", _of("run"), primary_key=True),
    _filled("points", JSON),
    _filled("steps", Steps),
    _filled("values", Values),
)
"""The traces of a run in one row, because they are only read and written whole.

Columns:
    points: name to number of points, in the order in which `steps` and `values` hold the traces.
"""

discarded = Table(
    "discarded",
    METADATA,
    _filled("attempt", _of("attempt"), primary_key=True),
    _filled("discarded_at", UtcDateTime),
    _filled("why", Text),
    _filled("record", LargeBinary),
)
"""The record of an attempt whose run was discarded: JSON, compressed, with the samples in base64."""

sample = Table(
    "sample",
    METADATA,
    _filled("run", _of("run"), primary_key=True),
    _filled("name", String(64), primary_key=True),
    _filled("npz", LargeBinary),
)
"""A few arrays of a run for figures, as the bytes of a compressed .npz file."""

artifact = Table(
    "artifact",
    METADATA,
    _filled("run", _of("run"), primary_key=True),
    _filled("name", String(100), primary_key=True),
    _filled("size", BigInteger),
    _filled("sha256", String(64)),
)
"""A file that a run left beside the store."""

need = Table(
    "need",
    METADATA,
    _filled("run", _of("run"), primary_key=True),
    _filled("key", String(64), primary_key=True),
    _filled("needed", String(64), index=True),
)
"""A run that another run builds on. The needed run may be missing, as in a store that was merged in part."""
