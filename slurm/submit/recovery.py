"""What a launcher left behind that died between the store's grant and the noting of its jobs' ids.

Slurm knows the job by a name that is given once, so either it is found, and its id is noted now, or there is none, and
the grant is taken back. A job that shows up later all the same (sbatch was still waiting for the controller) does no
harm: the store refuses attempts that were taken back, and its tasks end at once.
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
from slurm.client.commands import SlurmError, job_named

_ABANDONED = timedelta(minutes=10)
"""A launch on another host, of which nobody here can say whether it lives, takes seconds."""


@dataclass
class Recovered:
    """What became of unfinished dispatches.

    Attributes:
        adopted: ids of jobs that were found.
        withdrawn: attempts that were never submitted; their runs are free again.
        unclear: a line for each dispatch that stays as it is.
    """

    adopted: list[str] = field(default_factory=list)
    withdrawn: list[Attempt] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def recover(store: Store) -> Recovered:
    """Look for attempts without a job id whose launcher is gone, and settle them. Safe at any time, and twice.

    Raises:
        StoreError: the store is away.
    """
    done = Recovered()
    for name, waiting in _without_job(store).items():
        folder = DispatchFolder.beside(store.folder, name)
        since = min(one.claimed_at for one in waiting)
        if _is_under_way(folder, since):
            continue
        attempts = [one.attempt for one in waiting]
        try:
            job = job_named(name, since=since)
        except SlurmError as error:
            done.unclear.append(f"{name}: {len(attempts)} runs may have been submitted or not: {error}")
            continue
        if job is None:
            withdrawn = store.withdraw(attempts)
            if withdrawn:
                folder.remove()
            done.withdrawn += withdrawn
        else:
            note(store, folder, job)
            done.adopted.append(job)
    return done


def settle(
    store: Store, folder: DispatchFolder, attempts: Sequence[Attempt], *, since: datetime
) -> str | None:
    """After a submission that went wrong: note the job if there is one, else take back the attempts.

    Also where Slurm does not answer: a job that comes of it after all does not count.
    """
    try:
        job = job_named(folder.path.name, since=since)
    except SlurmError:
        job = None
    if job is None:
        store.withdraw(attempts)
    else:
        note(store, folder, job)
    return job


def note(store: Store, folder: DispatchFolder, job: str) -> None:
    """Tell the store the ids of a dispatch's tasks: `17_0`, `17_1`, ..., or `17` where it is no array."""
    tasks = folder.tasks()
    store.note_jobs(
        {
            attempt: f"{job}_{index}" if tasks > 1 else job
            for index in range(tasks)
            for attempt in folder.task(index).attempts().values()
        }
    )


def _without_job(store: Store) -> dict[str, list[OpenAttempt]]:
    """Attempts that were granted and have no job id, by their job's name."""
    found = defaultdict(list)
    for one in store.open_attempts():
        if one.state is State.PENDING and one.job_id is None and one.job_name is not None:
            found[one.job_name].append(one)
    return found


def _is_under_way(folder: DispatchFolder, since: datetime) -> bool:
    """Whether its launcher may still be at it, or the sbatch that it started; or it is another user's affair."""
    dispatch = folder.dispatch()
    if dispatch is not None and dispatch.user != getpass.getuser():
        return True  # squeue shows us our own jobs alone
    if dispatch is None or dispatch.host != socket.gethostname():
        return datetime.now(UTC) - since < _ABANDONED
    return is_alive(dispatch.process) or _is_submitting(folder)


def _is_submitting(folder: DispatchFolder) -> bool:
    """Whether an sbatch of that launcher outlives it."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        # Some sites have a script of that name, so it need not be the first word.
        submits = any(Path(word).name == "sbatch" for word in command)
        if submits and any(word.startswith(f"{folder.path}/") for word in command):
            return True
    return False
