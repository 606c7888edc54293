"""What a store promises, and the plain data that crosses its border. Knows no SQL.

Every store implements `Store`; one test suite runs the promises over all of them:

* writes are idempotent: the same write twice leaves the store as once;
* a COMPLETED run never changes again (but for `replace_metrics`, which is asked for by name);
* states move only along `ARROWS`;
* attempts of a run are ordered by (number, restart): the newest is the only one that counts, and an older one's
  writes are refused (`False`), never merged;
* the number of an attempt is given by the store and never given again, so that two jobs never share one;
* a result of the newest attempt counts, whatever was believed of that attempt before;
* `finish` writes everything of a run in one transaction, or nothing.

A local worker takes a run's next attempt as it begins it (`start`). A scheduler's job is dispatched first: `intend`
before it is submitted, `note_jobs` after (or `withdraw`), and its worker says `begin` as often as the job restarts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
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


class UnknownRunError(StoreError):
    """A run that was never staged in this store."""


class UnfitError(StoreError):
    """A value that the store will never take, though it can be reached."""


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

RESTARTABLE = frozenset({State.PENDING, State.RUNNING, *INTERRUPTED}) - {State.CANCELLED}
"""An attempt in one of these goes on where its job is requeued. One at fault, or cancelled by somebody, does not."""

_AGAIN = frozenset({State.STAGED, State.PENDING, State.RUNNING, State.COMPLETED})

ARROWS: dict[State, frozenset[State]] = {
    State.STAGED: frozenset({State.PENDING, State.RUNNING, State.CANCELLED}),
    # COMPLETED: its worker could not tell the store that it began.
    State.PENDING: frozenset({State.STAGED, State.RUNNING, State.COMPLETED}) | FAILURES | INTERRUPTED,
    State.RUNNING: frozenset({State.COMPLETED}) | FAILURES | INTERRUPTED,
    State.COMPLETED: frozenset(),
    **dict.fromkeys(FAILURES | INTERRUPTED, _AGAIN),
    # LOST is a guess; whoever knows may say what became of it.
    State.LOST: _AGAIN | FAILURES | INTERRUPTED - {State.LOST},
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


@dataclass(frozen=True, order=True)
class Attempt:
    """One try of a run.

    Attributes:
        run_id: the run.
        number: counts from 1; given by the store.
        restart: how often its job had begun before, by a count of our own.
    """

    run_id: str
    number: int
    restart: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Of two attempts of one run the larger is the newer."""
        return self.number, self.restart


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt that waits for its job (PENDING) or that the store holds for alive (RUNNING).

    Times are those of the database server; on SQLite of the machine that wrote them.

    Attributes:
        attempt: which.
        state: PENDING or RUNNING.
        launcher: who dispatched it: `local`, `hand`, `slurm`.
        job_name: the name of its job; None without a scheduler.
        job_id: the scheduler's id, such as `123_4`; None where it is not known (yet).
        host: where it runs; None while PENDING, as are `process`, `started_at` and `heartbeat_at`.
        process: `pid:start time` of its worker.
        log: the path of its worker's log.
        intended_at: when it was granted.
        started_at: when it began.
        heartbeat_at: when it was last heard of.
        step: training steps done.
        progress: the last values that it told.
    """

    attempt: Attempt
    state: State
    launcher: str
    job_name: str | None
    job_id: str | None
    host: str | None
    process: str | None
    log: str | None
    intended_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    step: int
    progress: Mapping[str, float]


@dataclass(frozen=True)
class EndedAttempt:
    """The newest attempt of a run, which ended without a result.

    Attributes:
        attempt: which.
        state: how it ended.
        error: the traceback, or what was seen from outside.
        exit_code: of its process, where one is known.
        log_tail: the last lines of its worker's log.
        job_name: the name of its job; None without a scheduler.
        job_id: the scheduler's id.
        host: where it ran; None if it never began.
        ended_at: when.
    """

    attempt: Attempt
    state: State
    error: str | None
    exit_code: int | None
    log_tail: str | None
    job_name: str | None
    job_id: str | None
    host: str | None
    ended_at: datetime


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


class WorkerStore(Protocol):
    """What a worker needs of a store: its attempts.

    A store that may be away answers None where it cannot know yet whether the attempt counts.

    Attributes:
        folder: the folder beside the store that holds what does not belong into a database: final weights
            (`weights/RUN_ID.ATTEMPT.safetensors`), checkpoints of unfinished runs, packs handed to workers,
            records on their way (`spool`), and the workers' logs.
    """

    folder: Path

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Grant the run's next attempt and begin it, atomically.

        None if there is nothing to do: the run is COMPLETED, or somebody else is PENDING or RUNNING on it.

        Raises:
            StoreError: the run was never staged.
        """

    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool | None:
        """A dispatched attempt begins, or goes on after its job was requeued (`restart` + 1): it becomes RUNNING.

        False if there is nothing to do: a newer attempt exists, the run is COMPLETED, the attempt was withdrawn, or
        it ended in a way after which it does not go on (see `RESTARTABLE`). An attempt that is RUNNING already may
        say so again.

        Args:
            attempt: which.
            provenance: who trains it.
            at: when it began, if not now.

        Raises:
            StoreError: the run was never staged.
        """

    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool | None:
        """Say that the attempt is alive, or was at a given time, even if it was given up for LOST.

        False if it no longer counts, and its worker should stop.
        """

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool | None:
        """COMPLETED, with its record, in one transaction. False if the attempt no longer counts."""

    def end(
        self,
        attempt: Attempt,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
        at: datetime | None = None,
    ) -> bool | None:
        """The attempt ended without a result. False if it no longer counts or the arrow is not allowed.

        Args:
            attempt: which.
            state: one of `FAILURES` or `INTERRUPTED`.
            error: the traceback, or what was seen from outside.
            exit_code: of the process, where one is known.
            log_tail: the last lines of the worker's log.
            at: when it ended, if not now.
        """

    def close(self) -> None:
        """Give back connections."""


