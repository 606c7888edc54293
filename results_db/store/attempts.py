"""Attempts in a SQL database: granted, submitted, begun, alive, ended. Only a run's newest may write."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from results_db.contract import (
    ACTIVE,
    ARROWS,
    FAILURES,
    INTERRUPTED,
    RESTARTABLE,
    Attempt,
    EndedAttempt,
    OpenAttempt,
    Provenance,
    RunRecord,
    State,
)
from results_db.store import models, rows
from results_db.store.database import Database

_COMES_BACK = RESTARTABLE & INTERRUPTED
_NOT_OVER: dict[str, None] = dict.fromkeys(("ended_at", "error", "exit_code", "log_tail"))
_PROVENANCE = tuple(Provenance.__dataclass_fields__)


class AttemptStore(Database):
    """The part of a store that deals with attempts. See `contract.Store` for what each method promises."""

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Grant the run's next attempt and begin it, atomically. None if there is nothing to do.

        Raises:
            UnknownRunError: the run was never staged.
        """
        with self._writing() as connection:
            run = rows.lock_run(connection, run_id)
            if run.state in ACTIVE or run.state is State.COMPLETED:
                return None
            now = rows.now(connection)
            (attempt,) = _grant(connection, [run], state=State.RUNNING, at=now, **_begun(provenance, now))
        return attempt

    def intend(
        self, run_ids: Iterable[str], *, job_name: str, launcher: str, retry_failed: bool = False
    ) -> list[Attempt]:
        """Grant the next attempt (PENDING, without a job id) of these runs, in one transaction.

        Raises:
            UnknownRunError: a run was never staged; nothing is granted.
        """
        closed = {State.COMPLETED, *ACTIVE, *(() if retry_failed else FAILURES)}
        wanted = list(dict.fromkeys(run_ids))
        with self._writing() as connection:
            runs = rows.lock_runs(connection, wanted)
            free = [runs[run_id] for run_id in wanted if runs[run_id].state not in closed]
            return _grant(
                connection,
                free,
                state=State.PENDING,
                at=rows.now(connection),
                launcher=launcher,
                job_name=job_name,
                versions={},
            )

    def note_jobs(self, job_ids: Mapping[Attempt, str]) -> None:
        """Note the scheduler's id (`123_4`) of attempts that were submitted, whatever became of them since."""
        table = models.Attempt
        of_run = select(models.Run.id).where(models.Run.run_id == bindparam("of_run")).scalar_subquery()
        noted = update(table).where(table.run == of_run, table.number == bindparam("of_number"))
        values = [
            {"of_run": attempt.run_id, "of_number": attempt.number, "given": job_id}
            for attempt, job_id in sorted(job_ids.items())
        ]
        if values:
            with self._writing() as connection:
                connection.execute(noted.values(job_id=bindparam("given")), values)

    def withdraw(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Take back intents that were never submitted: their runs are again what they were before.

        Raises:
            UnknownRunError: a run was never staged; nothing is taken back.
        """
        wanted = list(attempts)
        table = models.Attempt
        with self._writing() as connection:
            runs = rows.lock_runs(connection, [attempt.run_id for attempt in wanted])
            ids = [run.id for run in runs.values()]
            waiting = {
                (row.run, row.number): row.id
                for chunk in rows.chunks(ids)
                for row in connection.execute(
                    select(table.run, table.number, table.id).where(
                        table.run.in_(chunk), table.state == State.PENDING, table.job_id.is_(None)
                    )
                )
            }
            withdrawn = [one for one in wanted if (runs[one.run_id].id, one.number) in waiting]
            keys = [waiting[runs[one.run_id].id, one.number] for one in withdrawn]
            for keys_chunk in rows.chunks(keys):
                connection.execute(delete(table).where(table.id.in_(keys_chunk)))
            _back_to_before(connection, [runs[one.run_id].id for one in withdrawn])
        return withdrawn

    def requeue(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """The jobs of these interrupted attempts wait in the queue again: they, or their next restarts, are PENDING.

        Raises:
            UnknownRunError: a run was never staged; nothing is changed.
        """
        wanted = list(attempts)
        waiting = []
        with self._writing() as connection:
            runs = rows.lock_runs(connection, [attempt.run_id for attempt in wanted])
            now = rows.now(connection)
            for attempt in wanted:
                run = runs[attempt.run_id]
                newest = rows.newest_attempt(connection, run.id)
                if newest is None or newest.order != attempt.order or newest.state not in _COMES_BACK:
                    continue
                begun, dispatched = _history(connection, newest.id)
                if not dispatched:
                    continue
                again = replace(attempt, restart=attempt.restart + begun)
                if begun:
                    _go_on(connection, newest, again.restart, now=now, values={"state": State.PENDING})
                else:  # nothing happened yet that a restart would tell apart
                    rows.set_attempt(connection, newest.id, state=State.PENDING, **_NOT_OVER)
                rows.set_run(connection, run.id, state=State.PENDING)
                waiting.append(again)
        return waiting

    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool:
        """A dispatched attempt begins, or goes on after its job was requeued: it becomes RUNNING.

        Raises:
            UnknownRunError: the run was never staged.
        """
        with self._writing() as connection:
            run = rows.lock_run(connection, attempt.run_id)
            newest = rows.newest_attempt(connection, run.id)
            if newest is None or newest.number != attempt.number or newest.restart > attempt.restart:
                return False
            again = newest.restart == attempt.restart
            if again and newest.state is State.RUNNING:
                return True
            if newest.state not in ({State.PENDING, State.LOST} if again else RESTARTABLE):
                return False
            now = rows.now(connection)
            values = {"state": State.RUNNING, "ended_at": None, **_begun(provenance, at or now)}
            if again or newest.state is State.PENDING:
                rows.set_attempt(connection, newest.id, restart=attempt.restart, **values)
            else:
                _go_on(connection, newest, attempt.restart, now=now, values=values)
            rows.set_run(connection, run.id, state=State.RUNNING)
        return True

    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool:
        """Say that the attempt is alive. False if it no longer counts, and its worker should stop."""
        with self._writing() as connection:
            run, newest = rows.fence(connection, attempt)
            if newest is None or newest.state not in (State.RUNNING, State.LOST):
                return False
            values: dict[str, Any] = {"step": step, "progress": dict(progress)}
            if newest.state is State.LOST:  # it was given up too early
                values |= {"state": State.RUNNING, "ended_at": None, "error": None}
                rows.set_run(connection, run.id, state=State.RUNNING)
            rows.set_attempt(connection, newest.id, heartbeat_at=at or rows.now(connection), **values)
        return True

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool:
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
            if run.state is State.COMPLETED:
                return rows.same_record(connection, run.id, record)
            if State.COMPLETED not in ARROWS[run.state]:
                return False
            ended_at = at or rows.now(connection)
            steps = record.metrics.get("steps")
            rows.set_attempt(
                connection,
                newest.id,
                state=State.COMPLETED,
                heartbeat_at=ended_at,
                ended_at=ended_at,
                error=None,
                # No heartbeat is sent after the last step; a short run never sent one.
                **({} if steps is None else {"step": int(steps)}),
            )
            rows.set_run(
                connection,
                run.id,
                state=State.COMPLETED,
                outcome=record.outcome,
                seconds=record.seconds,
                ended_at=ended_at,
            )
            rows.insert_record(connection, run.id, record)
        return True

    def end(
        self,
        attempt: Attempt,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
        at: datetime | None = None,
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
            ended_at = at or rows.now(connection)
            rows.set_attempt(
                connection,
                newest.id,
                state=state,
                ended_at=ended_at,
                error=_plain(error),
                exit_code=exit_code,
                log_tail=_plain(log_tail),
            )
            rows.set_run(connection, run.id, state=state, ended_at=ended_at)
        return True

    def open_attempts(self) -> list[OpenAttempt]:
        """Every attempt that is PENDING or RUNNING, oldest first."""
        table = models.Attempt.__table__.c
        names = [name for name in OpenAttempt.__dataclass_fields__ if name not in ("attempt", "state")]
        query = (
            select(
                models.Run.run_id, table.number, table.restart, table.state, *(table[name] for name in names)
            )
            .join(models.Attempt, models.Attempt.run == models.Run.id)
            .where(models.Attempt.state.in_(sorted(ACTIVE)))
            .order_by(models.Attempt.id)
        )
        with self._reading() as connection:
            return [
                OpenAttempt(Attempt(run_id, number, restart), State(state), *values)
                for run_id, number, restart, state, *values in connection.execute(query)
            ]

    def ended_attempts(self, states: Collection[State] = FAILURES) -> list[EndedAttempt]:
        """The newest attempt of every run that is in one of these states, the last to end first."""
        table = models.Attempt.__table__.c
        names = [name for name in EndedAttempt.__dataclass_fields__ if name not in ("attempt", "state")]
        query = (
            select(
                models.Run.run_id, table.number, table.restart, table.state, *(table[name] for name in names)
            )
            .join(models.Attempt, models.Attempt.run == models.Run.id)
            .where(models.Run.state.in_(sorted(states)), models.Attempt.state == models.Run.state)
            .order_by(models.Attempt.number, models.Attempt.restart)
        )
        with self._reading() as connection:
            newest = {
                run_id: EndedAttempt(Attempt(run_id, number, restart), State(state), *values)
                for run_id, number, restart, state, *values in connection.execute(query)
            }
        return sorted(newest.values(), key=lambda ended: ended.ended_at, reverse=True)


def _grant(
    connection: Connection, runs: Sequence[rows.RunRow], *, state: State, at: datetime, **values: Any
) -> list[Attempt]:
    """The next attempt of each of these locked runs, in this state."""
    attempts = [Attempt(run.run_id, run.last_number + 1) for run in runs]
    new = [
        {
            "run": run.id,
            "number": attempt.number,
            "restart": attempt.restart,
            "state": state,
            "intended_at": at,
            "step": 0,
            "progress": {},
            **values,
        }
        for run, attempt in zip(runs, attempts, strict=True)
    ]
    if new:
        connection.execute(insert(models.Attempt), new)
    run = models.Run
    for chunk in rows.chunks([row.id for row in runs]):
        granted = update(run).where(run.id.in_(chunk))
        connection.execute(granted.values(state=state, last_number=run.last_number + 1))
    return attempts


def _begun(provenance: Provenance, at: datetime) -> dict[str, Any]:
    """What an attempt's row says from when it begins; what the dispatch noted and the worker does not know stays."""
    values = {name: getattr(provenance, name) for name in _PROVENANCE}
    known = {name: value for name, value in values.items() if value is not None}
    return {**known, "started_at": at, "heartbeat_at": at}


def _history(connection: Connection, attempt: int) -> tuple[bool, bool]:
    """Whether an attempt began, and whether it was dispatched."""
    table = models.Attempt
    row = connection.execute(select(table.started_at, table.job_name).where(table.id == attempt)).one()
    return row.started_at is not None, row.job_name is not None


def _plain(text: str | None) -> str | None:
    """The text without what PostgreSQL cannot hold, and a log may: the character 0, and halves of characters."""
    return None if text is None else text.replace("\0", "").encode(errors="replace").decode()


def _go_on(
    connection: Connection, before: rows.AttemptRow, restart: int, *, now: datetime, values: Mapping[str, Any]
) -> None:
    """A row for the restart, like that of the attempt before it, which is over at the latest now."""
    if before.state is State.RUNNING:
        rows.set_attempt(
            connection,
            before.id,
            state=State.LOST,
            ended_at=now,
            error=f"its job was requeued: restart {restart} began while it was held for alive",
        )
    table = models.Attempt.__table__
    kept = ("run", "number", "intended_at", "launcher", "job_name", "job_id", "versions")
    row = connection.execute(select(*(table.c[name] for name in kept)).where(table.c.id == before.id)).one()
    fresh = {"step": 0, "progress": {}, "restart": restart}
    connection.execute(insert(models.Attempt).values({**row._mapping, **fresh, **values}))


def _back_to_before(connection: Connection, runs: Sequence[int]) -> None:
    """Give these runs the state of their newest attempt that is left; STAGED without any."""
    table = models.Attempt
    before: dict[int, State] = dict.fromkeys(runs, State.STAGED)
    for chunk in rows.chunks(runs):
        query = select(table.run, table.state).where(table.run.in_(chunk))
        for row in connection.execute(query.order_by(table.number, table.restart)):
            before[row.run] = State(row.state)
    for state in set(before.values()):
        for chunk in rows.chunks([run for run, was in before.items() if was is state]):
            connection.execute(update(models.Run).where(models.Run.id.in_(chunk)).values(state=state))
