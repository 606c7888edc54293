"""Steps of the store's transactions. Each takes the connection and reads or writes a few rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, func, insert, select, update

from results_db.contract import Attempt, Reply, RunRecord, State, UnknownRunError
from results_db.store import models

Id = TypeVar("Id", int, str)

_CHUNK = 900
"""Ids per statement: some builds of SQLite allow only 999 variables."""


class RunRow(NamedTuple):
    """The columns of a run that its writes need."""

    id: int
    run_id: str
    state: State
    last_number: int


class AttemptRow(NamedTuple):
    """The columns of an attempt that its writes need."""

    id: int
    attempt: Attempt
    state: State
    started_at: datetime | None
    job_name: str | None


def now(connection: Connection) -> datetime:
    """The server's time, because its clients' clocks differ; with SQLite, this machine's time."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    time: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return time.astimezone(UTC)


def chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """The ids in parts that fit into one statement."""
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def unknown_run(run_id: str) -> UnknownRunError:
    """The error for a run that is not in the store."""
    return UnknownRunError(f"no run {run_id} in the store; a launch stages it")


def lock_runs(connection: Connection, run_ids: Iterable[str]) -> dict[str, RunRow]:
    """The runs by id, locked against other writers until the transaction ends.

    Raises:
        UnknownRunError: one of the runs is not in the store.
    """
    wanted = sorted(set(run_ids))  # every transaction locks in this order, which prevents deadlocks
    found = {run_id: run for chunk in chunks(wanted) for run_id, run in _locked(connection, chunk)}
    for run_id in wanted:
        if run_id not in found:
            raise unknown_run(run_id)
    return found


def lock_run(connection: Connection, run_id: str) -> RunRow:
    """See `lock_runs`."""
    return lock_runs(connection, [run_id])[run_id]


def _locked(connection: Connection, run_ids: Sequence[str]) -> Iterator[tuple[str, RunRow]]:
    run = models.Run
    query = select(run.id, run.run_id, run.state, run.last_number).order_by(run.run_id).with_for_update()
    for row in connection.execute(query.where(run.run_id.in_(run_ids))):
        yield row.run_id, RunRow(row.id, row.run_id, State(row.state), row.last_number)


def newest_attempt(connection: Connection, run: RunRow) -> AttemptRow | None:
    """The run's newest attempt."""
    table = models.Attempt
    columns = (
        table.id,
        table.number,
        table.restart,
        table.nonce,
        table.state,
        table.started_at,
        table.job_name,
    )
    query = select(*columns).where(table.run == run.id).order_by(table.number.desc(), table.restart.desc())
    row = connection.execute(query.limit(1)).first()
    if row is None:
        return None
    attempt = Attempt(run.run_id, row.number, row.restart, row.nonce)
    return AttemptRow(row.id, attempt, State(row.state), row.started_at, row.job_name)


def fence(
    connection: Connection, attempt: Attempt, *, begins: bool = False
) -> tuple[RunRow, AttemptRow] | Reply:
    """Locks the run; returns it with its newest attempt.

    If `attempt` is another, so that it may not write, returns why. If it `begins`, it may be a later restart.
    """
    run = dict(_locked(connection, [attempt.run_id])).get(attempt.run_id)
    if run is None:
        return Reply.UNKNOWN
    newest = newest_attempt(connection, run)
    claim = (attempt.number, attempt.nonce)
    if newest is not None and (newest.attempt.number, newest.attempt.nonce) == claim:
        counts = newest.attempt == attempt or (begins and newest.attempt < attempt)
        return (run, newest) if counts else Reply.REFUSED
    table = models.Attempt
    query = select(table.nonce).where(table.run == run.id, table.number == attempt.number)
    nonces = set(connection.scalars(query))
    withdrawn = not nonces and attempt.number <= run.last_number
    outdated = withdrawn or attempt.nonce in nonces or run.state is State.COMPLETED
    return Reply.REFUSED if outdated else Reply.UNKNOWN


def set_run(connection: Connection, run: int, **values: Any) -> None:
    """Overwrite columns of a run."""
    connection.execute(update(models.Run).where(models.Run.id == run).values(**values))


def set_attempt(connection: Connection, attempt: int, **values: Any) -> None:
    """Overwrite columns of an attempt."""
    connection.execute(update(models.Attempt).where(models.Attempt.id == attempt).values(**values))


def insert_record(connection: Connection, run: int, record: RunRecord) -> None:
    """Insert the metrics, traces and samples of a run that has none."""
    insert_metrics(connection, run, record.metrics)
    traces = [
        {"run": run, "name": name, "steps": list(steps), "values": list(values)}
        for name, (steps, values) in record.traces.items()
    ]
    _insert_all(connection, models.Trace, traces)
    samples = [{"run": run, "name": name, "npz": npz} for name, npz in record.samples.items()]
    _insert_all(connection, models.Sample, samples)


def insert_metrics(connection: Connection, run: int, metrics: Mapping[str, float | None]) -> None:
    """Insert metrics that the run does not have yet."""
    rows = [{"run": run, "name": name, "value": _null(value)} for name, value in metrics.items()]
    _insert_all(connection, models.Metric, rows)


def same_record(connection: Connection, run: int, record: RunRecord) -> bool:
    """Whether a COMPLETED run's outcome, seconds and metrics equal those of the record."""
    metric = models.Metric
    head = connection.execute(
        select(models.Run.outcome, models.Run.seconds).where(models.Run.id == run)
    ).one()
    rows = connection.execute(select(metric.name, metric.value).where(metric.run == run))
    stored = {row.name: row.value for row in rows}
    given = {name: _null(value) for name, value in record.metrics.items()}
    return tuple(head) == (record.outcome, record.seconds) and stored == given


def _insert_all(connection: Connection, model: type[models.Base], rows: list[dict[str, Any]]) -> None:
    if rows:  # for an empty list SQLAlchemy would insert one row of defaults
        connection.execute(insert(model), rows)


def _null(value: float | None) -> float | None:
    # SQLite stores NaN as null, PostgreSQL does not.
    return None if value is None or math.isnan(value) else float(value)
