"""Steps of the store's transactions. Each takes the connection and reads or writes a few rows."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Table, func, insert, select, update
from sqlalchemy.dialects import sqlite

from imagination import registry
from results_db.contract import (
    Attempt,
    Experiment,
    PlannedRun,
    Reply,
    RunRecord,
    State,
    StoreError,
    Traces,
    UnknownRunError,
)
from results_db.store import tables
from results_db.store.packed import pack_metrics, unpack_metrics
from results_db.text import short

Id = TypeVar("Id", int, str)

_SEEDS = 2**63
"""The first integer that a column cannot hold."""

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
    run = tables.run
    query = (
        select(run.c.id, run.c.run_id, run.c.state, run.c.last_number)
        .order_by(run.c.run_id)
        .with_for_update()
    )
    for row in connection.execute(query.where(run.c.run_id.in_(run_ids))):
        yield row.run_id, RunRow(row.id, row.run_id, State(row.state), row.last_number)


def newest_attempt(connection: Connection, run: RunRow, *, restart: int | None = None) -> AttemptRow | None:
    """The run's newest attempt; with `restart`, the newest that is this restart."""
    table = tables.attempt
    columns = (
        table.c.id,
        table.c.number,
        table.c.restart,
        table.c.nonce,
        table.c.state,
        table.c.started_at,
        table.c.job_name,
    )
    query = select(*columns).where(table.c.run == run.id)
    if restart is not None:
        query = query.where(table.c.restart == restart)
    row = connection.execute(query.order_by(table.c.number.desc(), table.c.restart.desc()).limit(1)).first()
    if row is None:
        return None
    attempt = Attempt(run.run_id, row.number, row.restart, row.nonce)
    return AttemptRow(row.id, attempt, State(row.state), row.started_at, row.job_name)


def fence(
    connection: Connection, attempt: Attempt, *, begins: bool = False, finishes: bool = False
) -> tuple[RunRow, AttemptRow] | Reply:
    """Locks the run; returns it with its newest attempt.

    If `attempt` is another, so that it may not write, returns why. If it `begins`, it may be a later restart. If it
    `finishes`, it may be an earlier one, which is then returned, while the newest waits.
    """
    run = dict(_locked(connection, [attempt.run_id])).get(attempt.run_id)
    if run is None:
        return Reply.UNKNOWN
    newest = newest_attempt(connection, run)
    claim = (attempt.number, attempt.nonce)
    if newest is not None and (newest.attempt.number, newest.attempt.nonce) == claim:
        if finishes and newest.state is State.PENDING:
            newest = newest_attempt(connection, run, restart=attempt.restart) or newest
        counts = newest.attempt == attempt or (begins and newest.attempt < attempt)
        return (run, newest) if counts else Reply.REFUSED
    table = tables.attempt
    query = select(table.c.nonce).where(table.c.run == run.id, table.c.number == attempt.number)
    nonces = set(connection.scalars(query))
    withdrawn = not nonces and attempt.number <= run.last_number
    outdated = withdrawn or attempt.nonce in nonces or run.state is State.COMPLETED
    return Reply.REFUSED if outdated else Reply.UNKNOWN


def set_run(connection: Connection, run: int, **values: Any) -> None:
    """Overwrite columns of a run."""
    connection.execute(update(tables.run).where(tables.run.c.id == run).values(**values))


def set_attempt(connection: Connection, attempt: int, **values: Any) -> None:
    """Overwrite columns of an attempt."""
    connection.execute(update(tables.attempt).where(tables.attempt.c.id == attempt).values(**values))


def insert_record(connection: Connection, run: int, record: RunRecord) -> None:
    """Insert the metrics, traces, samples and artifacts of a run that has none."""
    set_metrics(connection, run, record.metrics)
    if record.traces:
        ordered = sorted(record.traces.items())
        points = {name: len(steps) for name, (steps, _) in ordered}
        pairs = [pair for _, trace in ordered for pair in zip(*trace, strict=True)]
        traces = {
            "run": run,
            "points": points,
            "steps": [step for step, _ in pairs],
            "values": [value for _, value in pairs],
        }
        connection.execute(insert(tables.trace).values(traces))
    samples = [{"run": run, "name": name, "npz": npz} for name, npz in record.samples.items()]
    if samples:  # for an empty list SQLAlchemy would insert one row of defaults
        connection.execute(insert(tables.sample), samples)
    artifacts = [{"run": run, "name": name, **vars(one)} for name, one in record.artifacts.items()]
    if artifacts:
        connection.execute(insert(tables.artifact), artifacts)


def set_metrics(connection: Connection, run: int, metrics: Mapping[str, float | None]) -> None:
    """Replace the metrics of a run."""
    (names,) = share(connection, [list(metrics)])
    set_run(connection, run, metric_names=names, metrics=pack_metrics(list(metrics.values())))


def metrics_of(connection: Connection, run: int) -> dict[str, float | None]:
    """The metrics of a run; empty until it is stored."""
    table = tables.run
    query = select(tables.shared.c.value, table.c.metrics).join(
        table, table.c.metric_names == tables.shared.c.id
    )
    row = connection.execute(query.where(table.c.id == run)).first()
    return {} if row is None else dict(zip(row.value, unpack_metrics(row.metrics), strict=True))


