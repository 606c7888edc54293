"""Recovers dispatches whose launch died after it claimed runs and before it noted their job ids.

Each dispatch has its own job name. If Slurm has a job of that name, its id is noted; else the claims are withdrawn. The
job may still appear later, if sbatch was waiting for the controller. That is harmless: the store refuses the withdrawn
attempts, and the job's tasks end at once.
"""

import getpass
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from jobs.dispatched import DispatchFolder
from results_db.contract import Attempt, OpenAttempt, State, Store
from results_db.process import is_alive
from slurm.client.client import Slurm, SlurmError

_ABANDONED = timedelta(minutes=10)
"""A launch on another host is over after this time. Launches take seconds."""


@dataclass
class Recovered:
    """The result of `recover`.

    Attributes:
        adopted: ids of jobs that were found.
        withdrawn: attempts that were not submitted; their runs can be claimed again.
        unclear: a line for each dispatch that Slurm gave no answer on.
    """

    adopted: list[str] = field(default_factory=list)
    withdrawn: list[Attempt] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def recover(store: Store, slurm: Slurm) -> Recovered:
    """Recover the dispatches of dead launches. It may run at any time, and twice at once.

    Raises:
        StoreError: the store cannot be reached.
    """
    done = Recovered()
    for name, waiting in _without_job(store).items():
        folder = DispatchFolder.beside(store.folder, name)
        since = min(one.claimed_at for one in waiting)
        if _is_under_way(folder, since):
            continue
        attempts = [one.attempt for one in waiting]
        try:
            job = slurm.job_named(name, since=since)
        except SlurmError as error:
            done.unclear.append(
                f"{name}: Slurm did not say whether its {len(attempts)} runs were submitted: {error}"
            )
            continue
        if job is not None:
            note(store, folder, job)
            done.adopted.append(job)
        elif withdrawn := store.withdraw(attempts):
            folder.remove()
            done.withdrawn += withdrawn
    return done


def settle(
    store: Store, folder: DispatchFolder, attempts: Sequence[Attempt], *, since: datetime
) -> str | None:
    """After a failed submission, note the job's id if the job exists, else withdraw the attempts.

    If Slurm does not answer they are withdrawn, too. If the job starts after all, it trains nothing.
    """
    try:
        job = Slurm().job_named(folder.path.name, since=since)
    except SlurmError:
        job = None
    if job is None:
        store.withdraw(attempts)
    else:
        note(store, folder, job)
    return job


def note(store: Store, folder: DispatchFolder, job: str) -> None:
    """Note the ids of a dispatch's tasks in the store: `17_0`, `17_1`, ..., or `17` for a single job."""
    tasks = folder.tasks()
    store.note_jobs(
        {
            attempt: f"{job}_{index}" if tasks > 1 else job
            for index in range(tasks)
            for attempt in folder.task(index).attempts
        }
    )


def _without_job(store: Store) -> dict[str, list[OpenAttempt]]:
    """Claimed attempts without a job id, by their job's name."""
    found = defaultdict(list)
    for one in store.open_attempts():
        if one.state is State.PENDING and one.job_id is None and one.job_name is not None:
            found[one.job_name].append(one)
    return found


def _is_under_way(folder: DispatchFolder, since: datetime) -> bool:
    """Whether its launch or the launch's sbatch may still run, or it is another user's dispatch."""
    dispatch = folder.dispatch()
    if dispatch is not None and dispatch.user != getpass.getuser():
        return True  # squeue shows only our own jobs
    if dispatch is None or dispatch.host != socket.gethostname():
        return datetime.now(UTC) - since < _ABANDONED
    return is_alive(dispatch.process) or _is_submitting(folder)


def _is_submitting(folder: DispatchFolder) -> bool:
    """Whether the sbatch of a dead launch still runs."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        # Some sites wrap sbatch in a script, so it need not be the first word.
        submits = any(Path(word).name == "sbatch" for word in command)
        if submits and any(word.startswith(f"{folder.path}/") for word in command):
            return True
    return False
