"""Plain jobs on the testbed, with the attempts that a dispatch of ours would have granted for them."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweep_helpers import ME, small

from jobs.dispatched import Dispatch, DispatchFolder
from results_db.contract import Attempt, PlannedRun, State
from results_db.store.sql import SqlStore
from slurm.follow.hold import HOLD_AFTER
from slurm.testbed.processes import wait_for
from slurm.testbed.testbed import Testbed

WITHIN_S = 90  # what takes 20 s on an idle machine


def runs(count: int) -> list[PlannedRun]:
    """So many different runs."""
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
    granted = store.claim([run.run_id for pack in tasks for run in pack], job_name=name, launcher="slurm")
    of_run = {attempt.run_id: attempt for attempt in granted}
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
    """The id of its job."""
    return str(store.attempts(attempt.run_id)[-1]["job_id"])


def begun(store: SqlStore, attempt: Attempt) -> None:
    """Its worker says that it began."""
    assert store.begin(attempt, replace(ME, launcher="slurm", job_id=job_of(store, attempt)))


def slurm_state(slurm: Testbed, job: str) -> str:
    """Slurm's word for a job or task."""
    return slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def wait_for_state(slurm: Testbed, job: str, *states: str) -> None:
    """Returns when the job is in one of these states."""
    wait_for(f"{job} to be {states}", lambda: slurm_state(slurm, job) in states, within_s=WITHIN_S)


def state_of(store: SqlStore, attempt: Attempt) -> State:
    """The state of the attempt's run."""
    return store.states([attempt.run_id])[attempt.run_id]


def text_of(path: Path) -> str:
    """A file's text; empty while it is not there."""
    return path.read_text() if path.exists() else ""
