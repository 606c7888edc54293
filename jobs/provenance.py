"""The provenance of an attempt (process, host, device, code version), and attempts whose process died. Torch-free."""

import os
import platform
import socket
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path

from jobs.code import this_code
from results_db.contract import Attempt, Ending, OpenAttempt, Provenance, State, Store
from results_db.process import is_alive, process_name

_OVERDUE = timedelta(minutes=5)
_PACKAGES = ("imagine-sweep", "torch", "numpy", "submitit", "hydra-core")


def provenance(
    *, launcher: str, device: str, job_id: str | None = None, log: str | None = None
) -> Provenance:
    """The provenance of this process's attempts.

    Args:
        launcher: `local`, `hand` or `slurm`.
        device: the device's name, such as the model of the GPU.
        job_id: the scheduler's id of the job.
        log: the process's log; see `Provenance`.
    """
    code = this_code()
    return Provenance(
        launcher=launcher,
        host=socket.gethostname(),
        process=process_name(os.getpid()),
        device=device,
        git_commit=code.commit,
        git_dirty=code.dirty,
        versions=_versions(),
        job_id=job_id,
        log=log,
    )


def lose_dead_attempts(store: Store) -> list[str]:
    """Records `dead_attempts` as LOST, and returns their run ids."""
    lost = dead_attempts(store)
    for attempt in lost:
        store.end(attempt, Ending(State.LOST, "its worker process is gone"))
    return [attempt.run_id for attempt in lost]


def dead_attempts(store: Store) -> list[Attempt]:
    """Attempts that are recorded as open although their process is gone, as after a reboot.

    On this host, the process is looked up. An attempt of this same Slurm job on another host is dead, because the job
    was requeued. Any other attempt on another host counts as dead when its last heartbeat (one every 15 s) is more than
    5 minutes old. If its worker is still alive, the store refuses the worker's writes once a new attempt begins.
    Attempts that a launch submitted to a scheduler are left to reconcile.
    """
    return [one.attempt for one in store.open_attempts() if _is_dead(one)]


def _is_dead(running: OpenAttempt) -> bool:
    if running.job_name is not None:
        return False  # the scheduler knows its state and may start it again
    if running.host == socket.gethostname():
        return not is_alive(running.process or "")
    if running.job_id is not None and running.job_id == slurm_job():
        return True
    last = running.heartbeat_at or running.claimed_at
    overdue = datetime.now(UTC) - last > _OVERDUE
    return overdue and running.launcher in ("local", "hand")


def slurm_job() -> str | None:
    """The Slurm job id of this process, as squeue shows it; None outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def cpu_name() -> str:
    """The processor's model as Linux names it, or the architecture on other systems."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
