"""The store in a SQL database: `open_store` opens one, `SqlStore` keeps the promises of `contract`.

From Python: `from results_db.store.sql import open_store; open_store("outputs/imagine.db", create=False).runs()`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from results_db.columns import run_prefix
from results_db.contract import NewSweep, PlannedRun, Sample, State, StoreError
from results_db.store import models, rows, schema
from results_db.store.address import Address, locate
from results_db.store.attempts import AttemptStore
from results_db.store.database import reason
from results_db.store.engine import make_engine

if TYPE_CHECKING:  # only `runs` needs it, and it takes half a second
    import pandas as pd


def open_store(db: str | None = None, *, create: bool, read_only: bool = False) -> "SqlStore":
    """The store at `db`: a URL or a path that ends in .db; else IMAGINE_DB; else the default.

    Args:
        db: what a person gave as `--db`.
        create: make the folder and the tables that are missing. Otherwise a database that is not there, or
            holds no tables, is an empty store that cannot be written, and nothing is created.
        read_only: of SQLite: see `make_engine`.

    Raises:
        StoreError: the database cannot be reached, is not ours, or is of another version.
    """
    address = locate(db)
    if address.file is not None:
        if create:
            _make_folder(address)
        elif not address.file.exists():
            return _empty_store(address)
    engine = make_engine(address.url, read_only=read_only)
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
    return StoreError(f"cannot open {address.shown}: {reason(error)}")


class SqlStore(AttemptStore):
    """A store in SQLite or PostgreSQL; may be used from several threads and processes at once.

    Attributes: see `Database`.
    """

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
                kind = postgresql if connection.dialect.name == "postgresql" else sqlite
                connection.execute(kind.insert(models.Run).on_conflict_do_nothing(), staged)
            if sweep is not None:
                rows.insert_sweep(connection, sweep, list(wanted), launched_at=now)

    def forget(self, sweep: NewSweep) -> None:
        """The last launch of this name and text came to nothing: it is no launch. Its runs stay."""
        with self._writing() as connection:
            rows.delete_sweep(connection, sweep)

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""
        found: dict[str, State] = {}
        with self._reading() as connection:
            for chunk in rows.chunks(list(run_ids)):
                query = select(models.Run.run_id, models.Run.state).where(models.Run.run_id.in_(chunk))
                found.update({run_id: State(state) for run_id, state in connection.execute(query)})
        return found

    def sweeps(self) -> dict[str, dict[State, int]]:
        """Per sweep, how many of the runs that its launches wanted are in which state."""
        with self._reading() as connection:
            return rows.sweep_states(connection)

    def launches(self) -> list[NewSweep]:
        """Every distinct name and text that was launched, the last launched last."""
        with self._reading() as connection:
            return rows.launches(connection)

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
        key, every metric. Known columns are there even if no run has them (see `columns`).
        """
        from results_db.store.dataframe import run_frame

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

    def _of_run(self, run_id: str, model: Any, query: Any) -> Sequence[Any]:
        joined = query.join(models.Run, models.Run.id == model.run).where(models.Run.run_id == run_id)
        with self._reading() as connection:
            return connection.execute(joined).all()
