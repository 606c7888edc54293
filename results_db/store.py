"""The store in a SQL database: `open_store` opens one, `SqlStore` keeps the promises of `contract`.

From Python: `from results_db.store import open_store; open_store("outputs/imagine.db", create=False).runs()`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError

from results_db import models, rows, schema
from results_db.address import Address, locate
from results_db.columns import run_prefix
from results_db.contract import (
    ARROWS,
    FAILURES,
    INTERRUPTED,
    Attempt,
    NewSweep,
    PlannedRun,
    Provenance,
    RunningAttempt,
    RunRecord,
    Sample,
    State,
    StoreError,
)
from results_db.engine import WRITE, make_engine
from results_db.words import one_line

if TYPE_CHECKING:  # only `runs` needs it, and it takes half a second
    import pandas as pd

_ADVICE = {
    "readonly database": "name another with --db",
    "unable to open": "name another with --db",
    "malformed": "restore a copy of it, or name another with --db",
}
"""From words in a database's message to what a person can do about it."""


def open_store(db: str | None = None, *, create: bool) -> "SqlStore":
    """The store at `db`: a URL or a path that ends in .db; else IMAGINE_DB; else the default.

    Args:
        db: what a person gave as `--db`.
        create: make the folder and the tables that are missing. Otherwise a database that is not there, or
            holds no tables, is an empty store that cannot be written, and nothing is created.

    Raises:
        StoreError: the database cannot be reached, is not ours, or is of another version.
    """
    address = locate(db)
    if address.file is not None:
        if create:
            _make_folder(address)
        elif not address.file.exists():
            return _empty_store(address)
    engine = make_engine(address.url)
    with ExitStack() as unless_used:
        unless_used.callback(engine.dispose)
        try:
            with engine.connect() as connection:
                empty = schema.is_empty(connection, shown=address.shown)
            if empty and create:
                schema.create(engine, shown=address.shown)
        except DBAPIError as error:
            raise _cannot_open(address, error) from error
        if empty and not create:
            return _empty_store(address)
        unless_used.pop_all()
    return SqlStore(address, engine)


def upgrade_store(db: str | None = None) -> tuple[str, str, str]:
    """Brings an older store to this version's tables: its name, and the revisions before and after.

    Raises:
        StoreError: there is no such store, or it is not ours or from a newer version.
    """
    address = locate(db)
    if address.file is not None and not address.file.exists():
        raise StoreError(f"no store at {address.shown}; a launch creates it")
    engine = make_engine(address.url)
    try:
        return address.shown, *schema.upgrade(engine, shown=address.shown)
    except DBAPIError as error:
        raise _cannot_open(address, error) from error
    finally:
        engine.dispose()


def _make_folder(address: Address) -> None:
    assert address.file is not None
    try:
        address.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = address.file.parent
        raise StoreError(
            f"cannot create {folder} for the store: {error.strerror}; name another with --db"
        ) from None


def _empty_store(address: Address) -> "SqlStore":
    engine = make_engine(URL.create("sqlite", database=":memory:"))
    models.Base.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    return SqlStore(address, engine)


def _cannot_open(address: Address, error: DBAPIError) -> StoreError:
    if "not a database" in str(error.orig):
        return StoreError(f"{address.shown} is not a SQLite database; name another with --db")
    return StoreError(f"cannot open {address.shown}: {_reason(error)}")


def _reason(error: DBAPIError) -> str:
    """The database's own words, and what to do about them."""
    reason = one_line(error.orig)
    return "; ".join([reason, *(advice for words, advice in _ADVICE.items() if words in reason)])


