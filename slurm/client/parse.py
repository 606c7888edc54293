"""What squeue and sacct print, as plain data. An array that waits is one line there, and one job per task here."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

SEPARATOR = "\x1f"
"""Between fields: a job's name or path may hold any character that a person types."""

QUEUE_FIELDS = (
    "JobArrayID",
    "State",
    "Reason",
    "NodeList",
    "exit_code",
    "EndTime",
    "Name",
)
ACCOUNT_FIELDS = ("JobID", "State", "Reason", "NodeList", "ExitCode", "End", "JobName")

_ID = re.compile(r"(?P<base>\d+)(?:_(?:(?P<task>\d+)|\[(?P<tasks>[^\]]*)\]?))?(?P<rest>.*)")
_MOST_TASKS = 5_000_000  # of one array: Slurm's own limit is 4,000,001
_SIGNALS = frozenset({9, 10, 12, 15})  # KILL, USR1, USR2, TERM: no program of ours ends with these codes
_NO_NODE = frozenset({"", "None assigned", "(null)"})


@dataclass(frozen=True)
class Unknown:
    """Nobody answered. That says nothing about any job.

    Attributes:
        why: one line.
        lasting: it will not be otherwise later: this cluster has no such service.
    """

    why: str
    lasting: bool = False


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job or of a task of an array.

    Attributes:
        state: Slurm's word, such as `PENDING`.
        reason: why it waits, or why it ended.
        name: its name.
        node: where it runs or ran; empty: nowhere yet.
        exit_code: of an ended one; negative: the signal that ended it. None where it is not known.
        ended_at: when it ended; None while it has not.
    """

    state: str
    reason: str = ""
    name: str = ""
    node: str = ""
    exit_code: int | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Answer:
    """The jobs that an answer names, by id: `123`, `123_4`."""

    jobs: Mapping[str, Job] = field(default_factory=dict)

    def find(self, job_id: str) -> Job | None:
        """The job; of an array's task that has no line of its own, what the array's line says of those that waited."""
        found = self.jobs.get(job_id)
        return found if found is not None else self.jobs.get(base(job_id))

    def knows_array(self, job_id: str, name: str | None) -> bool:
        """Whether it names any job of the array that this task is of; under that name, if one is given."""
        names = self._arrays.get(base(job_id), frozenset())
        return bool(names) if name is None else name in names

    @cached_property
    def _arrays(self) -> Mapping[str, frozenset[str]]:
        """Array to the names of its jobs."""
        names: dict[str, set[str]] = {}
        for job_id, job in self.jobs.items():
            names.setdefault(base(job_id), set()).add(job.name)
        return {array: frozenset(found) for array, found in names.items()}


def base(job_id: str) -> str:
    """The array's id of a task's: `123` of `123_4`."""
    return job_id.partition("_")[0]


def read_queue(text: str) -> Answer | Unknown:
    """The answer of squeue, asked for `QUEUE_FIELDS`, each followed by `SEPARATOR`."""
    rows = _rows(text, fields=len(QUEUE_FIELDS), trailing=True)
    if isinstance(rows, Unknown):
        return Unknown(f"squeue printed {rows.why}")
    jobs = {}
    for job_id, state, reason, node, code, end, name in rows:
        job = Job(
            state=state.upper(),
            reason="" if reason == "None" else reason,
            name=name,
            node=_node(node),
            exit_code=_wait_status(code),
            ended_at=_time(end),
        )
        jobs.update(dict.fromkeys(expand(job_id), job))
    return Answer(jobs)


def read_accounts(text: str) -> Answer | Unknown:
    """The answer of sacct, asked for `ACCOUNT_FIELDS` with `SEPARATOR` between them."""
    rows = _rows(text, fields=len(ACCOUNT_FIELDS), trailing=False)
    if isinstance(rows, Unknown):
        return Unknown(f"sacct printed {rows.why}")
    jobs = {}
    for job_id, state, reason, node, code, end, name in rows:
        job = Job(
            state=state.upper().partition(" ")[0],  # CANCELLED by 1000
            reason="" if reason == "None" else reason,
            name=name,
            node=_node(node),
            exit_code=_code_and_signal(code),
            ended_at=_time(end),
        )
        jobs.update(dict.fromkeys(expand(job_id), job))
    return Answer(jobs)


def expand(job_id: str) -> Iterator[str]:
    """The ids that a line is about: `123_[4-6,9%2]` is four of them.

    Of an array whose tasks were cut short (`...`) the array's own id is among them: it stands for any task.
    """
    found = _ID.fullmatch(job_id)
    if found is None or found["rest"] or found["tasks"] is None:
        yield job_id
        return
    for part in found["tasks"].partition("%")[0].split(","):
        numbers = _range(part)
        if numbers is None:
            yield found["base"]
        else:
            yield from (f"{found['base']}_{number}" for number in numbers)


def compress(job_ids: Iterable[str]) -> list[str]:
    """The same jobs in fewer words: tasks of one array as `123_[4-6,9]`; nothing but what was given."""
    alone: list[str] = []
    tasks: dict[str, list[int]] = {}
    for job_id in dict.fromkeys(job_ids):
        array, _, task = job_id.partition("_")
        if task.isdecimal():
            tasks.setdefault(array, []).append(int(task))
        else:
            alone.append(job_id)
    return alone + [f"{array}_[{','.join(_runs_of(sorted(numbers)))}]" for array, numbers in tasks.items()]


def _runs_of(numbers: Sequence[int]) -> Iterator[str]:
    """`4-6`, `9` of 4, 5, 6, 9."""
    start = previous = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == previous + 1:
            previous = number
            continue
        yield str(start) if start == previous else f"{start}-{previous}"
        if number is not None:
            start = previous = number


def _range(part: str) -> range | None:
    """The numbers of `4`, `4-9` or `0-8:2`; None if it is none of these."""
    found = re.fullmatch(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?", part)
    if found is None:
        return None
    first, last, step = found.groups()
    numbers = range(int(first), int(last or first) + 1, int(step or 1))
    return numbers if len(numbers) <= _MOST_TASKS else None


def _rows(text: str, *, fields: int, trailing: bool) -> list[list[str]] | Unknown:
    rows = []
    for line in text.splitlines():
        row = line.rstrip(" ").split(SEPARATOR)
        if trailing and row[-1] == "":
            row.pop()
        if len(row) != fields:
            return Unknown(f"a line that is none of its own: {line[:80]!r}")
        rows.append([cell.strip() for cell in row])
    return rows


def _node(text: str) -> str:
    return "" if text in _NO_NODE else text


def _time(text: str) -> datetime | None:
    """A time, printed as seconds since 1970; None for `N/A`, `Unknown` and what no calendar holds."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(int(text), UTC) if int(text) > 0 else None
    return None


def _wait_status(text: str) -> int | None:
    """The exit code of a status as wait(2) gives it."""
    if not text.isdecimal():
        return None
    status = int(text)
    return -(status & 0x7F) if status & 0x7F else _of_shell((status >> 8) & 0xFF)


def _code_and_signal(text: str) -> int | None:
    """The exit code of sacct's `code:signal`."""
    code, colon, signal = text.partition(":")
    if not colon or not (code.isdecimal() and signal.isdecimal()):
        return None
    # sacct shows seven bits of the code: a shell's 137, for a child that signal 9 ended, is printed as 9.
    return -int(signal) if int(signal) else -int(code) if int(code) in _SIGNALS else _of_shell(int(code))


def _of_shell(code: int) -> int:
    """A shell, and srun, end with 128 + N where signal N ended what they ran."""
    return 128 - code if 128 < code < 160 else code
