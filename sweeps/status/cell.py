"""The status of runs and cells."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from imagination.schema import Scalar
from jobs.provenance import dead_attempts
from results_db.contract import FAILURES, INTERRUPTED, PlannedRun, State, Store
from results_db.text import brief, cell_text
from sweeps.spec.expand import Cell, Expansion

NEW = "NEW"
"""Stands for the state of a run that is not in the store."""


BLOCKED = "BLOCKED"
"""Stands for the state of a run that is to be trained, but whose need is not met."""


class Status(StrEnum):
    """A run's status, as listings show it."""

    STORED = "stored"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"
    NEW = "new"


_STATUS: dict[str, Status] = {
    NEW: Status.NEW,
    BLOCKED: Status.BLOCKED,
    State.STAGED: Status.NEW,
    State.DISCARDED: Status.NEW,
    State.PENDING: Status.WAITING,
    State.RUNNING: Status.RUNNING,
    State.COMPLETED: Status.STORED,
    **dict.fromkeys(FAILURES, Status.FAILED),
    **dict.fromkeys(INTERRUPTED, Status.INTERRUPTED),
}


def status_of(state: str) -> Status:
    """The status of a run in this state, or `NEW`."""
    return _STATUS[state]


def count_by_status(states: Mapping[str, int]) -> dict[Status, int]:
    """The number of runs with each status, 0 included, from the number of runs in each state."""
    counts = dict.fromkeys(Status, 0)
    for state, runs in states.items():
        counts[status_of(state)] += runs
    return counts


@dataclass(frozen=True)
class Counts:
    """Numbers of runs; they add up to the total. A launch would skip the `failed` and the `blocked` ones."""

    stored: int = 0
    active: int = 0
    failed: int = 0
    to_submit: int = 0
    blocked: int = 0

    @property
    def total(self) -> int:
        """All runs."""
        return sum(vars(self).values())

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.stored + other.stored,
            self.active + other.active,
            self.failed + other.failed,
            self.to_submit + other.to_submit,
            self.blocked + other.blocked,
        )

    def as_dict(self) -> dict[str, int]:
        """The counts for `--json`."""
        return {"total": self.total, **vars(self)}


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """A cell and its runs by state. Each command fills in the fields that it needs.

    Attributes:
        sweep: the name of the cell's sweep.
        cell: the cell, with its runs.
        states: state to number of runs; `NEW` for runs that are not in the store, `BLOCKED` for blocked ones.
        to_submit: the runs that a launch would train, in seed order.
        blocked: the reasons why it would leave others out, by run id.
        kept: the number of kept runs; None: not counted.
        top_up: the runs that a top-up would train.
        held_back: the number of runs that the cell needs beyond `top_up`.
        ends_early: whether there are no seeds for some of them, though the cap allows more.
        done: the stored runs, and of each run that trains the share that is done.
        eta_s: seconds until the cell's active runs end; None: unknown.
    """

    sweep: str
    cell: Cell
    states: Mapping[str, int]
    to_submit: Sequence[PlannedRun] = field(repr=False)
    blocked: Mapping[str, str] = field(default_factory=dict, repr=False)
    kept: int | None = None
    top_up: Sequence[PlannedRun] = field(default=(), repr=False)
    held_back: int = 0
    ends_early: bool = False
    done: float = 0.0
    eta_s: float | None = None

    @property
    def counts(self) -> Counts:
        """The numbers of the cell's runs. With `--retry-failed` the failed runs count as `to_submit`."""
        by_status = count_by_status(self.states)
        stored, active = by_status[Status.STORED], by_status[Status.WAITING] + by_status[Status.RUNNING]
        failed = sum(by_status.values()) - stored - active - len(self.to_submit) - len(self.blocked)
        return Counts(stored, active, failed, len(self.to_submit), len(self.blocked))

    @property
    def missing(self) -> int:
        """The number of kept runs that the cell lacks."""
        return max(self.cell.wanted - (self.kept or 0), 0)

    @property
    def numbers(self) -> dict[str, int]:
        """The columns of a listing. Without a number of kept runs, the columns that need it are left out."""
        counts = self.counts
        numbers = {"wanted": self.cell.wanted, "total": counts.total, "stored": counts.stored}
        if self.kept is None:
            return numbers | counts.as_dict()
        top_up = {"missing": self.missing, "top_up": len(self.top_up), "held_back": self.held_back}
        return numbers | {"kept": self.kept} | counts.as_dict() | top_up

    @property
    def label(self) -> str:
        """The sweep and the cell's columns, such as `table3: gol=3 model_t=2`."""
        columns = describe(self.cell.columns)
        return f"{self.sweep}: {columns}" if columns else self.sweep


def describe(columns: Mapping[str, Scalar]) -> str:
    """The columns in one line, such as `gol=3 model_t=2`."""
    return " ".join(f"{key}={brief(cell_text(value))}" for key, value in columns.items())


def dead_runs(store: Store) -> list[str]:
    """Ids of runs that the store records as RUNNING though their worker process is gone."""
    return [attempt.run_id for attempt in dead_attempts(store)]


def with_lost(states: Mapping[str, State], dead: Collection[str]) -> dict[str, State]:
    """The states, with LOST for the runs whose worker is dead."""
    return {**states, **{run_id: State.LOST for run_id in dead if run_id in states}}


def open_statuses(*, retry_failed: bool = False) -> set[Status]:
    """The statuses of the runs that a launch trains."""
    return {Status.NEW, Status.INTERRUPTED} | ({Status.FAILED} if retry_failed else set())


def read_cells(
    expansion: Expansion,
    states: Mapping[str, State],
    *,
    sweep: str = "",
    retry_failed: bool = False,
    blocked: Mapping[str, str] | None = None,
) -> list[CellStatus]:
    """The status of every cell. Runs without a state are new; `retry_failed` counts failed runs as `to_submit`.

    `blocked` are the reasons why some of the runs to submit are blocked, by run id.
    """
    reasons = blocked or {}
    known = {**states, **dict.fromkeys(reasons, BLOCKED)}
    chosen = open_statuses(retry_failed=retry_failed)
    return [
        CellStatus(
            sweep=sweep,
            cell=cell,
            states=Counter(str(known.get(run.run_id, NEW)) for run in cell.runs),
            to_submit=[run for run in cell.runs if status_of(known.get(run.run_id, NEW)) in chosen],
            blocked={run.run_id: reasons[run.run_id] for run in cell.runs if run.run_id in reasons},
        )
        for cell in expansion.cells
    ]
