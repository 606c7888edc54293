"""The newest attempt of every run: the one that made its result, if it has one."""

from dataclasses import dataclass

from sqlalchemy import select

from results_db.contract import Attempt, State
from results_db.store import models
from results_db.store.sql import SqlStore


@dataclass(frozen=True)
class Newest:
    """A run's newest attempt.

    Attributes:
        state: the attempt's state.
        run_state: the run's state, which differs only if a newer claim was withdrawn.
        job_name: None without a scheduler.
        log: see `Provenance`.
        git_commit, git_dirty, host: see `Provenance`.
    """

    attempt: Attempt
    state: State
    run_state: State
    job_name: str | None
    log: str | None
    git_commit: str | None
    git_dirty: bool | None
    host: str | None


def newest_attempts(store: SqlStore) -> dict[str, Newest]:
    """Run id to its newest attempt; runs that were never claimed are left out."""
    run, attempt = models.Run, models.Attempt
    query = (
        select(
            run.run_id,
            *(attempt.number, attempt.restart, attempt.nonce),
            *(attempt.state, run.state.label("of_run"), attempt.job_name, attempt.log),
            *(attempt.git_commit, attempt.git_dirty, attempt.host),
        )
        .join(attempt, attempt.run == run.id)
        .order_by(attempt.number, attempt.restart)
    )
    found: dict[str, Newest] = {}
    with store._reading() as connection:
        for run_id, number, restart, nonce, state, run_state, *about in connection.execute(query):
            one = Attempt(run_id, number, restart, nonce)
            found[run_id] = Newest(one, State(str(state)), State(str(run_state)), *about)
    return found
