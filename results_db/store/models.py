"""The tables as typed SQLAlchemy models, the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import MetaData
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


class Base(DeclarativeBase):
    """What the models share: explicit names of constraints, and column types."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[str]: JSON(none_as_null=True),
        float: Double(),
        bytes: LargeBinary(),
    }


class Identity(Base):
    """The store's own id, in one row. A path is no identity: a file can be replaced, and a folder be left over."""

    __tablename__ = "store"

    uuid: Mapped[str] = mapped_column(String(36), primary_key=True)
    shared_with: Mapped[str | None] = mapped_column(String(255))


class Sweep(Base):
    """One launch of a spec, with the composed text of the spec."""

    __tablename__ = "sweep"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    spec: Mapped[str] = mapped_column(Text)
    overridden: Mapped[list[str] | None]
    content: Mapped[str | None] = mapped_column(String(64))
    launched_at: Mapped[datetime]


class Shared(Base):
    """A JSON value that many runs share, stored once: a config without its seed, or the names of a run's metrics."""

    __tablename__ = "shared"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    value: Mapped[Any] = mapped_column(JSON)


class Experiment(Base):
    """What is known of an experiment, see `contract.Experiment`."""

    __tablename__ = "experiment"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    declared: Mapped[dict[str, Any]]


class Run(Base):
    """One training: one config, one seed. `run_id` is the hash of the config.

    Attributes:
        settings: the config without its seed; null for each value in `own`.
        own: the values of the config that this run keeps for itself, as a JSON object; see `shared.divide`.
        seed: null if the config has none.
        metric_names: the names of `metrics`, in their order; null until the run is stored.
        metrics: see `packed.pack_metrics`.
        last_number: the largest attempt number ever claimed, withdrawn claims included.
        note: what a user wrote about it.
    """

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(String(64), unique=True)
    settings: Mapped[int | None] = mapped_column(ForeignKey("shared.id"))
    own: Mapped[str | None] = mapped_column(Text)
    seed: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), index=True)
    outcome: Mapped[str | None] = mapped_column(String(16))
    seconds: Mapped[float | None]
    staged_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    last_number: Mapped[int] = mapped_column(server_default="0")
    metric_names: Mapped[int | None] = mapped_column(ForeignKey("shared.id"))
    metrics: Mapped[bytes | None]
    note: Mapped[str | None] = mapped_column(Text)


class SweepRun(Base):
    """A run of a sweep. Several sweeps may share a run."""

    __tablename__ = "sweep_run"

    sweep: Mapped[int] = mapped_column(ForeignKey("sweep.id", ondelete="CASCADE"), primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)


class Tag(Base):
    """A word that a user gave to a run. A run may have several."""

    __tablename__ = "tag"

    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)


class Attempt(Base):
    """One try of a run, with its provenance; each restart of a requeued job has its own row.

    Values that only the worker knows are null until it begins.
    """

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("run", "number", "restart"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    number: Mapped[int]
    restart: Mapped[int]
    nonce: Mapped[str] = mapped_column(String(16), server_default=text("''"))
    state: Mapped[str] = mapped_column(String(16), index=True)
    claimed_at: Mapped[datetime] = mapped_column("intended_at", key="claimed_at")
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    step: Mapped[int]
    progress: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
    exit_code: Mapped[int | None]
    log_tail: Mapped[str | None] = mapped_column(Text)
    launcher: Mapped[str] = mapped_column(String(64))
    host: Mapped[str | None] = mapped_column(String(255))
    process: Mapped[str | None] = mapped_column(String(64))
    device: Mapped[str | None] = mapped_column(String(255))
    kernels: Mapped[str | None] = mapped_column(String(16))
    git_commit: Mapped[str | None] = mapped_column(String(64))
    git_dirty: Mapped[bool | None]
    versions: Mapped[dict[str, Any]]
    job_name: Mapped[str | None] = mapped_column(String(200), index=True)
    job_id: Mapped[str | None] = mapped_column(String(64))
    log: Mapped[str | None] = mapped_column(Text)


class Trace(Base):
    """The traces of a run in one row, because they are only read and written whole.

    Attributes:
        points: name to number of points, in the order in which `steps` and `values` hold the traces.
    """

    __tablename__ = "trace"

    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    points: Mapped[dict[str, Any]]
    steps: Mapped[list[int]] = mapped_column(Steps)
    values: Mapped[list[float]] = mapped_column(Values)


class Discarded(Base):
    """The record of an attempt whose run was discarded: JSON, compressed, with the samples in base64."""

    __tablename__ = "discarded"

    attempt: Mapped[int] = mapped_column(ForeignKey("attempt.id", ondelete="CASCADE"), primary_key=True)
    discarded_at: Mapped[datetime]
    why: Mapped[str] = mapped_column(Text)
    record: Mapped[bytes]


class Sample(Base):
    """A few arrays of a run for figures, as the bytes of a compressed .npz file."""

    __tablename__ = "sample"

    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    npz: Mapped[bytes]


class Artifact(Base):
    """A file that a run left beside the store."""

    __tablename__ = "artifact"

    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Need(Base):
    """A run that another run builds on. The needed run may be missing, as in a store that was merged in part."""

    __tablename__ = "need"

    run: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    needed: Mapped[str] = mapped_column(String(64), index=True)
