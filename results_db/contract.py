"""What a store promises, and the plain data that crosses its border. Knows no SQL.

Every store implements `Store`; one test suite runs the promises over all of them:

* writes are idempotent: the same write twice leaves the store as once;
* a COMPLETED run never changes again (but for `replace_metrics`, which is asked for by name);
* states move only along `ARROWS`;
* of two attempts of one run the newer wins, and the older one's writes are refused (`False`), never merged;
* `finish` writes everything of a run in one transaction, or nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # half a second of import that `--help` need not wait for
    import pandas as pd

Scalar = bool | int | float | str


class StoreError(Exception):
    """A store, filter or column that a person named wrongly, in one line that says what to do."""


class State(StrEnum):
    """States of a run and of an attempt: Slurm's own words, and STAGED and LOST."""

    STAGED = "STAGED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    LOST = "LOST"


ACTIVE = frozenset({State.PENDING, State.RUNNING})
"""Somebody is going to train it or does."""

FAILURES = frozenset({State.FAILED, State.OUT_OF_MEMORY})
"""The run itself is at fault; it is not tried again unless asked for."""

INTERRUPTED = frozenset({State.CANCELLED, State.TIMEOUT, State.NODE_FAIL, State.PREEMPTED, State.LOST})
"""The run was stopped from outside; the next launch goes on with it."""

ARROWS: dict[State, frozenset[State]] = {
    State.STAGED: frozenset({State.PENDING, State.RUNNING, State.CANCELLED}),
    State.PENDING: frozenset({State.STAGED, State.RUNNING}) | FAILURES | INTERRUPTED,
    State.RUNNING: frozenset({State.COMPLETED}) | FAILURES | INTERRUPTED,
    State.COMPLETED: frozenset(),
    **{state: frozenset({State.STAGED, State.PENDING, State.RUNNING}) for state in FAILURES | INTERRUPTED},
}
"""From a state to the states that may follow it."""


@dataclass(frozen=True)
class PlannedRun:
    """A run that ought to exist: its id and its complete config."""

    run_id: str
    config: Mapping[str, Scalar]


@dataclass(frozen=True)
class NewSweep:
    """A launch of a spec: its name and the composed text that it was launched with."""

    name: str
    spec: str


@dataclass(frozen=True)
class Provenance:
    """Who trains an attempt, where, and with what. `process` is `pid:start time` of the worker."""

    launcher: str
    host: str
    process: str
    device: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str]
    job_id: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One try of a run; `number` counts from 1 and the largest of a run is the one whose writes count."""

    run_id: str
    number: int
    restart: int = 0


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt that the store holds for alive."""

    attempt: Attempt
    provenance: Provenance
    started_at: datetime
    heartbeat_at: datetime
    step: int
    progress: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """A few decoded boards, as a compressed .npz file's bytes (see `imagination.recorder`)."""

    npz: bytes


DIVERGED = "diverged"
"""Outcome of a run whose numbers ran away: it counts in `run`, never in `kept`."""

OUTCOMES = ("reached", "step_limit", "given_up", DIVERGED)
"""Why a run ended: at the accuracy gate, at its last step, early as hopeless, or with numbers that are none."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run leaves behind when it ends.

    Attributes:
        run_id: the run.
        outcome: one of `OUTCOMES`.
        seconds: training time over all attempts, in seconds, evaluation left out.
        metrics: name to value; null where the metric does not exist for this run.
        traces: name to (steps, values), equally long.
        samples: name to sample.
    """

    run_id: str
    outcome: str
    seconds: float
    metrics: Mapping[str, float | None]
    traces: Mapping[str, tuple[Sequence[int], Sequence[float]]] = field(default_factory=dict)
    samples: Mapping[str, Sample] = field(default_factory=dict)


class Store(Protocol):
    """Where runs and what they left behind are kept. See the module for the promises.

    Attributes:
        url: the SQLAlchemy URL, password included; `display_url` has it masked.
        folder: the folder beside the store that holds what does not belong into a database: final weights
            (`weights/RUN_ID.ATTEMPT.safetensors`), checkpoints of unfinished runs, packs handed to workers, and
            the workers' logs.
    """

    url: str
    folder: Path

    def stage(self, runs: Iterable[PlannedRun], *, sweep: NewSweep | None = None) -> None:
        """Insert the runs that are not there yet as STAGED, and note the sweep that wants them, at once."""

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Begin the run's next attempt and make it RUNNING, atomically.

        None if there is nothing to do: the run is COMPLETED or somebody else is RUNNING it.

        Raises:
            StoreError: the run was never staged.
        """

    def heartbeat(self, attempt: Attempt, *, step: int, progress: Mapping[str, float]) -> bool:
        """Say that the attempt is alive. False if it no longer counts, and its worker should stop."""

    def finish(self, attempt: Attempt, record: RunRecord) -> bool:
        """COMPLETED, with its record, in one transaction. False if the attempt no longer counts."""

    def end(
        self, attempt: Attempt, state: State, *, error: str | None = None, exit_code: int | None = None
    ) -> bool:
        """The attempt ended without a result. False if it no longer counts or the arrow is not allowed."""

    def running(self) -> list[RunningAttempt]:
        """Every attempt held for alive."""

    def sweeps(self) -> dict[str, dict[State, int]]:
        """Per sweep, how many of the runs that its launches wanted are in which state; a run counts once."""

    def replace_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Overwrite these metrics of a COMPLETED run; others stay. For `jobs.evaluate --write` alone."""

    def runs(self) -> "pd.DataFrame":
        """One row per run: `run_id, state, outcome, attempts, seconds`, every config key, every metric."""

    def find(self, prefix: str) -> str:
        """The full id of the one run whose id begins with `prefix`.

        Raises:
            StoreError: no such run, or several.
        """

    def traces(self, run_id: str) -> dict[str, tuple[list[int], list[float]]]:
        """The traces of a run, by name."""

    def traces_of(self, run_ids: Iterable[str]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
        """The traces of each of these runs that has any, by name."""

    def samples(self, run_id: str) -> dict[str, Sample]:
        """The samples of a run, by name."""

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The attempts of a run, oldest first: number, state, times, provenance, error."""

    def close(self) -> None:
        """Give back connections."""
