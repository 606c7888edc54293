"""Recovers dispatches whose launch died after it claimed runs and before it noted their job ids.

Each dispatch has its own job name. If Slurm has a job of that name, its id is noted. If Slurm says that it has none,
the claims are withdrawn. The job may still appear later, if sbatch was waiting for the controller. That is harmless:
the store refuses the withdrawn attempts, and the job's tasks end at once.

If Slurm does not answer, the dispatch is another user's, or its head is damaged, the claims stay as they are.
"""

import socket
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from jobs.dispatched import DispatchFolder
from results_db.contract import Attempt, OpenAttempt, State, Store
from results_db.process import is_alive
from results_db.text import counted, one_line
from results_db.trust import is_anothers
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Unknown

_ABANDONED = timedelta(minutes=10)
"""A launch on another host is over after this time. Launches take seconds."""

_CANCEL = ", until imagine-sweep cancel ends them"


@dataclass
class Recovered:
    """The result of `recover`.

    Attributes:
        adopted: ids of jobs that were found.
        withdrawn: attempts that were not submitted; their runs can be claimed again.
        unclear: a line for each dispatch that stays as it is, because Slurm did not answer or its files are damaged.
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
        # squeue may hide another user's jobs, and only that user's commands can read the folder.
        if not is_anothers(folder.path) and not _is_under_way(folder, since):
            _recover(folder, [one.attempt for one in waiting], store, slurm, since=since, done=done)
    return done


def _recover(
    folder: DispatchFolder,
    attempts: Sequence[Attempt],
    store: Store,
    slurm: Slurm,
    *,
    since: datetime,
    done: Recovered,
) -> None:
    runs = counted(len(attempts), "run")
    if folder.path.exists() and folder.dispatch() is None:
        head = f"{folder.path}/dispatch.json"
        done.unclear.append(
            f"{head} is damaged, or others can write it; its {runs} stay as they are{_CANCEL}"
        )
        return
    try:
        job = slurm.job_named(folder.path.name, since=since)
    except SlurmError as error:
        done.unclear.append(
            f"{folder.path.name}: Slurm did not say whether it has the jobs of {runs}: {error}"
        )
        return
    if job is not None:
        noted, unread = note(store, folder, job, attempts=attempts)
        done.adopted += [job] if noted else []
        done.unclear += unread
    elif withdrawn := store.withdraw(attempts):
        folder.remove()
        done.withdrawn += withdrawn


def settle(
    store: Store, folder: DispatchFolder, attempts: Sequence[Attempt], *, since: datetime
) -> str | Unknown | None:
    """After a failed submission: the job's id if the job exists. If it does not, withdraw the attempts.

    If Slurm does not answer, they stay claimed until a later command finds out.
    """
    try:
        job = Slurm().job_named(folder.path.name, since=since)
    except SlurmError as error:
        return Unknown(str(error))
    if job is None:
        store.withdraw(attempts)
        folder.remove()
    return job


def note(
    store: Store, folder: DispatchFolder, job: str, *, attempts: Collection[Attempt]
) -> tuple[set[Attempt], list[str]]:
    """Note the ids of a dispatch's tasks in the store.

    A damaged file does not say which attempts were its own: those that no other task has. Its job can train nothing, so
    they get the id of this job and end with it.

    Returns:
        Those of these `attempts` that have an id now, and a line for each task whose file is damaged or not readable.
    """
    noted: dict[Attempt, str] = {}
    damaged, lines, hidden = [], [], False
    for index, job_id in enumerate(job_ids(job, folder.tasks())):
        try:
            noted |= dict.fromkeys(folder.task(index).attempts, job_id)
        except ValueError as error:
            damaged.append(job_id)
            lines.append(f"{folder.path}: {one_line(error)}; its runs end with job {job_id}")
        except OSError as error:
            hidden = True
            lines.append(f"{folder.path}: {one_line(error)}; its runs stay as they are{_CANCEL}")
    if damaged and not hidden:
        noted |= dict.fromkeys(set(attempts) - noted.keys(), damaged[0])
    store.note_jobs(noted)
    return noted.keys() & set(attempts), lines


def job_ids(job: str, tasks: int) -> list[str]:
    """The ids of a dispatch's tasks: `17_0`, `17_1`, ..., or `17` for a single job."""
    return [f"{job}_{index}" for index in range(tasks)] if tasks > 1 else [job]


def _without_job(store: Store) -> dict[str, list[OpenAttempt]]:
    """Claimed attempts without a job id, by their job's name."""
    found = defaultdict(list)
    for one in store.open_attempts():
        if one.state is State.PENDING and one.job_id is None and one.job_name is not None:
            found[one.job_name].append(one)
    return found


def _is_under_way(folder: DispatchFolder, since: datetime) -> bool:
    """Whether its launch or the launch's sbatch may still run."""
    dispatch = folder.dispatch()
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
