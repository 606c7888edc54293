"""Single steps of `store`'s transactions: each takes the connection and reads or writes some rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, delete, distinct, func, insert, literal, select, update

from results_db.contract import Attempt, NewSweep, RunRecord, State, UnknownRunError
from results_db.store import models

Id = TypeVar("Id", int, str)

_CHUNK = 900
"""Ids in one statement: the smallest limit of variables that SQLite was ever built with is 999."""


class RunRow(NamedTuple):
    """A run as far as its writes need it."""

    id: int
    run_id: str
    state: State
    last_number: int


class AttemptRow(NamedTuple):
    """An attempt as far as its writes need it."""

    id: int
    number: int
    restart: int
    state: State

    @property
    def order(self) -> tuple[int, int]:
        """See `Attempt.order`."""
        return self.number, self.restart


def now(connection: Connection) -> datetime:
    """The time by the server's clock, since those of its clients differ; SQLite has none but this machine's."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    time: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return time.astimezone(UTC)


def chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """The ids in pieces that fit into one statement."""
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def unknown_run(run_id: str) -> UnknownRunError:
    """The error for a run that the store does not hold."""
    return UnknownRunError(f"no run {run_id} in the store; a launch stages it")


def lock_run(connection: Connection, run_id: str) -> RunRow:
    """The run, which no other transaction changes until this one ends.

    Raises:
        UnknownRunError: no such run.
    """
    return lock_runs(connection, [run_id])[run_id]


def lock_runs(connection: Connection, run_ids: Iterable[str]) -> dict[str, RunRow]:
    """The runs by id, which no other transaction changes until this one ends.

    Raises:
        UnknownRunError: one of them is not there.
    """
    run = models.Run
    query = select(run.id, run.run_id, run.state, run.last_number).order_by(run.run_id).with_for_update()
    wanted = sorted(set(run_ids))  # everybody locks in one order, so that no two wait for each other
    found: dict[str, RunRow] = {}
    for chunk in chunks(wanted):
        for row in connection.execute(query.where(run.run_id.in_(chunk))):
            found[row.run_id] = RunRow(row.id, row.run_id, State(row.state), row.last_number)
    for run_id in wanted:
        if run_id not in found:
            raise unknown_run(run_id)
    return found


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
    if newest is None or newest.order != attempt.order:
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


def delete_sweep(connection: Connection, sweep: NewSweep) -> None:
    """Deletes the newest row of that name and text, if there is one, and what belongs to it."""
    table, member = models.Sweep, models.SweepRun
    newest = select(func.max(table.id)).where(table.name == sweep.name, table.spec == sweep.spec)
    key = connection.execute(newest).scalar_one()
    connection.execute(delete(member).where(member.sweep == key))
    connection.execute(delete(table).where(table.id == key))


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


def launches(connection: Connection) -> list[NewSweep]:
    """Every distinct name and text that was launched, the last launched last."""
    sweep = models.Sweep
    query = select(sweep.name, sweep.spec).group_by(sweep.name, sweep.spec).order_by(func.max(sweep.id))
    return [NewSweep(name, spec) for name, spec in connection.execute(query)]


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
