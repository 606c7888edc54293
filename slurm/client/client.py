"""Asks Slurm, and tells it to cancel, hold or release named jobs. A question that fails is `Unknown`, never an error.

Questions are counted, since a controller serves a whole cluster.
"""

import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from slurm.client.commands import SlurmError, said
from slurm.client.parse import (
    ACCOUNT_FIELDS,
    QUEUE_FIELDS,
    SEPARATOR,
    Answer,
    Unknown,
    base,
    compress,
    read_accounts,
    read_queue,
)

_QUEUE_WITHIN_S = 20.0
_ACCOUNTS_WITHIN_S = 40.0
_IDS_AT_ONCE = 200
_CLOCKS_DIFFER = timedelta(days=1)

# A person's settings for their own squeue would hide jobs from ours.
_DISTURBING = ("SQUEUE_", "SACCT_", "SCANCEL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")


class Slurm:
    """The cluster that this machine belongs to.

    Attributes:
        asked: when which command was run, by the monotonic clock; of the last minutes.
    """

    def __init__(self) -> None:
        self.asked: deque[tuple[float, str]] = deque(maxlen=10_000)

    def queue(self, job_ids: Collection[str] | None = None) -> Answer | Unknown:
        """The user's jobs that Slurm still knows, ended ones of the last minutes included.

        Args:
            job_ids: only these, whoever submitted them.
        """
        chosen = ["--me"] if job_ids is None else ["--jobs", ",".join(sorted(set(map(base, job_ids))))]
        fields = ",".join(f"{name}:{SEPARATOR}" for name in QUEUE_FIELDS)
        printed = self._run(
            ["squeue", "--noheader", "--all", "--states=all", *chosen, f"--Format={fields}"], _QUEUE_WITHIN_S
        )
        if isinstance(printed, Unknown):
            # Asked for one job that it does not know, squeue fails; for two, it shows none.
            return Answer() if job_ids is not None and "Invalid job id" in printed.why else printed
        return read_queue(printed)

    def accounts(self, job_ids: Collection[str], *, since: datetime) -> Answer | Unknown:
        """What accounting holds of these jobs: of each its last run alone.

        Args:
            job_ids: which.
            since: when the first of them was submitted.
        """
        arrays = sorted(set(map(base, job_ids)))
        if not arrays:
            return Answer()
        start = (since - _CLOCKS_DIFFER).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
        command = ["sacct", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}", "--allocations"]
        command += [
            f"--starttime={start}",
            f"--jobs={','.join(arrays)}",
            f"--format={','.join(ACCOUNT_FIELDS)}",
        ]
        printed = self._run(command, _ACCOUNTS_WITHIN_S)
        if isinstance(printed, Unknown):
            none = "accounting storage is disabled" in printed.why
            return Unknown(printed.why, lasting=printed.lasting or none)
        return read_accounts(printed)

    def cancel(self, job_ids: Collection[str]) -> None:
        """Cancel these jobs and tasks, and nothing else.

        Raises:
            ValueError: there are none: a scancel without ids would ask for trouble.
            SlurmError: Slurm refused or did not answer.
        """
        self._tell(["scancel"], job_ids)

    def hold(self, job_ids: Collection[str]) -> None:
        """Keep those of these jobs that wait from starting.

        Raises:
            ValueError: there are none.
            SlurmError: Slurm refused or did not answer.
        """
        self._tell(["scontrol", "hold"], job_ids)

    def release(self, job_ids: Collection[str]) -> None:
        """Let held jobs start.

        Raises:
            ValueError: there are none.
            SlurmError: Slurm refused or did not answer.
        """
        self._tell(["scontrol", "release"], job_ids)

    def per_minute(self) -> dict[str, int]:
        """How often each command was run in the last minute."""
        since = time.monotonic() - 60.0
        return dict(Counter(command for at, command in self.asked if at >= since))

    def _tell(self, command: Sequence[str], job_ids: Collection[str]) -> None:
        if not job_ids:
            raise ValueError(f"{command[0]} without a job")
        for chunk in _chunks(compress(job_ids)):
            told = self._run([*command, *chunk], _QUEUE_WITHIN_S)
            if isinstance(told, Unknown):
                raise SlurmError(told.why)

    def _run(self, command: Sequence[str], within_s: float) -> str | Unknown:
        """What a command prints."""
        self.asked.append((time.monotonic(), command[0]))
        try:
            done = subprocess.run(
                command,
                env=_environment(),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=within_s,
                check=False,
            )
        except FileNotFoundError:
            return Unknown(f"no {command[0]} on PATH", lasting=True)
        except subprocess.TimeoutExpired:
            return Unknown(f"{command[0]} did not answer within {within_s:.0f} s")
        except OSError as error:
            return Unknown(f"{command[0]} could not be run: {error.strerror}")
        if done.returncode:
            return Unknown(f"{command[0]} failed ({done.returncode}): {said(done.stderr or done.stdout)}")
        return done.stdout


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DISTURBING)}
    # Times as seconds since 1970, and the tasks of an array in full: by default 64 characters of them.
    return {**kept, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


def _chunks(words: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(words), _IDS_AT_ONCE):
        yield words[start : start + _IDS_AT_ONCE]
