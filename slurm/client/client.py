"""The Slurm client: runs squeue, sacct, scancel and scontrol, and prepares the environment of sbatch and srun.

A query that fails returns `Unknown`; a command that fails raises SlurmError. The client counts its commands, because
one controller serves the whole cluster.
"""

import os
import re
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from imagination.schema import ConfigError
from results_db.text import one_line
from slurm.client.parse import ACCOUNT_FIELDS, QUEUE_FIELDS, SEPARATOR, Answer, Unknown, base, compress, read

_QUEUE_WITHIN_S = 20.0
_ACCOUNTS_WITHIN_S = 40.0
_WITHIN_S = 60.0
_SUBMITTED_WITHIN_S = 300.0
_IDS_AT_ONCE = 200
_CLOCKS_DIFFER = timedelta(days=1)

# A user's own settings for these commands would hide jobs or change the format.
_USER_SETTINGS = ("SQUEUE_", "SACCT_", "SCANCEL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")

_SITE_DEFAULTS = ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION", "CLUSTERS")
"""The variables SBATCH_ACCOUNT and so on, which a site or a user's profile sets for all jobs."""


class SlurmError(Exception):
    """Slurm did not answer or refused. The message is Slurm's own, in one line.

    Attributes:
        lasting: another try will not help, because the command or the service is missing.
    """

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


class Slurm:
    """The cluster that this machine belongs to.

    Args:
        environment: the environment of Slurm's commands; by default this process's.

    Attributes:
        asked: the time (on the monotonic clock) and the name of each command of the last minutes.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.asked: deque[tuple[float, str]] = deque(maxlen=10_000)
        self._outside = environment

    def queue(self, job_ids: Collection[str] | None = None) -> Answer | Unknown:
        """The jobs in squeue, including those that ended in the last minutes.

        Args:
            job_ids: these jobs of any user; None: all jobs of this user.
        """
        if job_ids is None:
            return self._queue("--me")
        answer = self._queue(f"--jobs={_arrays(job_ids)}")
        # squeue fails if it is asked for a single unknown job. For several it lists none.
        if isinstance(answer, Unknown) and "Invalid job id" in answer.why:
            return Answer()
        return answer

    def accounts(self, job_ids: Collection[str], *, since: datetime) -> Answer | Unknown:
        """The latest start of each of these jobs in sacct. The first of them was submitted at `since`."""
        return self._accounts(f"--jobs={_arrays(job_ids)}", since=since) if job_ids else Answer()

    def job_named(self, name: str, *, since: datetime) -> str | None:
        """The id of the job or array with this name; None if it does not exist.

        A job that sbatch refused does not exist, though Slurm may list it as FAILED without a node.

        Args:
            name: a name that no other job has.
            since: the earliest time of its submission.

        Raises:
            SlurmError: squeue or sacct did not answer.
        """
        # The caller withdraws claims if there is no job, so a slow controller gets more time here.
        answer = self._queue("--me", f"--name={name}", within_s=_WITHIN_S)
        if isinstance(answer, Unknown):
            raise SlurmError(answer.why)
        if not answer.jobs:
            answer = self._accounts(f"--name={name}", since=since, within_s=_WITHIN_S)
        if isinstance(answer, Unknown) and answer.lasting:
            return None  # squeue has forgotten the job and the store has no report from it, so it is over
        if isinstance(answer, Unknown):
            raise SlurmError(answer.why)
        found = [base(job_id) for job_id, job in answer.jobs.items() if job.state != "FAILED" or job.node]
        return found[-1] if found else None

    def show_job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`, such as `JobState`.

        Raises:
            SlurmError: Slurm did not answer or does not know the job.
        """
        words = self.run("scontrol", "show", "job", job_id, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def cancel(self, job_ids: Collection[str]) -> None:
        """Cancel these jobs and tasks, and nothing else.

        Raises:
            ValueError: there are no ids.
            SlurmError: Slurm did not answer or refused.
        """
        self._tell(["scancel"], job_ids)

    def hold(self, job_ids: Collection[str]) -> None:
        """Stop these waiting jobs from starting. Raises as `cancel` does."""
        self._tell(["scontrol", "hold"], job_ids)

    def release(self, job_ids: Collection[str]) -> None:
        """Let these held jobs start. Raises as `cancel` does."""
        self._tell(["scontrol", "release"], job_ids)

    def per_minute(self) -> dict[str, int]:
        """How often each command was run in the last minute."""
        since = time.monotonic() - 60.0
        return dict(Counter(command for at, command in self.asked if at >= since))

    def run(self, *command: str, within_s: float = _WITHIN_S) -> str:
        """Run one of Slurm's commands and return its output.

        Raises:
            SlurmError: the command is missing, failed, or did not end in time.
        """
        self.asked.append((time.monotonic(), command[0]))
        return _run(command, environment=self._environment(), within_s=within_s)

    def _queue(self, *chosen: str, within_s: float = _QUEUE_WITHIN_S) -> Answer | Unknown:
        fields = ",".join(f"{name}:{SEPARATOR}" for name in QUEUE_FIELDS)
        options = ("--all", "--states=all", f"--Format={fields}")
        return self._ask("squeue", *options, *chosen, within_s=within_s)

    def _accounts(
        self, chosen: str, *, since: datetime, within_s: float = _ACCOUNTS_WITHIN_S
    ) -> Answer | Unknown:
        start = (since - _CLOCKS_DIFFER).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
        options = ("--parsable", f"--delimiter={SEPARATOR}", "--allocations")
        fields = f"--format={','.join(ACCOUNT_FIELDS)}"
        return self._ask("sacct", *options, fields, f"--starttime={start}", chosen, within_s=within_s)

    def _ask(self, *command: str, within_s: float) -> Answer | Unknown:
        try:
            return read(self.run(*command, within_s=within_s), command=command[0])
        except SlurmError as error:
            return Unknown(str(error), lasting=error.lasting)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in self._outside.items() if not name.startswith(_USER_SETTINGS)}
        # Times in seconds since 1970, and all tasks of an array instead of the first 64 characters.
        return {**kept, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}

    def _tell(self, command: list[str], job_ids: Collection[str]) -> None:
        if not job_ids:
            raise ValueError(f"{command[0]} needs at least one job id")
        words = compress(job_ids)
        for start in range(0, len(words), _IDS_AT_ONCE):
            self.run(*command, *words[start : start + _IDS_AT_ONCE], within_s=_QUEUE_WITHIN_S)


