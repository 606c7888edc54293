"""Single steps of `store`'s transactions: each takes the connection and reads or writes some rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, distinct, func, insert, literal, select, update

from results_db import models
from results_db.contract import Attempt, NewSweep, Provenance, RunningAttempt, RunRecord, State, StoreError

PROVENANCE = tuple(Provenance.__dataclass_fields__)

_CHUNK = 900
"""Ids in one statement: the smallest limit of variables that SQLite was ever built with is 999."""


class RunRow(NamedTuple):
    """A run as far as its writes need it."""

    id: int
    state: State


class AttemptRow(NamedTuple):
    """An attempt as far as its writes need it."""

    id: int
    number: int
    restart: int
    state: State


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in pieces that fit into one statement."""
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def unknown_run(run_id: str) -> StoreError:
    """The error for a run that the store does not hold."""
    return StoreError(f"no run {run_id} in the store; a launch stages it")


def lock_run(connection: Connection, run_id: str) -> RunRow:
    """The run, which no other transaction changes until this one ends.

    Raises:
        StoreError: no such run.
    """
    query = select(models.Run.id, models.Run.state).where(models.Run.run_id == run_id).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        raise unknown_run(run_id)
    return RunRow(row.id, State(row.state))


def newest_attempt(connection: Connection, run: int) -> AttemptRow | None:
    """The run's newest attempt."""
    table = models.Attempt
    query = select(table.id, table.number, table.restart, table.state).where(table.run == run)
    row = connection.execute(query.order_by(table.number.desc(), table.restart.desc()).limit(1)).first()
    return None if row is None else AttemptRow(row.id, row.number, row.restart, State(row.state))


def fence(connection: Connection, attempt: Attempt) -> tuple[RunRow, AttemptRow | None]:
    """The locked run, and its newest attempt if that is `attempt`: only the newest may write.

    Raises:
        StoreError: no such run.
    """
    run = lock_run(connection, attempt.run_id)
    newest = newest_attempt(connection, run.id)
    if newest is None or (newest.number, newest.restart) != (attempt.number, attempt.restart):
        return run, None
    return run, newest


def set_run(connection: Connection, run: int, **values: Any) -> None:
    """Overwrites columns of a run."""
    connection.execute(update(models.Run).where(models.Run.id == run).values(**values))


def set_attempt(connection: Connection, attempt: int, **values: Any) -> None:
    """Overwrites columns of an attempt."""
    connection.execute(update(models.Attempt).where(models.Attempt.id == attempt).values(**values))


def insert_sweep(
    connection: Connection, sweep: NewSweep, run_ids: Sequence[str], *, launched_at: datetime
) -> None:
    """A row for the launch, and one for every run that it wants."""
    values = {"name": sweep.name, "spec": sweep.spec, "launched_at": launched_at}
    key = connection.execute(insert(models.Sweep).values(values).returning(models.Sweep.id)).scalar_one()
    for chunk in chunks(run_ids):
        members = select(literal(key), models.Run.id).where(models.Run.run_id.in_(chunk))
        connection.execute(insert(models.SweepRun).from_select(["sweep", "run"], members))


def insert_record(connection: Connection, run: int, record: RunRecord) -> None:
    """The metrics, traces and samples of a run that has none yet."""
    insert_metrics(connection, run, record.metrics)
    _insert_all(
        connection,
        models.Trace,
        [
            {"run": run, "name": name, "steps": list(steps), "values": list(values)}
            for name, (steps, values) in record.traces.items()
        ],
    )
    samples = [{"run": run, "name": name, "npz": sample.npz} for name, sample in record.samples.items()]
    _insert_all(connection, models.Sample, samples)


def insert_metrics(connection: Connection, run: int, metrics: Mapping[str, float | None]) -> None:
    """Metrics that the run does not have yet."""
    rows = [{"run": run, "name": name, "value": _null(value)} for name, value in metrics.items()]
    _insert_all(connection, models.Metric, rows)


def same_record(connection: Connection, run: int, record: RunRecord) -> bool:
    """Whether a COMPLETED run's outcome, seconds and metrics are those of the record."""
    metric = models.Metric
    head = connection.execute(
        select(models.Run.outcome, models.Run.seconds).where(models.Run.id == run)
    ).one()
    rows = connection.execute(select(metric.name, metric.value).where(metric.run == run))
    stored = {row.name: row.value for row in rows}
    given = {name: _null(value) for name, value in record.metrics.items()}
    return tuple(head) == (record.outcome, record.seconds) and stored == given


def running_attempts(connection: Connection) -> list[RunningAttempt]:
    """Every attempt held for alive."""
    query = (
        select(models.Run.run_id, *models.Attempt.__table__.columns)
        .join(models.Attempt, models.Attempt.run == models.Run.id)
        .where(models.Attempt.state == State.RUNNING)
        .order_by(models.Attempt.id)
    )
    return [
        RunningAttempt(
            attempt=Attempt(run_id=row.run_id, number=row.number, restart=row.restart),
            provenance=Provenance(**{name: getattr(row, name) for name in PROVENANCE}),
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
            step=row.step,
            progress=row.progress,
        )
        for row in connection.execute(query)
    ]


def sweep_states(connection: Connection) -> dict[str, dict[State, int]]:
    """Per sweep, how many of the runs that its launches wanted are in which state; a run counts once."""
    sweep, member, run = models.Sweep, models.SweepRun, models.Run
    query = (
        select(sweep.name, run.state, func.count(distinct(run.id)).label("runs"))
        .join(member, member.sweep == sweep.id)
        .join(run, run.id == member.run)
        .group_by(sweep.name, run.state)
        .order_by(sweep.name, run.state)
    )
    counts: dict[str, dict[State, int]] = {}
    for row in connection.execute(query):
        counts.setdefault(row.name, {})[State(row.state)] = row.runs
    return counts


def traces_of(
    connection: Connection, run_ids: Sequence[str]
) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Run id to trace name to (steps, values), of the runs that have traces."""
    run, trace = models.Run, models.Trace
    query = select(run.run_id, trace.name, trace.steps, trace.values).join(run, run.id == trace.run)
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for chunk in chunks(run_ids):
        for run_id, name, steps, values in connection.execute(
            query.where(run.run_id.in_(chunk)).order_by(trace.name)
        ):
            found.setdefault(run_id, {})[name] = (steps, values)
    return found


def _insert_all(connection: Connection, model: type[models.Base], rows: list[dict[str, Any]]) -> None:
    if rows:  # without any, SQLAlchemy would insert one row of defaults
        connection.execute(insert(model), rows)


def _null(value: float | None) -> float | None:
    # SQLite stores NaN as null by itself, PostgreSQL does not.
    return None if value is None or math.isnan(value) else float(value)
