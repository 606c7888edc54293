"""Attempts in a SQL database: claims, beginnings, heartbeats and ends. Only a run's newest attempt may write."""

import os
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, bindparam, delete, insert, select, update
from typing_extensions import override

from results_db.contract import (
    ACTIVE,
    ARROWS,
    FAILURES,
    INTERRUPTED,
    RESTARTABLE,
    Attempt,
    BegunAttempt,
    EndedAttempt,
    Ending,
    OpenAttempt,
    Provenance,
    Reply,
    RunRecord,
    State,
    Store,
)
from results_db.files import Files, write_atomically
from results_db.process import process_name
from results_db.store import rows, tables
from results_db.store.engine import Database

Listed = TypeVar("Listed", OpenAttempt, BegunAttempt, EndedAttempt)


class AttemptStore(Database, Store):
    """The methods of a SQL store that concern attempts."""

    @override
    def claim(
        self,
        run_ids: Iterable[str],
        *,
        launcher: str,
        job_name: str | None = None,
        retry_failed: bool = False,
    ) -> list[Attempt]:
        closed = {State.COMPLETED, *ACTIVE, *(() if retry_failed else FAILURES)}
        wanted = list(dict.fromkeys(run_ids))
        by: dict[str, Any] = {"launcher": launcher, "job_name": job_name, "versions": {}}
        if job_name is None:
            by |= {"host": socket.gethostname(), "process": process_name(os.getpid())}
        with self._writing() as connection:
            runs = rows.lock_runs(connection, wanted)
            free = [runs[run_id] for run_id in wanted if runs[run_id].state not in closed]
            attempts = [Attempt(run.run_id, run.last_number + 1, nonce=secrets.token_hex(4)) for run in free]
            _insert(connection, zip(free, attempts, strict=True), state=State.PENDING, **by)
        return attempts

    @override
    def note_jobs(self, job_ids: Mapping[Attempt, str]) -> None:
        table = tables.attempt
        of_run = select(tables.run.c.id).where(tables.run.c.run_id == bindparam("of_run")).scalar_subquery()
        noted = update(table).where(
            table.c.run == of_run,
            table.c.number == bindparam("of_number"),
            table.c.nonce == bindparam("of_nonce"),
        )
        values = [
            {
                "of_run": attempt.run_id,
                "of_number": attempt.number,
                "of_nonce": attempt.nonce,
                "given": job_id,
            }
            for attempt, job_id in sorted(job_ids.items())
        ]
        if values:
            with self._writing() as connection:
                connection.execute(noted.values(job_id=bindparam("given")), values)

    @override
    def withdraw(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        wanted = list(attempts)
        table = tables.attempt
        with self._writing() as connection:
            runs = rows.lock_runs(connection, [attempt.run_id for attempt in wanted])
            waiting = {
                (row.run, row.number, row.nonce): row.id
                for chunk in rows.chunks([run.id for run in runs.values()])
                for row in connection.execute(
                    select(table.c.run, table.c.number, table.c.nonce, table.c.id).where(
                        table.c.run.in_(chunk), table.c.state == State.PENDING, table.c.job_id.is_(None)
                    )
                )
            }
            withdrawn = {
                one: waiting[key]
                for one in wanted
                if (key := (runs[one.run_id].id, one.number, one.nonce)) in waiting
            }
            for chunk in rows.chunks(list(withdrawn.values())):
                connection.execute(delete(table).where(table.c.id.in_(chunk)))
            _restore_states(connection, [runs[one.run_id].id for one in withdrawn])
        return list(withdrawn)

    @override
    def requeue(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        wanted = list(attempts)
        waiting = []
        with self._writing() as connection:
            runs = rows.lock_runs(connection, [attempt.run_id for attempt in wanted])
            now = rows.now(connection)
            for attempt in wanted:
                run = runs[attempt.run_id]
                newest = rows.newest_attempt(connection, run)
                if newest is None or newest.attempt != attempt or newest.job_name is None:
                    continue
                if newest.state not in RESTARTABLE & INTERRUPTED:
                    continue
                if newest.started_at is None:  # it still waits for its first start
                    ending: dict[str, None] = dict.fromkeys(("ended_at", "error", "exit_code", "log_tail"))
                    rows.set_attempt(connection, newest.id, state=State.PENDING, **ending)
                    waiting.append(attempt)
                else:
                    waiting.append(replace(attempt, restart=attempt.restart + 1))
                    _restart(connection, newest, waiting[-1].restart, at=now, state=State.PENDING)
                rows.set_run(connection, run.id, state=State.PENDING)
        return waiting

    @override
    def standing(self, attempt: Attempt) -> Reply:
        with self._reading() as connection:
            found = rows.fence(connection, attempt, begins=True)
            if isinstance(found, Reply):
                return found
            return Reply.ACCEPTED if found[1].state in RESTARTABLE else Reply.REFUSED

    @override
    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> Reply:
        with self._writing() as connection:
            found = rows.fence(connection, attempt, begins=True)
            if isinstance(found, Reply):
                return found
            run, newest = found
            # Either this restart is known already: its job waits (PENDING), was given up too early (LOST), or says
            # again that it began. Or it is a new restart, which may follow every state from which a job comes back.
            again = newest.attempt == attempt
            if again and newest.state is State.RUNNING:
                return Reply.ACCEPTED
            if newest.state not in ({State.PENDING, State.LOST} if again else RESTARTABLE):
                return Reply.REFUSED
            now = rows.now(connection)
            values = {"state": State.RUNNING, "ended_at": None, **_begun(provenance, at or now)}
            if again or newest.state is State.PENDING:
                rows.set_attempt(connection, newest.id, restart=attempt.restart, **values)
            else:
                _restart(connection, newest, attempt.restart, at=now, **values)
            rows.set_run(connection, run.id, state=State.RUNNING)
        return Reply.ACCEPTED

    @override
    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> Reply:
        with self._writing() as connection:
            found = rows.fence(connection, attempt)
            if isinstance(found, Reply):
                return found
            run, newest = found
            if newest.state not in (State.RUNNING, State.LOST):
                return Reply.REFUSED
            values: dict[str, Any] = {"step": step, "progress": dict(progress)}
            if newest.state is State.LOST:
                values |= {"state": State.RUNNING, "ended_at": None, "error": None}
                rows.set_run(connection, run.id, state=State.RUNNING)
            rows.set_attempt(connection, newest.id, heartbeat_at=at or rows.now(connection), **values)
        return Reply.ACCEPTED

    @override
    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> Reply:
        _check_run(attempt, record)
        with self._writing() as connection:
            found = rows.fence(connection, attempt, finishes=True)
            if isinstance(found, Reply):
                return found
            run, newest = found
            if run.state is State.COMPLETED:
                return Reply.ACCEPTED if rows.same_record(connection, run.id, record) else Reply.REFUSED
            if State.COMPLETED not in ARROWS[run.state]:
                return Reply.REFUSED
            _complete(connection, run, newest.id, record, at=at)
            table = tables.attempt
            later = (table.c.number == attempt.number, table.c.restart > attempt.restart)
            connection.execute(delete(table).where(table.c.run == run.id, *later))  # it waits in vain
        return Reply.ACCEPTED

    @override
    def end(self, attempt: Attempt, ending: Ending, *, at: datetime | None = None) -> Reply:
        if ending.state not in FAILURES | INTERRUPTED:
            raise ValueError(f"an attempt does not end as {ending.state}")
        with self._writing() as connection:
            found = rows.fence(connection, attempt)
            if isinstance(found, Reply):
                return found
            run, newest = found
            if newest.state == ending.state == run.state:
                return Reply.ACCEPTED
            if ending.state not in ARROWS[run.state]:
                return Reply.REFUSED
            ended = {"state": ending.state, "ended_at": at or rows.now(connection)}
            details = {"error": _storable(ending.error), "log_tail": _storable(ending.log_tail)}
            rows.set_attempt(connection, newest.id, exit_code=ending.exit_code, **ended, **details)
            rows.set_run(connection, run.id, **ended)
        return Reply.ACCEPTED

    @override
    def adopt(
        self,
        attempt: Attempt,
        record: RunRecord,
        provenance: Provenance,
        *,
        began_at: datetime | None = None,
        at: datetime | None = None,
    ) -> Attempt | None:
        _check_run(attempt, record)
        table = tables.attempt
        with self._writing() as connection:
            run = rows.lock_run(connection, attempt.run_id)
            if run.state is State.COMPLETED:
                return None
            now = rows.now(connection)
            lost = update(table).where(table.c.run == run.id, table.c.state.in_(sorted(ACTIVE)))
            why = "the result of an attempt that this store did not claim was adopted"
            connection.execute(lost.values(state=State.LOST, ended_at=now, error=why))
            adopted = Attempt(run.run_id, run.last_number + 1, nonce=attempt.nonce)
            _insert(connection, [(run, adopted)], state=State.RUNNING, **_begun(provenance, began_at or now))
            files = Files(self.folder)
            left = {files.weights(attempt): files.weights(adopted)} | {
                files.artifact(attempt, name, one.sha256): files.artifact(adopted, name, one.sha256)
                for name, one in record.artifacts.items()
            }
            for source, target in left.items():
                with suppress(FileNotFoundError):
                    write_atomically(target, files.read(source))
            newest = rows.newest_attempt(connection, run)
            assert newest is not None
            _complete(connection, run, newest.id, record, at=at)
        return adopted

    @override
    def open_attempts(self) -> list[OpenAttempt]:
        query = _columns_of(OpenAttempt).where(tables.attempt.c.state.in_(sorted(ACTIVE)))
        with self._reading() as connection:
            return _listed(connection, OpenAttempt, query.order_by(tables.attempt.c.id))

    @override
    def begun_attempts(self) -> list[BegunAttempt]:
        began = tables.attempt.c.started_at
        with self._reading() as connection:
            query = _columns_of(BegunAttempt).where(began.is_not(None))
            return _listed(connection, BegunAttempt, query.order_by(began, tables.attempt.c.id))

    @override
    def ended_attempts(self, states: Collection[State] = FAILURES) -> list[EndedAttempt]:
        run, attempt = tables.run, tables.attempt
        query = _columns_of(EndedAttempt).where(
            run.c.state.in_(sorted(states)), attempt.c.state == run.c.state
        )
        with self._reading() as connection:
            oldest_first = _listed(
                connection, EndedAttempt, query.order_by(attempt.c.number, attempt.c.restart)
            )
        newest = {one.attempt.run_id: one for one in oldest_first}
        return sorted(newest.values(), key=lambda one: one.ended_at, reverse=True)


def _insert(
    connection: Connection, claimed: Iterable[tuple[rows.RunRow, Attempt]], *, state: State, **values: Any
) -> None:
    """Insert the next attempt of each of these locked runs, in this state."""
    first = {"claimed_at": rows.now(connection), "step": 0, "progress": {}, "state": state, **values}
    new = [
        {"run": run.id, "number": attempt.number, "restart": 0, "nonce": attempt.nonce, **first}
        for run, attempt in claimed
    ]
    if new:
        connection.execute(insert(tables.attempt), new)
    run = tables.run
    for chunk in rows.chunks([row["run"] for row in new]):
        next_number = {"state": state, "last_number": run.c.last_number + 1}
        connection.execute(update(run).where(run.c.id.in_(chunk)).values(next_number))


def _check_run(attempt: Attempt, record: RunRecord) -> None:
    if record.run_id != attempt.run_id:
        raise ValueError(f"a record of run {record.run_id} for an attempt of {attempt.run_id}")


def _complete(
    connection: Connection, run: rows.RunRow, attempt: int, record: RunRecord, *, at: datetime | None
) -> None:
    """Write a run's record, and the end of the attempt that made it."""
    ended_at = at or rows.now(connection)
    steps = record.metrics.get("steps")
    ended = {"state": State.COMPLETED, "ended_at": ended_at}
    # The last heartbeat came before the last step; a short run sent none.
    last = {} if steps is None else {"step": int(steps)}
    rows.set_attempt(connection, attempt, heartbeat_at=ended_at, error=None, **last, **ended)
    rows.set_run(connection, run.id, outcome=record.outcome, seconds=record.seconds, **ended)
    rows.insert_record(connection, run.id, record)


def _begun(provenance: Provenance, at: datetime) -> dict[str, Any]:
    """The columns to set when an attempt begins. Unknown values are left out, so those columns stay as they are."""
    known = {name: value for name, value in vars(provenance).items() if value is not None}
    return {**known, "started_at": at, "heartbeat_at": at}


def _storable(text: str | None) -> str | None:
    """The text without NUL and lone surrogates, which PostgreSQL cannot store and a log may contain."""
    return None if text is None else text.replace("\0", "").encode(errors="replace").decode()


def _restart(
    connection: Connection, before: rows.AttemptRow, restart: int, *, at: datetime, **values: Any
) -> None:
    """Insert a row for a restart of an attempt. The restart before it ends now if it was RUNNING."""
    if before.state is State.RUNNING:
        rows.set_attempt(
            connection,
            before.id,
            state=State.LOST,
            ended_at=at,
            error=f"its job was requeued: restart {restart} began while this one was recorded as RUNNING",
        )
    table = tables.attempt
    kept = ("run", "number", "nonce", "claimed_at", "launcher", "job_name", "job_id", "versions")
    row = connection.execute(select(*(table.c[name] for name in kept)).where(table.c.id == before.id)).one()
    fresh = {"step": 0, "progress": {}, "restart": restart}
    connection.execute(insert(table).values({**dict(zip(kept, row, strict=True)), **fresh, **values}))


def _restore_states(connection: Connection, runs: Sequence[int]) -> None:
    """Give these runs the state of their newest remaining attempt; STAGED without any."""
    table = tables.attempt
    states: dict[int, State] = dict.fromkeys(runs, State.STAGED)
    for chunk in rows.chunks(runs):
        query = select(table.c.run, table.c.state).where(table.c.run.in_(chunk))
        for row in connection.execute(query.order_by(table.c.number, table.c.restart)):
            states[row.run] = State(row.state)
    for state in set(states.values()):
        for chunk in rows.chunks([run for run, newest in states.items() if newest is state]):
            connection.execute(update(tables.run).where(tables.run.c.id.in_(chunk)).values(state=state))


def _columns_of(listed: type[OpenAttempt | BegunAttempt | EndedAttempt]) -> Select[Any]:
    """A query for all attempts, with the columns that `_listed` expects."""
    table = tables.attempt.c
    names = [field.name for field in fields(listed) if field.name != "attempt"]
    of = (tables.run.c.run_id, table.number, table.restart, table.nonce)
    columns = [*of, *(table[name] for name in names)]
    return select(*columns).join(tables.attempt, tables.attempt.c.run == tables.run.c.id)


def _listed(connection: Connection, listed: type[Listed], query: Select[Any]) -> list[Listed]:
    return [
        listed(Attempt(run_id, number, restart, nonce), State(state), *values)
        for run_id, number, restart, nonce, state, *values in connection.execute(query)
    ]