def split(config: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The config without its seed, and the seed; None if it has no seed that an integer column can hold."""
    seed = config.get("seed")
    if type(seed) is not int or abs(seed) >= _SEEDS:
        return dict(config), None
    return {key: value for key, value in config.items() if key != "seed"}, seed


def joined(settings: Mapping[str, Any], own: str | None, seed: int | None) -> dict[str, Any]:
    """The config that `split` and `shared.divide` took apart."""
    config = {**settings, **json.loads(own or "{}")}
    return config if seed is None else {**config, "seed": seed}


def own_text(own: Mapping[str, Any]) -> str | None:
    """A run's own values as they are stored; null without any."""
    return json.dumps(own, allow_nan=False) if own else None


def traces_in(points: Mapping[str, int], steps: Sequence[int], values: Sequence[float]) -> Traces:
    """The traces of a run, by name, from the columns of its row."""
    ends = list(accumulate(points.values()))
    return {
        name: (list(steps[start:end]), list(values[start:end]))
        for name, start, end in zip(points, [0, *ends], ends, strict=False)
    }


def share(connection: Connection, values: Iterable[Any]) -> list[int]:
    """The ids of JSON values in the table `shared`, each stored once."""
    table = tables.shared
    digests = []
    fresh: dict[str, Any] = {}
    for value in values:
        text = json.dumps(value, sort_keys=True, allow_nan=False)
        digests.append(hashlib.sha256(text.encode()).hexdigest())
        fresh.setdefault(digests[-1], value)
    ids: dict[str, int] = {}
    for chunk in chunks(sorted(fresh)):  # every transaction inserts in this order, which prevents deadlocks
        known = select(table.c.digest, table.c.id).where(table.c.digest.in_(chunk))
        ids.update(connection.execute(known).all())
        new = [{"digest": digest, "value": fresh[digest]} for digest in chunk if digest not in ids]
        if new:
            insert_new(connection, table, new, unique="digest")
            ids.update(connection.execute(known).all())
    return [ids[digest] for digest in digests]


def declare(connection: Connection, name: str, known: Experiment) -> None:
    """Note what is known of an experiment, if that is new."""
    table = tables.experiment
    declared = json.loads(json.dumps(vars(known)))
    stored = {row.name: row.declared for row in connection.execute(select(table.c.name, table.c.declared))}
    for other, one in stored.items():
        both = {*known.keys}.intersection(one["metrics"]) | {*known.metrics}.intersection(one["keys"])
        if both and other != name:
            raise StoreError(
                f"experiment '{name}' cannot share this store with {other}: {', '.join(sorted(both))} is a config key "
                "of one and a metric of the other; name another store with --db"
            )
    before = stored.get(name)
    if before is None:
        insert_new(connection, table, [{"name": name, "declared": declared}], unique="name")
    elif before != declared:
        connection.execute(update(table).where(table.c.name == name).values(declared=declared))


def experiments(connection: Connection) -> dict[str, Experiment]:
    """See `contract.Store.experiments`."""
    table = tables.experiment
    stored = connection.execute(select(table.c.name, table.c.declared).order_by(table.c.name)).all()
    found = {row.name: row.declared for row in stored} or {one.name: one.stored() for one in registry.own()}
    return {
        name: Experiment(**{**declared, "gate": declared["gate"] and tuple(declared["gate"])})
        for name, declared in found.items()
    }


def note_needs(connection: Connection, runs: Sequence[PlannedRun]) -> None:
    """Note what these staged runs build on."""
    needing = {run.run_id: run.needs for run in runs if run.needs}
    run, table = tables.run, tables.need
    for chunk in chunks(sorted(needing)):
        known = set(
            connection.scalars(
                select(table.c.run).join(run, run.c.id == table.c.run).where(run.c.run_id.in_(chunk))
            )
        )
        keys = connection.execute(select(run.c.id, run.c.run_id).where(run.c.run_id.in_(chunk))).all()
        fresh = [
            {"run": key, "key": name, "needed": needed}
            for key, run_id in keys
            if key not in known
            for name, needed in needing[run_id].items()
        ]
        if fresh:
            connection.execute(insert(table), fresh)


def check_not_needed(connection: Connection, run_ids: Collection[str]) -> None:
    """Check that no COMPLETED run but these builds on one of these.

    Raises:
        StoreError: one does.
    """
    run, table = tables.run, tables.need
    query = (
        select(table.c.needed, run.c.run_id)
        .join(run, run.c.id == table.c.run)
        .where(run.c.state == State.COMPLETED)
    )
    for chunk in chunks(sorted(run_ids)):
        for needed, by in connection.execute(query.where(table.c.needed.in_(chunk))):
            if by not in run_ids:
                raise StoreError(
                    f"run {short(needed)} is needed by stored runs such as {short(by)}; discard these as well"
                )


def insert_new(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, unique: str
) -> None:
    """Insert the rows whose value in this unique column is new."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import

        connection.execute(postgresql.insert(table).on_conflict_do_nothing(index_elements=[unique]), rows)
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(index_elements=[unique]), rows)


def same_record(connection: Connection, run: int, record: RunRecord) -> bool:
    """Whether a COMPLETED run's outcome, seconds and metrics equal those of the record."""
    head = connection.execute(
        select(tables.run.c.outcome, tables.run.c.seconds).where(tables.run.c.id == run)
    ).one()
    given = unpack_metrics(pack_metrics(list(record.metrics.values())))
    same = metrics_of(connection, run) == dict(zip(record.metrics, given, strict=True))
    return same and tuple(head) == (record.outcome, record.seconds)
