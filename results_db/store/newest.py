"""The newest attempt of every run: the one that made its result, if it has one."""

from dataclasses import dataclass

from sqlalchemy import select

from results_db.contract import Attempt, State
from results_db.store import tables
from results_db.store.sql import SqlStore


@dataclass(frozen=True)
class Newest:
    """A run's newest attempt.

    Attributes:
        state: the attempt's state.
        run_state: the run's state, which differs only if a newer claim was withdrawn.
        job_name: None without a scheduler.
        log: see `Provenance`.
    """

    attempt: Attempt
    state: State
    run_state: State
    job_name: str | None
    log: str | None


def newest_attempts(store: SqlStore) -> dict[str, Newest]:
    """Run id to its newest attempt; runs that were never claimed are left out."""
    run, attempt = tables.run, tables.attempt
    query = (
        select(
            run.c.run_id,
            *(attempt.c.number, attempt.c.restart, attempt.c.nonce),
            *(attempt.c.state, run.c.state.label("of_run"), attempt.c.job_name, attempt.c.log),
        )
        .join(attempt, attempt.c.run == run.c.id)
        .order_by(attempt.c.number, attempt.c.restart)
    )
    found: dict[str, Newest] = {}
    with store._reading() as connection:
        for run_id, number, restart, nonce, state, run_state, *about in connection.execute(query):
            one = Attempt(run_id, number, restart, nonce)
            found[run_id] = Newest(one, State(str(state)), State(str(run_state)), *about)
    return found


def trained_by(store: SqlStore) -> dict[str, tuple[str | None, bool | None, str | None]]:
    """Run id to commit, whether files differed from it, and host of the attempt that made the run's result."""
    run, attempt = tables.run, tables.attempt
    columns = (run.c.run_id, attempt.c.git_commit, attempt.c.git_dirty, attempt.c.host)
    query = (
        select(*columns).join(attempt, attempt.c.run == run.c.id).where(attempt.c.state == State.COMPLETED)
    )
    with store._reading() as connection:
        return {
            run_id: (commit, dirty, host) for run_id, commit, dirty, host in connection.execute(query).all()
        }


def versions(store: SqlStore) -> list[tuple[str | None, bool | None]]:
    """Every commit, and whether files differed from it, that made a result."""
    attempt = tables.attempt
    query = (
        select(attempt.c.git_commit, attempt.c.git_dirty).where(attempt.c.state == State.COMPLETED).distinct()
    )
    with store._reading() as connection:
        return [(commit, dirty) for commit, dirty in connection.execute(query).all()]