class Store(WorkerStore, Protocol):
    """Where runs and what they left behind are kept. See the module for the promises.

    Attributes:
        url: the SQLAlchemy URL, password included.
        display_url: how to name the store to a person: its path, or its URL with the password masked.
    """

    url: str
    display_url: str

    def stage(self, runs: Iterable[PlannedRun], *, sweep: NewSweep | None = None) -> None:
        """Insert the runs that are not there yet as STAGED, and note the sweep that wants them, at once."""

    def forget(self, sweep: NewSweep) -> None:
        """The last launch of this name and text came to nothing: it is no launch. Its runs stay."""

    def intend(
        self, run_ids: Iterable[str], *, job_name: str, launcher: str, retry_failed: bool = False
    ) -> list[Attempt]:
        """Grant the next attempt (PENDING, without a job id) of these runs, in one transaction.

        Runs that are COMPLETED or that somebody is PENDING or RUNNING on are left out, and failed ones unless asked
        for; so of two launches at the same moment one is granted a run.

        Args:
            run_ids: the runs that shall be submitted.
            job_name: the name by which the scheduler will know the job, should its id never be noted.
            launcher: who submits: `slurm`.
            retry_failed: grant failed runs, too.

        Returns:
            the attempts granted, in the order of `run_ids`.

        Raises:
            StoreError: a run was never staged; nothing is granted.
        """

    def note_jobs(self, job_ids: Mapping[Attempt, str]) -> None:
        """Note the scheduler's id (`123_4`) of attempts that were submitted, whatever became of them since."""

    def withdraw(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Take back intents that were never submitted: their runs are again what they were before.

        Left alone are attempts with a job id, and those that are not PENDING any more. Their numbers are not given
        again: should a job of such an attempt exist after all, it does not count.

        Returns:
            the attempts that were taken back.
        """

    def requeue(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """The jobs of these attempts, which were interrupted, wait in the queue again.

        The next restart of an attempt that began is PENDING; one that never began is PENDING itself. Left alone are
        attempts that are not their run's newest any more, those that were never dispatched, and those in a state in
        which no attempt goes on (see `RESTARTABLE`).

        Returns:
            the attempts that wait now, with their restarts.

        Raises:
            StoreError: a run was never staged; nothing is changed.
        """

    def open_attempts(self) -> list[OpenAttempt]:
        """Every attempt that is PENDING or RUNNING, oldest first."""

    def ended_attempts(self, states: Collection[State] = FAILURES) -> list[EndedAttempt]:
        """The newest attempt of every run that is in one of these states, the last to end first."""

    def sweeps(self) -> dict[str, dict[State, int]]:
        """Per sweep, how many of the runs that its launches wanted are in which state; a run counts once."""

    def launches(self) -> list[NewSweep]:
        """Every distinct name and text that was launched, the last launched last."""

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
