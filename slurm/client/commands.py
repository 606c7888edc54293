"""Slurm's commands as dispatch needs them, each with what it may answer."""

import os
import shutil
import subprocess
from collections.abc import Collection
from datetime import datetime, timedelta

from imagination.schema import ConfigError
from results_db.text import one_line

_ANSWER_S = 60

_SITE_DEFAULTS = ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION", "CLUSTERS")
"""What a site, or a person's profile, sets for all jobs: SBATCH_ACCOUNT and so on."""


class SlurmError(Exception):
    """Slurm did not answer, or refused: its own words, in one line."""


def array_limit() -> int:
    """How many tasks an array may have on this machine's cluster: its MaxArraySize, which limits the index.

    Raises:
        ConfigError: there is no Slurm here, or it does not answer.
    """
    if missing := [command for command in ("sbatch", "srun", "scontrol") if shutil.which(command) is None]:
        raise ConfigError(
            f"launcher: no {missing[0]} on PATH, so there is no Slurm here; launch on a login node of the cluster, "
            "or use launcher=local, which needs none"
        )
    try:
        return _max_array_size()
    except SlurmError as error:
        raise ConfigError(
            f"launcher: Slurm does not answer ({error}); try again when it does, or use launcher=local, "
            "which needs none"
        ) from None


def said(text: str) -> str:
    """Why a command of Slurm failed, by its own words: its last error, else the first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # `sbatch: error: ...`, `scontrol: fatal: ...`
    errors = [line.split(": ", 2)[-1] for line in lines if ": error: " in line or ": fatal: " in line]
    return one_line((errors[-1:] or lines[:1] or ["it said nothing"])[0])


def _max_array_size() -> int:
    for line in _run("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(int(value), 1)
    raise SlurmError("scontrol show config names no MaxArraySize")


def job_named(name: str, *, since: datetime) -> str | None:
    """The id of the job (of the array) with this name; None if there is none, or none any more.

    A job that sbatch refused is none, though Slurm may keep it as one that failed without ever having had a node.

    Args:
        name: a name that was given once.
        since: it was not submitted before this.

    Raises:
        SlurmError: squeue did not answer.
    """
    # %F is an array's id, the same for all of its tasks.
    options = ("--noheader", "--me", "--states=all", f"--name={name}", "--format=%F|%T|%r")
    lines = _run("squeue", *options).splitlines()
    queued = [line.partition("|")[0] for line in lines if not line.endswith("|FAILED|BadConstraints")]
    found = queued or ([] if lines else _accounted(name, since))
    return found[-1] if found else None


def _accounted(name: str, since: datetime) -> list[str]:
    """Ids by sacct, which knows jobs that squeue has forgotten.

    Where it does not answer none are known: a job that squeue does not show has ended, and without a beginning, or the
    store would have heard of it.
    """
    start = (since - timedelta(hours=1)).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    options = ("--noheader", "--parsable2", "--allocations", f"--name={name}", f"--starttime={start}")
    try:
        lines = _run("sacct", *options, "--format=JobID,State,NodeList").splitlines()
    except SlurmError:
        return []
    jobs = [line for line in lines if not line.endswith("|FAILED|None assigned")]
    return [line.partition("|")[0].partition("_")[0] for line in jobs]


def _run(*command: str) -> str:
    # A person's settings for their own squeue would hide jobs from ours.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(
            command, env=clean, capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {one_line(error)}") from None
    if done.returncode:
        raise SlurmError(said(done.stderr))
    return done.stdout


def sbatch_environment(given: Collection[str]) -> dict[str, str]:
    """This process's environment for sbatch, in which its variables go before what the script asks for.

    Those that a person has set are left out, but for a site's defaults of keys that nobody gave.
    """
    kept = {f"SBATCH_{name}" for name in _unless(given)}
    return {
        name: value
        for name, value in _outside_of_jobs().items()
        if not name.startswith("SBATCH_") or name in kept
    }


def srun_environment(given: Collection[str]) -> dict[str, str]:
    """The same for srun, which has names of its own for a site's defaults."""
    environment = _outside_of_jobs()
    for name in _unless(given):
        if (value := environment.get(f"SBATCH_{name}")) is not None:
            environment.setdefault(f"SLURM_{name}", value)
    return environment


def _unless(given: Collection[str]) -> list[str]:
    return [name for name in _SITE_DEFAULTS if name.lower() not in given]


def _outside_of_jobs() -> dict[str, str]:
    """This process's environment as it is outside of jobs: within one, srun would take the job's own nodes."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SLURMD_", "SRUN_")) or name == "SLURM_CONF"
    }
