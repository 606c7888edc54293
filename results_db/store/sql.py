"""The store in a SQL database: `open_store` opens one, `SqlStore` implements `contract.Store`."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Table, delete, distinct, func, insert, literal, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from imagination import registry
from results_db.columns import in_order, run_prefix
from results_db.contract import (
    Artifact,
    Experiment,
    NewSweep,
    PlannedRun,
    State,
    StoreError,
    Traces,
)
from results_db.files import Files
from results_db.store import discards, rows, schema, tables
from results_db.store.address import Address, locate
from results_db.store.attempts import AttemptStore
from results_db.store.engine import journal, make_engine, reason
from results_db.store.lock import lock_file
from results_db.store.shared import divide
from results_db.text import SHORT, short
from results_db.trust import is_anothers

if TYPE_CHECKING:  # both are slow to import, and few commands need them
    import pandas as pd

    from results_db.frame import Frame


def open_store(
    db: str | None = None, *, create: bool, read_only: bool = False, files: Path | None = None
) -> "SqlStore":
    """Open a store.

    Args:
        db: a URL or a path that ends in .db; default: IMAGINE_DB, else `sqlite:///outputs/imagine.db`.
        create: whether to create a missing folder and missing tables. Without `create`, a database that is missing
            or has no tables is an empty store that cannot be written, and nothing is created.
        read_only: whether to open a SQLite file so that nothing can write it, not even SQLite's crash recovery.
        files: the folder beside it, if it is not the usual one.

    Raises:
        StoreError: the database cannot be reached, is not a store, or has the schema of another version.
    """
    address = locate(db, files=files)
    if address.file is not None:
        if create:
            if not address.file.exists():
                Files(address.folder).check_owner("", shown=address.shown)
            _make_folder(address.file.parent)
            _make_file(address.file)
        elif not address.file.exists():
            return _empty_store(address)
    engine = make_engine(address.url, read_only=read_only)
    with ExitStack() as unless_used:
        unless_used.callback(engine.dispose)
        try:
            if create:
                _create(engine, address)
            with engine.connect() as connection:
                if schema.is_empty(connection, shown=address.shown):
                    return _empty_store(address)
                uuid, group = connection.execute(
                    select(tables.store.c.uuid, tables.store.c.shared_with)
                ).one()
                mode = journal(connection)
        except DBAPIError as error:
            raise _cannot_open(address, error) from error
        user = None if address.file is None or group else address.file.stat().st_uid
        Files(address.folder).check_owner(uuid, shown=address.shown, user=user)
        unless_used.pop_all()
    if group is not None and not read_only:
        os.umask(os.umask(0o077) & ~0o070)  # the group may write what this process creates
    return SqlStore(address, engine, uuid=uuid, group=group, journal=mode)


def _create(engine: Engine, address: Address) -> None:
    with engine.connect() as connection:
        empty = schema.is_empty(connection, shown=address.shown)
    if empty:
        Files(address.folder).check_owner("", shown=address.shown)
        schema.create(engine, lock_file(address.file), shown=address.shown)


def open_to_read(db: str | None = None, *, files: Path | None = None) -> "SqlStore":
    """Open a store to read it; see `open_store`. In another user's store this leaves no file behind."""
    file = locate(db).file
    return open_store(db, create=False, read_only=file is not None and is_anothers(file), files=files)


def open_to_write(db: str | None = None) -> "SqlStore":
    """Open a store to write it; see `open_store`. Another user's that is not shared can only be read."""
    store = open_to_read(db)
    if store.file is None or not is_anothers(store.file) or not store.may_write():
        return store
    store.close()
    return open_store(db, create=False)


def upgrade_store(db: str | None = None) -> schema.Upgraded:
    """Upgrade an older store to the current schema, and its journal to a disk that is a network file system.

    Raises:
        StoreError: there is no such store, its schema is newer, or another process uses it.
    """
    address = locate(db)
    if address.file is not None and not address.file.exists():
        raise StoreError(f"no store at {address.shown}; a launch creates it")
    engine = make_engine(address.url)
    try:
        return schema.upgrade(engine, address.file, shown=address.shown)
    except DBAPIError as error:
        raise _cannot_open(address, error) from error
    finally:
        engine.dispose()