def sbatch(script: Path, *, environment: Mapping[str, str]) -> str:
    """Submit a script. Returns the id of its job or array.

    Args:
        script: the path of the script.
        environment: see `sbatch_environment`; the job inherits it.

    Raises:
        SlurmError: sbatch refused, or did not say the id. The job may exist all the same.
    """
    answer = _run(("sbatch", str(script)), environment=environment, within_s=_SUBMITTED_WITHIN_S)
    found = re.search(r"^Submitted batch job (\d+)", answer, re.MULTILINE)
    if found is None:
        raise SlurmError(f"sbatch named no job: {said(answer)}")
    return found[1]


def _run(command: Sequence[str], *, environment: Mapping[str, str], within_s: float) -> str:
    """The output of one of Slurm's commands. Raises as `Slurm.run` does."""
    name = command[0]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=within_s,
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(f"no {name} on PATH", lasting=True) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{name} did not answer within {within_s:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{name} could not be run: {error.strerror}") from None
    if done.returncode:
        why = said(done.stderr or done.stdout)
        raise SlurmError(
            f"{name} failed ({done.returncode}): {why}", lasting="accounting storage is disabled" in why
        )
    return done.stdout


def array_limit() -> int:
    """How many tasks an array may have on this cluster: MaxArraySize, which limits the index.

    Raises:
        ConfigError: there is no Slurm here, or it does not answer.
    """
    if missing := [command for command in ("sbatch", "srun", "scontrol") if shutil.which(command) is None]:
        raise ConfigError(
            f"launcher: no {missing[0]} on PATH, so Slurm is not available here; launch on a login node of the "
            "cluster, or train on this machine with launcher=local"
        )
    try:
        for line in Slurm().run("scontrol", "show", "config").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "MaxArraySize":
                return max(int(value), 1)
        raise SlurmError("scontrol show config names no MaxArraySize")
    except SlurmError as error:
        raise ConfigError(
            f"launcher: Slurm does not answer ({error}); try again later, or train on this machine with launcher=local"
        ) from None


def said(text: str) -> str:
    """The reason in a failed command's output: its last error, else its first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # `sbatch: error: ...`, `scontrol: fatal: ...`
    errors = [line.split(": ", 2)[-1] for line in lines if ": error: " in line or ": fatal: " in line]
    return one_line((errors[-1:] or lines[:1] or ["no message"])[0])


def sbatch_environment(given: Collection[str]) -> dict[str, str]:
    """The environment for sbatch, where variables override the script.

    It has no SBATCH_ variables, except a site's defaults for keys that the launch does not set.

    Args:
        given: the keys that the launch sets.
    """
    kept = {f"SBATCH_{name}" for name in _not_given(given)}
    return {
        name: value
        for name, value in _outside_of_jobs().items()
        if not name.startswith("SBATCH_") or name in kept
    }


def srun_environment(given: Collection[str]) -> dict[str, str]:
    """The same environment for srun, whose variables begin with SLURM_."""
    environment = _outside_of_jobs()
    for name in _not_given(given):
        if (value := environment.get(f"SBATCH_{name}")) is not None:
            environment.setdefault(f"SLURM_{name}", value)
    return environment


def _arrays(job_ids: Collection[str]) -> str:
    return ",".join(sorted(set(map(base, job_ids))))


def _not_given(given: Collection[str]) -> list[str]:
    return [name for name in _SITE_DEFAULTS if name.lower() not in given]


def _outside_of_jobs() -> dict[str, str]:
    """This process's environment, without the variables of a surrounding job: srun would use that job's nodes."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SLURMD_", "SRUN_")) or name == "SLURM_CONF"
    }
