"""The provenance of an attempt (process, host, device, code version), and attempts whose process died. Torch-free."""

import os
import platform
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path

from results_db.contract import Attempt, Ending, OpenAttempt, Provenance, State, Store
from results_db.process import is_alive, process_name

_OVERDUE = timedelta(minutes=5)
_SOURCES = ("imagination", "jobs", "results_db", "slurm", "sweeps", "pyproject.toml")
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
    commit, dirty = _git()
    return Provenance(
        launcher=launcher,
        host=socket.gethostname(),
        process=process_name(os.getpid()),
        device=device,
        git_commit=commit,
        git_dirty=dirty,
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


@cache
def _git() -> tuple[str | None, bool | None]:
    """The source tree's commit and whether it is dirty; (None, None) outside its own git checkout."""
    here = Path(__file__)
    # A package installed inside another project's checkout is not part of that checkout.
    if _output("git", "ls-files", "--error-unmatch", here.name, folder=here.parent) is None:
        return None, None
    commit = _output("git", "rev-parse", "HEAD", folder=here.parent)
    # An untracked module makes the tree dirty; untracked files outside the code do not.
    changes = _output("git", "status", "--porcelain", "--", *_SOURCES, folder=here.parent.parent)
    return commit, None if changes is None else bool(changes)


def _output(*command: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
