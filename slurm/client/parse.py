"""The output of squeue and sacct as plain data. They print a waiting array in one line; here each task is a job."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby

SEPARATOR = "\x1f"
"""Ends every field. A job's name may contain any character that can be typed."""

QUEUE_FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "exit_code", "EndTime", "Name")
ACCOUNT_FIELDS = ("JobID", "State", "Reason", "NodeList", "ExitCode", "End", "JobName")
"""The same fields, as squeue and as sacct name them."""

_TASKS = re.compile(r"(\d+)_\[([^\]]*)\]?")
_MOST_TASKS = 5_000_000  # of one array; Slurm's own limit is 4,000,001
_SIGNALS = frozenset({9, 10, 12, 15})  # KILL, USR1, USR2, TERM: no program of ours ends with these codes
_NO_NODE = frozenset({"", "None assigned", "(null)"})


@dataclass(frozen=True)
class Unknown:
    """A query that failed. It says nothing about any job.

    Attributes:
        why: the reason, in one line.
        lasting: another try will not help, because this cluster has no such service.
    """

    why: str
    lasting: bool = False


@dataclass(frozen=True)
class Job:
    """What Slurm says about a job or about a task of an array.

    Attributes:
        state: Slurm's word, such as `PENDING`.
        reason: why it waits, or why it ended.
        name: its name.
        node: its node; empty if it has none yet.
        exit_code: the exit code after its end; negative for a signal; None if unknown.
        ended_at: the time of its end; None before.
    """

    state: str
    reason: str = ""
    name: str = ""
    node: str = ""
    exit_code: int | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Answer:
    """The jobs that squeue or sacct listed, by id: `123`, `123_4`."""

    jobs: Mapping[str, Job] = field(default_factory=dict)

    def find(self, job_id: str) -> Job | None:
        """The job. An array's task without a line of its own has the state of the array's line."""
        return self.jobs.get(job_id) or self.jobs.get(base(job_id))

    def knows_array(self, job_id: str, name: str | None) -> bool:
        """Whether any job of this task's array is listed under this name."""
        return (base(job_id), name) in self._arrays

    @cached_property
    def _arrays(self) -> frozenset[tuple[str, str]]:
        return frozenset((base(job_id), job.name) for job_id, job in self.jobs.items())


def base(job_id: str) -> str:
    """The array's id: `123` for the task `123_4`."""
    return job_id.partition("_")[0]


def read(text: str, *, command: str) -> Answer | Unknown:
    """The jobs in the output of squeue or sacct.

    A site may print lines of its own around the list. They have no separators, and are skipped. A list without its
    header is no list: an empty one would say that no job exists.

    Args:
        text: a header, then lines of `QUEUE_FIELDS` or `ACCOUNT_FIELDS`, with `SEPARATOR` after each field.
        command: the command, for the error.
    """
    header, *lines = [line for line in text.splitlines() if SEPARATOR in line] or [""]
    jobs: dict[str, Job] = {}
    if not _is_header(header):
        return Unknown(f"{command} printed no list of jobs: {text[:80]!r}")
    for line in lines:
        row = _cells(line)
        if row is None or not row[0][:1].isdecimal():
            return Unknown(f"{command} printed an unexpected line: {line[:80]!r}")
        job_id, state, reason, node, code, end, name = row
        job = Job(
            state=state.upper().partition(" ")[0],  # sacct: CANCELLED by 1000
            reason="" if reason == "None" else reason,
            name=name,
            node="" if node in _NO_NODE else node,
            exit_code=_exit_code(code),
            ended_at=_time(end),
        )
        jobs.update(dict.fromkeys(expand(job_id), job))
    return Answer(jobs)


def _is_header(line: str) -> bool:
    row = _cells(line)
    return row is not None and row[0].upper() == "JOBID"


def _cells(line: str) -> list[str] | None:
    """The fields of a line; None if their number is wrong."""
    *row, end_of_line = (cell.strip() for cell in line.split(SEPARATOR))
    return row if len(row) == len(QUEUE_FIELDS) and not end_of_line else None


def expand(job_id: str) -> Iterator[str]:
    """The jobs of one line, such as four for `123_[4-6,9%2]`.

    If Slurm cut the list of tasks short (`...`), the array's own id is among them and stands for every task.
    """
    found = _TASKS.fullmatch(job_id)
    if found is None:
        yield job_id
        return
    array, tasks = found.groups()
    for part in tasks.partition("%")[0].split(","):
        numbers = _range(part)
        if numbers is None:
            yield array
        else:
            yield from (f"{array}_{number}" for number in numbers)


def compress(job_ids: Iterable[str]) -> list[str]:
    """The same jobs in fewer words: the tasks of one array become `123_[4-6,9]`."""
    alone: list[str] = []
    tasks: dict[str, list[int]] = {}
    for job_id in dict.fromkeys(job_ids):
        array, _, task = job_id.partition("_")
        if task.isdecimal():
            tasks.setdefault(array, []).append(int(task))
        else:
            alone.append(job_id)
    return alone + [f"{array}_[{','.join(_ranges(numbers))}]" for array, numbers in tasks.items()]


def _ranges(numbers: Iterable[int]) -> Iterator[str]:
    """`4-6`, `9` for 4, 5, 6, 9."""
    # Consecutive numbers have the same difference to their place in the list.
    for _, pairs in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        row = [number for _, number in pairs]
        yield str(row[0]) if len(row) == 1 else f"{row[0]}-{row[-1]}"


def _range(part: str) -> range | None:
    """The numbers of `4`, `4-9` or `0-8:2`; None for anything else."""
    found = re.fullmatch(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?", part)
    if found is None:
        return None
    first, last, step = found.groups()
    numbers = range(int(first), int(last or first) + 1, int(step or 1))
    return numbers if len(numbers) <= _MOST_TASKS else None


def _time(text: str) -> datetime | None:
    """A time in seconds since 1970; None for `N/A`, `Unknown` and anything outside the calendar."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(int(text), UTC) if int(text) > 0 else None
    return None


def _exit_code(text: str) -> int | None:
    """The exit code of squeue's wait(2) status, or of sacct's `code:signal`."""
    if text.isdecimal():
        code, signal = int(text) >> 8 & 0xFF, int(text) & 0x7F
    elif found := re.fullmatch(r"(\d+):(\d+)", text):
        code, signal = int(found[1]), int(found[2])
        if code in _SIGNALS:  # sacct prints seven bits, so a shell's 137, for signal 9, becomes 9
            signal = signal or code
    else:
        return None
    if signal:
        return -signal
    # A shell, and srun, end with 128 + N if signal N ended their command.
    return 128 - code if 128 < code < 160 else code