class SqlStore:
    """A store in SQLite or PostgreSQL; may be used from several threads and processes at once.

    Attributes:
        url: the SQLAlchemy URL, password included; a SQLite path in it is absolute.
        display_url: how to name the store to a person: its path, or its URL with the password masked.
        folder: the folder beside the store for what does not belong into a database. Not created here.
    """

    def __init__(self, address: Address, engine: Engine) -> None:
        self.url = address.url.render_as_string(hide_password=False)
        self.display_url = address.shown
        self.folder = address.folder
        self._file = address.file
        self._reader = engine
        self._writer = engine.execution_options(**{WRITE: True})
        self._insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    def stage(self, runs: Iterable[PlannedRun], *, sweep: NewSweep | None = None) -> None:
        """Insert the runs that are not there yet as STAGED, and note the sweep that wants them, at once."""
        now = datetime.now(UTC)
        wanted = {run.run_id: dict(run.config) for run in runs}
        staged = [
            {"run_id": run_id, "config": config, "state": State.STAGED, "staged_at": now}
            for run_id, config in wanted.items()
        ]
        with self._writing() as connection:
            if staged:
                connection.execute(self._insert(models.Run).on_conflict_do_nothing(), staged)
            if sweep is not None:
                rows.insert_sweep(connection, sweep, list(wanted), launched_at=now)

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""
        found: dict[str, State] = {}
        with self._reading() as connection:
            for chunk in rows.chunks(list(run_ids)):
                query = select(models.Run.run_id, models.Run.state).where(models.Run.run_id.in_(chunk))
                found.update({run_id: State(state) for run_id, state in connection.execute(query)})
        return found

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Begin the run's next attempt and make it RUNNING, atomically.

        None if there is nothing to do: the run is COMPLETED or somebody else is RUNNING it.

        Raises:
            StoreError: the run was never staged.
        """
        now = datetime.now(UTC)
        with self._writing() as connection:
            run = rows.lock_run(connection, run_id)
            if State.RUNNING not in ARROWS[run.state]:
                return None
            newest = rows.newest_attempt(connection, run.id)
            attempt = Attempt(run_id=run_id, number=1 if newest is None else newest.number + 1)
            connection.execute(
                insert(models.Attempt).values(
                    run=run.id,
                    number=attempt.number,
                    restart=attempt.restart,
                    state=State.RUNNING,
                    started_at=now,
                    heartbeat_at=now,
                    step=0,
                    progress={},
                    **{name: getattr(provenance, name) for name in rows.PROVENANCE},
                )
            )
            rows.set_run(connection, run.id, state=State.RUNNING)
        return attempt

    def heartbeat(self, attempt: Attempt, *, step: int, progress: Mapping[str, float]) -> bool:
        """Say that the attempt is alive. False if it no longer counts, and its worker should stop."""
        with self._writing() as connection:
            _, newest = rows.fence(connection, attempt)
            if newest is None or newest.state != State.RUNNING:
                return False
            now = datetime.now(UTC)
            rows.set_attempt(connection, newest.id, heartbeat_at=now, step=step, progress=dict(progress))
        return True

    def finish(self, attempt: Attempt, record: RunRecord) -> bool:
        """COMPLETED, with its record, in one transaction. False if the attempt no longer counts.

        A repetition of the write that completed the run is True; any other on a COMPLETED run is False.

        Raises:
            ValueError: the record is another run's.
        """
        if record.run_id != attempt.run_id:
            raise ValueError(f"a record of run {record.run_id} for an attempt of {attempt.run_id}")
        with self._writing() as connection:
            run, newest = rows.fence(connection, attempt)
            if newest is None:
                return False
            if run.state == State.COMPLETED:
                return rows.same_record(connection, run.id, record)
            if State.COMPLETED not in ARROWS[run.state]:
                return False
            now = datetime.now(UTC)
            steps = record.metrics.get("steps")
            rows.set_attempt(
                connection,
                newest.id,
                state=State.COMPLETED,
                heartbeat_at=now,
                ended_at=now,
                # No heartbeat is sent after the last step; a short run never sent one.
                **({} if steps is None else {"step": int(steps)}),
            )
            rows.set_run(
                connection,
                run.id,
                state=State.COMPLETED,
                outcome=record.outcome,
                seconds=record.seconds,
                ended_at=now,
            )
            rows.insert_record(connection, run.id, record)
        return True

    def end(
        self, attempt: Attempt, state: State, *, error: str | None = None, exit_code: int | None = None
    ) -> bool:
        """The attempt ended without a result. False if it no longer counts or the arrow is not allowed.

        Raises:
            ValueError: `state` is not one in which an attempt ends without a result.
        """
        if state not in FAILURES | INTERRUPTED:
            raise ValueError(f"an attempt does not end as {state}")
        with self._writing() as connection:
            run, newest = rows.fence(connection, attempt)
            if newest is None:
                return False
            if newest.state == state == run.state:
                return True
            if state not in ARROWS[run.state]:
                return False
            now = datetime.now(UTC)
            rows.set_attempt(
                connection, newest.id, state=state, ended_at=now, error=error, exit_code=exit_code
            )
            rows.set_run(connection, run.id, state=state, ended_at=now)
        return True

    def running(self) -> list[RunningAttempt]:
        """Every attempt held for alive."""
        with self._reading() as connection:
            return rows.running_attempts(connection)

    def sweeps(self) -> dict[str, dict[State, int]]:
        """Per sweep, how many of the runs that its launches wanted are in which state."""
        with self._reading() as connection:
            return rows.sweep_states(connection)

    def replace_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Overwrite these metrics of a COMPLETED run; others stay. For `jobs.evaluate --write` alone.

        Raises:
            StoreError: the run is unknown or not COMPLETED.
        """
        with self._writing() as connection:
            run = rows.lock_run(connection, run_id)
            if run.state != State.COMPLETED:
                raise StoreError(
                    f"run {run_id[:10]} is {run.state}; only a COMPLETED run has metrics to replace"
                )
            connection.execute(
                delete(models.Metric).where(
                    models.Metric.run == run.id, models.Metric.name.in_(list(metrics))
                )
            )
            rows.insert_metrics(connection, run.id, metrics)

    def runs(self) -> "pd.DataFrame":
        """One row per run, in the order of staging: `run_id, state, outcome, attempts, seconds`, every config
        key, every metric. Known columns are there even if no run has them (see `columns`)."""
        from results_db.frames import run_frame

        with self._reading() as connection:
            return run_frame(connection)

    def run(self, run_id: str) -> dict[str, Any]:
        """One run: `run_id, state, outcome, seconds, staged_at, ended_at, config, metrics, sweeps`.

        Raises:
            StoreError: no such run.
        """
        run, metric, sweep, member = models.Run, models.Metric, models.Sweep, models.SweepRun
        with self._reading() as connection:
            row = connection.execute(select(run.__table__).where(run.run_id == run_id)).first()
            if row is None:
                raise rows.unknown_run(run_id)
            found = {name: value for name, value in row._mapping.items() if name != "id"}
            metrics = connection.execute(select(metric.name, metric.value).where(metric.run == row.id))
            found["metrics"] = {row.name: row.value for row in metrics}
            names = select(sweep.name).join(member, member.sweep == sweep.id).where(member.run == row.id)
            found["sweeps"] = list(connection.scalars(names.distinct().order_by(sweep.name)))
        return found

    def find(self, prefix: str) -> str:
        """The full id of the one run whose id begins with `prefix`.

        Raises:
            StoreError: no such run, or several.
        """
        start = run_prefix(prefix, origin="RUN")
        # 'g' follows 'f': a range of ids, which the index answers.
        query = select(models.Run.run_id).where(models.Run.run_id >= start, models.Run.run_id < start + "g")
        with self._reading() as connection:
            count = connection.scalar(select(func.count()).select_from(query.subquery()))
            ids = list(connection.scalars(query.order_by(models.Run.run_id).limit(4)))
        if not ids:
            raise StoreError(f"no run begins with '{prefix}' in {self.display_url}; see imagine-results runs")
        if len(ids) > 1:
            shown = ", ".join(run_id[: max(10, len(start) + 2)] for run_id in ids)
            more = ", ..." if count and count > len(ids) else ""
            raise StoreError(f"{count} runs begin with '{prefix}': {shown}{more}; give more characters")
        return ids[0]

    def traces(self, run_id: str) -> dict[str, tuple[list[int], list[float]]]:
        """The traces of a run, by name."""
        return self.traces_of([run_id]).get(run_id, {})

    def traces_of(self, run_ids: Iterable[str]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
        """The traces of each of these runs that has any, by name."""
        with self._reading() as connection:
            return rows.traces_of(connection, list(run_ids))

    def samples(self, run_id: str) -> dict[str, Sample]:
        """The samples of a run, by name."""
        sample = models.Sample
        found = self._of_run(run_id, sample, select(sample.name, sample.npz).order_by(sample.name))
        return {name: Sample(npz) for name, npz in found}

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The attempts of a run, oldest first: number, state, times, provenance, error."""
        table = models.Attempt.__table__
        columns = [column for column in table.columns if column.name not in ("id", "run")]
        query = select(*columns).order_by(table.c.number, table.c.restart)
        return [dict(row._mapping) for row in self._of_run(run_id, models.Attempt, query)]

    def close(self) -> None:
        """Give back connections."""
        self._reader.dispose()

    def _of_run(self, run_id: str, model: Any, query: Any) -> Sequence[Any]:
        joined = query.join(models.Run, models.Run.id == model.run).where(models.Run.run_id == run_id)
        with self._reading() as connection:
            return connection.execute(joined).all()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._reader)

    def _writing(self) -> AbstractContextManager[Connection]:
        if self._file is not None and not self._file.exists():
            # An open SQLite database goes on in a file that has no name any more, and vanishes with its process.
            raise StoreError(f"{self.display_url} does not exist; a launch creates it")
        return self._transaction(self._writer)

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except IntegrityError:  # the mistake is this program's, and its traceback is wanted
            raise
        except DBAPIError as error:
            raise StoreError(f"{self.display_url}: {_reason(error)}") from error
