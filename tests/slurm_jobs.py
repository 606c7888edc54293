"""Plain jobs on the testbed, with the attempts that a dispatch of ours would have claimed for them."""

import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sweep_helpers import ME, small

from jobs.dispatched import Dispatch, DispatchFolder
from results_db.contract import Attempt, OpenAttempt, PlannedRun, State
from results_db.store.sql import SqlStore
from slurm.follow.hold import HOLD_AFTER
from slurm.testbed.processes import wait_for
from slurm.testbed.testbed import Testbed

WITHIN_S = 90  # what takes 20 s on an idle machine


def open_attempt(
    run: str,
    job: str | None,
    state: State = State.PENDING,
    *,
    number: int = 1,
    claimed: datetime,
    started: datetime | None = None,
    heard: datetime | None = None,
) -> OpenAttempt:
    """An attempt of a job named `n`; without a job, of the local launcher."""
    launcher, name = ("slurm", "n") if job else ("local", None)
    attempt = Attempt(run, number)
    return OpenAttempt(attempt, state, launcher, name, job, None, None, None, claimed, started, heard, 0, {})


def runs(count: int) -> list[PlannedRun]:
    """Different runs."""
    return [small(seed=seed) for seed in range(count)]


def submitted(
    store: SqlStore,
    slurm: Testbed,
    script: str,
    *options: str,
    tasks: Sequence[Sequence[PlannedRun]],
    parallel: int | None = None,
    hold_after: int = HOLD_AFTER,
) -> list[list[Attempt]]:
    """An array of this shell script with one task for each of these packs; the attempts of each task."""
    name = f"test-{secrets.token_hex(4)}"
    store.stage(run for pack in tasks for run in pack)
    claimed = store.claim([run.run_id for pack in tasks for run in pack], job_name=name, launcher="slurm")
    of_run = {attempt.run_id: attempt for attempt in claimed}
    packs = [[of_run[run.run_id] for run in pack] for pack in tasks]
    dispatch = DispatchFolder.beside(store.folder, name)
    folder = dispatch.path
    dispatch.begin(
        Dispatch(name, store.url, str(store.folder), None, "h", name, "me", str(folder), hold_after)
    )
    limit = f"%{parallel}" if parallel else ""
    job = slurm.run(
        *("sbatch", "--parsable", "--chdir=/tmp", "--requeue", f"--job-name={name}"),
        *("--output=/dev/null", f"--error={folder}/%A_%a_0_log.err", f"--array=0-{len(tasks) - 1}{limit}"),
        *(*options, "--wrap", script),
    )
    store.note_jobs({attempt: f"{job}_{index}" for index, pack in enumerate(packs) for attempt in pack})
    return packs


def job_of(store: SqlStore, attempt: Attempt) -> str:
    """The id of the attempt's job."""
    return str(store.attempts(attempt.run_id)[-1]["job_id"])


def begun(store: SqlStore, attempt: Attempt) -> None:
    """Report the beginning of an attempt, as its worker does."""
    assert store.begin(attempt, replace(ME, launcher="slurm", job_id=job_of(store, attempt)))


def slurm_state(slurm: Testbed, job: str) -> str:
    """Slurm's state of a job or task."""
    return slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def wait_for_state(slurm: Testbed, job: str, *states: str) -> None:
    """Wait until the job is in one of these states."""
    wait_for(f"{job} to be {states}", lambda: slurm_state(slurm, job) in states, within_s=WITHIN_S)


def state_of(store: SqlStore, attempt: Attempt) -> State:
    """The state of the attempt's run."""
    return store.states([attempt.run_id])[attempt.run_id]


def claimed_long_ago(database: Path) -> None:
    """Make every claim without a job id look hours old."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE attempt SET intended_at = '2026-01-01 00:00:00.000000' WHERE job_id IS NULL"
        )