def _declared(runs: Iterable[PlannedRun]) -> dict[str, Experiment]:
    """What the experiments of these runs declare, if they are installed here."""
    names = {str(run.config.get("experiment")) for run in runs}.intersection(registry.names())
    return {name: Experiment(**registry.declaration(name).stored()) for name in names}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot create {folder} for the store: {error.strerror}; name another with --db"
        ) from None


def _make_file(file: Path) -> None:
    """Create the file with the mode that the umask asks for; SQLite would let no group write it."""
    with suppress(OSError):  # `make_engine` reports it
        file.touch(mode=0o666)


def _empty_store(address: Address) -> "SqlStore":
    engine = make_engine(URL.create("sqlite", database=":memory:"))
    tables.METADATA.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    return SqlStore(address, engine, uuid="")


def _cannot_open(address: Address, error: DBAPIError) -> StoreError:
    if "not a database" in str(error.orig):
        return StoreError(f"{address.shown} is not a SQLite database; name another with --db")
    return StoreError(f"cannot open {address.shown}: {reason(error)}")


class SqlStore(AttemptStore):
    """A store in SQLite or PostgreSQL, closed at the end of a `with` statement. Threads and processes may share it."""

    @override
    def stage(self, runs: Iterable[PlannedRun], *, sweep: NewSweep | None = None) -> None:
        now = datetime.now(UTC)
        planned = list(runs)
        wanted = {run.run_id: rows.split(run.config) for run in planned}
        with self._writing() as connection:
            for name, known in sorted(_declared(planned).items()):
                rows.declare(connection, name, known)
            if wanted:
                divided = divide([settings for settings, _ in wanted.values()])
                keys = rows.share(connection, [common for common, _ in divided])
                fresh = {"state": State.STAGED, "staged_at": now}
                staged = [
                    {"run_id": run_id, "settings": key, "own": rows.own_text(own), "seed": seed, **fresh}
                    for (run_id, (_, seed)), (_, own), key in zip(wanted.items(), divided, keys, strict=True)
                ]
                rows.insert_new(connection, tables.run, staged, unique="run_id")
                rows.note_needs(connection, planned)
            if sweep is None:
                return
            overridden = None if sweep.overridden is None else list(sweep.overridden)
            launch = {
                "name": sweep.name,
                "spec": sweep.spec,
                "overridden": overridden,
                "content": sweep.content,
                "launched_at": now,
            }
            key = connection.scalar(insert(tables.sweep).values(launch).returning(tables.sweep.c.id))
            for chunk in rows.chunks(list(wanted)):
                members = select(literal(key), tables.run.c.id).where(tables.run.c.run_id.in_(chunk))
                connection.execute(insert(tables.sweep_run).from_select(["sweep", "run"], members))

    @override
    def experiments(self) -> dict[str, Experiment]:
        with self._reading() as connection:
            return rows.experiments(connection)

    @override
    def forget(self, sweep: NewSweep) -> None:
        table, member = tables.sweep, tables.sweep_run
        newest = select(func.max(table.c.id)).where(table.c.name == sweep.name, table.c.spec == sweep.spec)
        with self._writing() as connection:
            key = connection.scalar(newest)
            connection.execute(delete(member).where(member.c.sweep == key))
            connection.execute(delete(table).where(table.c.id == key))

    @override
    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        found: dict[str, State] = {}
        with self._reading() as connection:
            for chunk in rows.chunks(list(run_ids)):
                query = select(tables.run.c.run_id, tables.run.c.state).where(tables.run.c.run_id.in_(chunk))
                found.update({run_id: State(state) for run_id, state in connection.execute(query)})
        return found

    @override
    def sweeps(self) -> dict[str, dict[State, int]]:
        sweep, member, run = tables.sweep, tables.sweep_run, tables.run
        query = (
            select(sweep.c.name, run.c.state, func.count(distinct(run.c.id)))
            .join(member, member.c.sweep == sweep.c.id)
            .join(run, run.c.id == member.c.run)
            .group_by(sweep.c.name, run.c.state)
            .order_by(sweep.c.name, run.c.state)
        )
        counts: dict[str, dict[State, int]] = {}
        with self._reading() as connection:
            for name, state, count in connection.execute(query):
                counts.setdefault(name, {})[State(state)] = count
        return counts

    @override
    def launches(self) -> list[NewSweep]:
        sweep = tables.sweep
        columns = (sweep.c.name, sweep.c.spec, sweep.c.overridden, sweep.c.content)
        found: dict[tuple[str, str], NewSweep] = {}
        with self._reading() as connection:
            # By time, because a merge brings older launches.
            for name, spec, own, content in connection.execute(
                select(*columns).order_by(sweep.c.launched_at, sweep.c.id)
            ):
                found.pop((name, spec), None)
                found[name, spec] = NewSweep(name, spec, None if own is None else tuple(own), content or "")
        return list(found.values())

    @override
    def members(self, sweeps: Collection[str], *, overridden: Collection[str]) -> set[str]:
        sweep, member, run = tables.sweep, tables.sweep_run, tables.run
        columns = (sweep.c.id, sweep.c.name, sweep.c.overridden, sweep.c.content)
        named = select(*columns).where(sweep.c.name.in_(sweeps))
        launched = named.order_by(sweep.c.launched_at, sweep.c.id)
        with self._reading() as connection:
            plain = [
                (key, (name, frozenset(own) - {"preset"}), content)  # the preset is no part of the content
                for key, name, own, content in connection.execute(launched)
                if own is not None and set(own) <= set(overridden)
            ]
            newest = {kind: content for _, kind, content in plain}
            keys = [key for key, kind, content in plain if content == newest[kind]]
            query = (
                select(run.c.run_id)
                .join(member, member.c.run == run.c.id)
                .where(member.c.sweep.in_(keys))
                .distinct()
            )
            return set(connection.scalars(query))

    @override
    def replace_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        with self._writing() as connection:
            run = rows.lock_run(connection, run_id)
            if run.state != State.COMPLETED:
                raise StoreError(
                    f"run {short(run_id)} is {run.state}; only a COMPLETED run has metrics to replace"
                )
            rows.set_metrics(connection, run.id, {**rows.metrics_of(connection, run.id), **metrics})

    @override
    def discard(self, run_ids: Collection[str], *, why: str) -> None:
        with self._writing() as connection:
            now = rows.now(connection)
            rows.check_not_needed(connection, run_ids)
            for run in rows.lock_runs(connection, run_ids).values():
                if run.state != State.COMPLETED:
                    raise StoreError(
                        f"run {short(run.run_id)} is {run.state}; only a COMPLETED run can be discarded"
                    )
                discards.discard(connection, run, why=why, at=now)
        for run_id in run_ids:
            Files(self.folder).discard_results(run_id)

    @override
    def discarded(self, run_id: str) -> list[dict[str, Any]]:
        with self._reading() as connection:
            return discards.discarded(connection, run_id)

    @override
    def runs(self) -> "pd.DataFrame":
        from results_db.store.run_frame import pandas_frame

        return pandas_frame(self.frame())

    @override
    def frame(self, *, limit: int | None = None) -> "Frame":
        from results_db.store.run_frame import run_frame

        return run_frame(self._reading, limit=limit)

    @override
    def run(self, run_id: str) -> dict[str, Any]:
        run, sweep, member = tables.run, tables.sweep, tables.sweep_run
        shown = (
            run.c.run_id,
            run.c.state,
            run.c.outcome,
            run.c.seconds,
            run.c.staged_at,
            run.c.ended_at,
            run.c.last_number,
            run.c.note,
        )
        query = select(run.c.id, run.c.seed, run.c.own, tables.shared.c.value, *shown).outerjoin(
            tables.shared, tables.shared.c.id == run.c.settings
        )
        with self._reading() as connection:
            row = connection.execute(query.where(run.c.run_id == run_id)).first()
            if row is None:
                raise rows.unknown_run(run_id)
            config = rows.joined(row.value, row.own, row.seed)
            known = rows.experiments(connection).get(str(config.get("experiment")), Experiment(()))
            config = {**known.before, **config}
            found = {column.key: getattr(row, column.key) for column in shown}
            found["config"] = {key: config[key] for key in in_order(config, known.keys)}
            metrics = rows.metrics_of(connection, row.id)
            found["metrics"] = {name: metrics[name] for name in in_order(metrics, list(known.metrics))}
            names = (
                select(sweep.c.name).join(member, member.c.sweep == sweep.c.id).where(member.c.run == row.id)
            )
            found["sweeps"] = list(connection.scalars(names.distinct().order_by(sweep.c.name)))
            tags = select(tables.tag.c.name).where(tables.tag.c.run == row.id).order_by(tables.tag.c.name)
            found["tags"] = list(connection.scalars(tags))
        return found

    @override
    def find(self, prefix: str) -> str:
        start = run_prefix(prefix, origin="RUN")
        # 'g' follows 'f', so this is a range of ids, which the index can answer.
        query = select(tables.run.c.run_id).where(
            tables.run.c.run_id >= start, tables.run.c.run_id < start + "g"
        )
        with self._reading() as connection:
            count = connection.scalar(select(func.count()).select_from(query.subquery()))
            ids: list[str] = list(connection.scalars(query.order_by(tables.run.c.run_id).limit(4)))
        if not ids and not self.exists:
            raise StoreError(
                f"no run begins with '{prefix}', because {self.display_url} does not exist; see --db"
            )
        if not ids:
            raise StoreError(f"no run begins with '{prefix}' in {self.display_url}; see imagine-results runs")
        if len(ids) > 1:
            shown = ", ".join(run_id[: max(SHORT, len(start) + 2)] for run_id in ids)
            more = ", ..." if count and count > len(ids) else ""
            raise StoreError(f"{count} runs begin with '{prefix}': {shown}{more}; give more characters")
        return ids[0]

    @override
    def traces(self, run_id: str) -> Traces:
        return self.traces_of([run_id]).get(run_id, {})

    @override
    def traces_of(self, run_ids: Iterable[str]) -> dict[str, Traces]:
        run, trace = tables.run, tables.trace
        query = select(run.c.run_id, trace.c.points, trace.c.steps, trace.c["values"]).join(
            run, run.c.id == trace.c.run
        )
        found: dict[str, Traces] = {}
        with self._reading() as connection:
            for chunk in rows.chunks(list(run_ids)):
                for run_id, *packed in connection.execute(query.where(run.c.run_id.in_(chunk))):
                    found[run_id] = rows.traces_in(*packed)
        return found

    @override
    def trace_frame(self, run_ids: Iterable[str] | None = None) -> "pd.DataFrame":
        from results_db.store.run_frame import trace_frame

        chosen = self.frame()["run_id"].tolist() if run_ids is None else run_ids
        return trace_frame(self.traces_of(chosen))

    @override
    def samples(self, run_id: str) -> dict[str, bytes]:
        query = select(tables.sample.c.name, tables.sample.c.npz).order_by(tables.sample.c.name)
        return {row.name: row.npz for row in self._of_run(run_id, tables.sample, query)}

    @override
    def artifacts(self, run_id: str) -> dict[str, Artifact]:
        table = tables.artifact
        query = select(table.c.name, table.c.size, table.c.sha256).order_by(table.c.name)
        return {name: Artifact(*about) for name, *about in self._of_run(run_id, table, query)}

    @override
    def needs(self, run_id: str) -> dict[str, str]:
        query = select(tables.need.c.key, tables.need.c.needed).order_by(tables.need.c.key)
        return dict(map(tuple, self._of_run(run_id, tables.need, query)))

    @override
    def needed_by(self, run_id: str) -> list[str]:
        run, table = tables.run, tables.need
        query = select(run.c.run_id).join(table, table.c.run == run.c.id).where(table.c.needed == run_id)
        with self._reading() as connection:
            return list(connection.scalars(query.distinct().order_by(run.c.id)))

    @override
    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        table = tables.attempt
        columns = [column for column in table.columns if column.name not in ("id", "run")]
        query = select(*columns).order_by(table.c.number, table.c.restart)
        names = [column.key for column in columns]
        return [dict(zip(names, row, strict=True)) for row in self._of_run(run_id, tables.attempt, query)]

    def _of_run(self, run_id: str, table: Table, query: Any) -> Sequence[Any]:
        joined = query.join(tables.run, tables.run.c.id == table.c.run).where(tables.run.c.run_id == run_id)
        with self._reading() as connection:
            return connection.execute(joined).all()
