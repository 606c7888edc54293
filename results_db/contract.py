"""What a store promises, and the plain data that passes in and out of it. Contains no SQL.

Every store implements `Store`, and one test suite checks these promises on each of them:

* writes are idempotent: repeating a write changes nothing;
* a COMPLETED run never changes, except by `replace_metrics` and `discard`;
* states move only along `ARROWS`;
* attempts of a run are ordered by (number, restart); only the newest counts, and writes of older ones are refused,
  never merged;
* the store numbers the attempts and gives each a nonce, so two jobs never share an attempt, not even if the store is
  replaced by a copy that numbers anew; writes of an attempt that it did not claim change nothing (`Reply.UNKNOWN`);
* a result of the newest attempt counts, whatever state that attempt was recorded in before; while its job waits for
  its next start, so does a result of an earlier start;
* `finish` writes everything of a run in one transaction, or nothing.

A launch claims a run's next attempt (`claim`) before it submits its job or hands it to a local worker, or withdraws the
claim (`withdraw`). It notes the id of a scheduler's job afterwards (`note_jobs`). The worker calls `begin` when it
starts, and again whenever its job is requeued.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # both are slow to import, and `--help` does not need them
    import pandas as pd

    from results_db.frame import Frame

Scalar = bool | int | float | str

Traces = dict[str, tuple[list[int], list[float]]]
"""Trace name to (steps, values)."""


class StoreError(Exception):
    """A mistake of the user, or a store that cannot be reached: one line that says what to do."""


class UnknownRunError(StoreError):
    """The run is not in this store."""


class OtherStoreError(StoreError):
    """The database, or the folder beside it, is no longer that of the store that was opened."""


class UnfitError(StoreError):
    """The store can be reached, but will never accept this value."""


class State(StrEnum):
    """The state of a run or an attempt: Slurm's own words, plus STAGED, LOST and DISCARDED."""

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
    DISCARDED = "DISCARDED"


ACTIVE = frozenset({State.PENDING, State.RUNNING})
"""A job waits to train the run, or a worker trains it."""

FAILURES = frozenset({State.FAILED, State.OUT_OF_MEMORY})
"""The run is at fault; only `retry` trains it again."""

INTERRUPTED = frozenset({State.CANCELLED, State.TIMEOUT, State.NODE_FAIL, State.PREEMPTED, State.LOST})
"""The run was stopped from outside; the next launch continues it."""

RESTARTABLE = frozenset({State.PENDING, State.RUNNING, *INTERRUPTED}) - {State.CANCELLED}
"""An attempt in one of these states continues when Slurm requeues its job; a failed or cancelled one does not."""

_NEXT_ATTEMPT = frozenset({State.STAGED, State.PENDING, State.RUNNING, State.COMPLETED})
"""Where a run goes from the end of an attempt: back to STAGED if the next claim is withdrawn, or on."""

ARROWS: dict[State, frozenset[State]] = {
    State.STAGED: frozenset({State.PENDING, State.RUNNING, State.CANCELLED}),
    # PENDING to COMPLETED: the worker could not reach the store when it began.
    State.PENDING: frozenset({State.STAGED, State.RUNNING, State.COMPLETED}) | FAILURES | INTERRUPTED,
    State.RUNNING: frozenset({State.COMPLETED}) | FAILURES | INTERRUPTED,
    State.COMPLETED: frozenset({State.DISCARDED}),
    State.DISCARDED: _NEXT_ATTEMPT - {State.COMPLETED},  # only a new attempt completes it
    **dict.fromkeys(FAILURES | INTERRUPTED - {State.LOST}, _NEXT_ATTEMPT),
    # LOST is a guess, which a later report may correct.
    State.LOST: _NEXT_ATTEMPT | FAILURES | (INTERRUPTED - {State.LOST}),
}
"""From a state to the states that may follow it."""


class Reply(Enum):
    """How a store takes what it is told about an attempt. Only `ACCEPTED` is true."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The attempt does not count: a newer one exists, or it or its run has ended otherwise."""
    UNKNOWN = "unknown"
    """The store did not make the attempt's claim, as if it was replaced by another or by an older copy."""

    def __bool__(self) -> bool:
        return self is Reply.ACCEPTED


@dataclass(frozen=True)
class PlannedRun:
    """A run that should exist: its id and its complete config.

    Attributes:
        needs: config key to the id of the run that it builds on.
    """

    run_id: str
    config: Mapping[str, Scalar]
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What a store keeps of an experiment's declaration, so that its runs can be read without its code.

    Attributes:
        keys: its config keys, in the order of listings, the seed last.
        cells: those that usually tell the rows of a table apart.
        metrics: metric to its meaning, in the order of listings.
        shown: the metrics that tables show, the first with its interval.
        gate: the metric that decides which runs are kept, and its least value; None: all completed runs are.
        needs: the config keys that name what a run builds on.
        before: the value of younger keys in runs that were stored without them.
    """

    keys: Sequence[str]
    cells: Sequence[str] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    shown: Sequence[str] = ()
    gate: tuple[str, float] | None = None
    needs: Sequence[str] = ()
    before: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def gate_words(self) -> str | None:
        """The gate in words: `train_accuracy >= 0.99`."""
        return None if self.gate is None else f"{self.gate[0]} >= {self.gate[1]:g}"

    def keeps(self, outcomes: Any, values: Any) -> Any:
        """Whether completed runs with these outcomes and values of the gate's metric are kept; a bool, or an array."""
        trained = outcomes != DIVERGED
        return trained if self.gate is None else trained & (values >= self.gate[1])  # false for NaN

    def missed(self, outcome: str, metrics: Mapping[str, float | None]) -> str | None:
        """Why a run with this outcome and these metrics is not kept, in words; None: it is kept."""
        value = None if self.gate is None else metrics.get(self.gate[0])
        if self.keeps(outcome, math.nan if value is None else value):
            return None
        if outcome == DIVERGED or self.gate is None:
            return DIVERGED
        return f"has no {self.gate[0]}" if value is None else f"is below its gate {self.gate_words}"


@dataclass(frozen=True)
class Artifact:
    """A file that a run left beside the store: its size in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class NewSweep:
    """A launch of a spec: the sweep's name and the composed text of the spec.

    Attributes:
        overridden: the config keys that the command line set, sorted; None in launches by versions before 0.3.
        content: a digest of what the spec's runs are, whatever their number.
    """

    name: str
    spec: str
    overridden: Sequence[str] | None = ()
    content: str = ""


@dataclass(frozen=True)
class Provenance:
    """What trains an attempt, where, and with which versions.

    Attributes:
        process: the worker's `pid:start time`.
        kernels: the compiled kernels that the worker had for 3x3 convolutions in float32, or `none`.
        log: the path of the worker's log, as `results_db.files.Files.name` gives it.
    """

    launcher: str
    host: str
    process: str
    device: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str]
    job_id: str | None = None
    log: str | None = None
    kernels: str | None = None


@dataclass(frozen=True, order=True)
class Attempt:
    """One try of a run by a job. Of the attempts of one run, the newest is the largest.

    Attributes:
        run_id: the run.
        number: the store's count of attempts, from 1.
        restart: the number of earlier starts of its job.
        nonce: random, made with the claim; empty in attempts of versions before 0.3.
    """

    run_id: str
    number: int
    restart: int = 0
    nonce: str = ""


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt that is PENDING or RUNNING. Times are the database server's; with SQLite, the writing machine's.

    `started_at` and `heartbeat_at` are None while the attempt is PENDING. Until it begins, `host` and `process` are the
    claiming launch's, or None if it waits for a scheduler.

    Attributes:
        launcher: `local`, `hand` or `slurm`.
        job_name: None without a scheduler.
        job_id: the scheduler's id, such as `123_4`; None until it is known.
        process: see `Provenance`.
        log: see `Provenance`.
        step: training steps done.
        progress: the values of the last heartbeat.
    """

    attempt: Attempt
    state: State
    launcher: str
    job_name: str | None
    job_id: str | None
    host: str | None
    process: str | None
    log: str | None
    claimed_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    step: int
    progress: Mapping[str, float]


@dataclass(frozen=True)
class BegunAttempt:
    """An attempt that has begun, ended or not: where it trained, and when.

    Attributes:
        job_name: None without a scheduler.
        process: see `Provenance`.
        ended_at: None while it is RUNNING.
    """

    attempt: Attempt
    state: State
    launcher: str
    job_name: str | None
    host: str
    process: str
    device: str
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended without a result.

    Attributes:
        state: one of `FAILURES` or `INTERRUPTED`.
        error: the traceback, or what was observed from outside.
        exit_code: the exit code of its process, if known.
        log_tail: the last lines of its worker's log.
    """

    state: State
    error: str | None = None
    exit_code: int | None = None
    log_tail: str | None = None


@dataclass(frozen=True)
class EndedAttempt:
    """The newest attempt of a run, ended. See `Ending` for its first attributes.

    Attributes:
        job_name: None without a scheduler.
        host: None if it never began.
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


DIVERGED = "diverged"
"""Outcome of a run whose numbers became infinite or NaN: it counts in `run`, never in `kept`."""

OUTCOMES = ("reached", "step_limit", "given_up", DIVERGED, "done")
"""Why a stored run ended: at its accuracy, at its last step, early as hopeless, diverged, or when its function did.

A runner may have words of its own.
"""


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run leaves when it ends.

    Attributes:
        outcome: why it ended, one of `OUTCOMES` or a word of its runner.
        seconds: training time over all attempts, in seconds, without evaluation.
        metrics: name to value; null where the metric does not exist for this run.
        traces: name to (steps, values), equally long.
        samples: name to a few arrays for figures, as a compressed .npz file (see `imagination.recorder`).
        artifacts: the files that it left, by name; see `Files.artifact`.
    """

    run_id: str
    outcome: str
    seconds: float
    metrics: Mapping[str, float | None]
    traces: Mapping[str, tuple[Sequence[int], Sequence[float]]] = field(default_factory=dict)
    samples: Mapping[str, bytes] = field(default_factory=dict)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)


class Store(Protocol):
    """The database of runs, and the folder beside it. The module lists its promises.

    Attributes:
        url: the SQLAlchemy URL, password included.
        uuid: the store's own id; empty for a store that does not exist yet.
        display_url: the store's name in messages: its path, or its URL with the password masked.
        folder: the folder beside the database, for final weights, checkpoints, the spool and logs; see
            `results_db.files.Files`.
    """

    url: str
    uuid: str
    display_url: str
    folder: Path

    @property
    def exists(self) -> bool:
        """Whether the database exists. A SQLite file that does not is an empty store."""

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""

    def standing(self, attempt: Attempt) -> Reply:
        """Whether the attempt counts now. Writes nothing."""

    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> Reply:
        """Make a claimed attempt RUNNING, at the first start of its job or at a restart.

        Repeating the call changes nothing. Refused if the worker should not train: a newer attempt exists, the run is
        COMPLETED, the claim was withdrawn, or the attempt ended in a state that is not `RESTARTABLE`. `at` is when it
        began; default: now.
        """

    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> Reply:
        """Report that the attempt was alive `at` this time; default: now. A LOST attempt becomes RUNNING again."""

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> Reply:
        """Make the run COMPLETED and store its record, in one transaction; see `end` for `at`.

        Also refused if the run is COMPLETED with another record.

        Raises:
            ValueError: the record belongs to another run.
            UnfitError: the store will never accept this record.
        """

    def end(self, attempt: Attempt, ending: Ending, *, at: datetime | None = None) -> Reply:
        """End the attempt without a result. `at` is when it ended; default: now.

        Also refused if `ARROWS` does not allow the change.

        Raises:
            ValueError: its state is not one of `FAILURES` or `INTERRUPTED`.
        """

    def adopt(
        self,
        attempt: Attempt,
        record: RunRecord,
        provenance: Provenance,
        *,
        began_at: datetime | None = None,
        at: datetime | None = None,
    ) -> Attempt | None:
        """Store a record whose claim this store does not know, as the run's next attempt with the same nonce.

        Open attempts of the run are LOST. See `begin` for `began_at`, `finish` for `at` and the errors.

        Returns:
            That attempt; None if the run is COMPLETED.

        Raises:
            UnknownRunError: the run is not in this store.
        """

    def close(self) -> None:
        """Close the connections."""

    def may_write(self) -> bool:
        """Whether this user may write the store from here: as its owner, in a shared store, or as the server says."""

    def stage(self, runs: Iterable[PlannedRun], *, sweep: NewSweep | None = None) -> None:
        """Insert the runs that are missing as STAGED, and record the sweep that wants them, in one transaction.

        Also records what their experiments declare now.
        """

    def experiments(self) -> dict[str, Experiment]:
        """What the store knows of its runs' experiments, by name; a store without any has those of this package."""

    def forget(self, sweep: NewSweep) -> None:
        """Delete the last launch of this name and text, which submitted nothing. Its runs stay."""

    def claim(
        self,
        run_ids: Iterable[str],
        *,
        launcher: str,
        job_name: str | None = None,
        retry_failed: bool = False,
    ) -> list[Attempt]:
        """Claim the next attempt of these runs, PENDING and without a job id, in one transaction.

        Skips runs that are COMPLETED, PENDING or RUNNING, and failed ones without `retry_failed`. So of two launches
        at the same moment only one claims a run. `job_name` finds the job if its id is never noted. Without it, the
        claim notes this host and process, so that the claims of a process that died are found.

        Returns:
            The claimed attempts, in the order of `run_ids`.
        """

    def note_jobs(self, job_ids: Mapping[Attempt, str]) -> None:
        """Note the scheduler's id (`123_4`) of submitted attempts, whatever their state."""

    def withdraw(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Take back claims that were never submitted, and give their runs their former states.

        Skips attempts that have a job id or are no longer PENDING. A withdrawn number is not reused: if a job of
        such an attempt exists after all, it does not count.

        Returns:
            The withdrawn attempts.
        """

    def requeue(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Record that the jobs of these interrupted attempts wait in the queue again.

        An attempt that never began becomes PENDING. If it began, its next restart becomes PENDING. Skips attempts
        that are not their run's newest, were not claimed for a job, or are not `RESTARTABLE`.

        Returns:
            The attempts that are PENDING now, with their restarts.
        """

    def open_attempts(self) -> list[OpenAttempt]:
        """Every attempt that is PENDING or RUNNING, oldest first."""

    def begun_attempts(self) -> list[BegunAttempt]:
        """Every attempt that has begun, oldest first."""

    def ended_attempts(self, states: Collection[State] = FAILURES) -> list[EndedAttempt]:
        """The newest attempt of every run that is in one of these states, most recently ended first."""

    def sweeps(self) -> dict[str, dict[State, int]]:
        """Sweep to state to number of runs. A run of several launches of a sweep counts once."""

    def launches(self) -> list[NewSweep]:
        """Every distinct name and text that was launched, in the order of the last launch of each."""

    def members(self, sweeps: Collection[str], *, overridden: Collection[str]) -> set[str]:
        """The ids of the runs that launches of these sweeps wanted.

        Leaves out launches that overrode other config keys than these, or of which that is not known. If a spec was
        changed between launches that overrode the same keys, only those with the content of the last one count.
        """

    def replace_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Overwrite these metrics of a COMPLETED run; other metrics stay. Only `jobs.evaluate --write` calls this.

        Raises:
            StoreError: the run is unknown or not COMPLETED.
        """

    def discard(self, run_ids: Collection[str], *, why: str) -> None:
        """Make these COMPLETED runs DISCARDED, all or none: they count nowhere, and the next launch trains them again.

        Their records stay, see `discarded`; their weights move to the folder `discarded`.

        Raises:
            StoreError: a run is unknown or not COMPLETED, or a stored run that is not among them builds on it.
        """

    def discarded(self, run_id: str) -> list[dict[str, Any]]:
        """What was discarded of a run, oldest first: `number`, `restart`, `discarded_at`, `why`, and the record."""

    def frame(self, *, limit: int | None = None) -> "Frame":
        """The runs as `runs` gives them, or only the first `limit`, without the cost of importing pandas."""

    def runs(self) -> "pd.DataFrame":
        """One row per run, in the order of staging.

        The columns are `results_db.columns.RUN_COLUMNS`, every config key and every metric. The known ones exist even
        if no run has a value.
        """

    def run(self, run_id: str) -> dict[str, Any]:
        """One run: its columns, and its `config`, `metrics` and `sweeps`.

        Raises:
            UnknownRunError: the run is not in this store.
        """

    def find(self, prefix: str) -> str:
        """The full id of the one run whose id begins with `prefix`.

        Raises:
            StoreError: no run or several runs match.
        """

    def traces(self, run_id: str) -> Traces:
        """The traces of a run."""

    def traces_of(self, run_ids: Iterable[str]) -> dict[str, Traces]:
        """Run id to traces; runs without traces are left out."""

    def trace_frame(self, run_ids: Iterable[str] | None = None) -> "pd.DataFrame":
        """The traces of these runs, or of all, with a row per point: `run_id`, `name`, `step`, `value`."""

    def samples(self, run_id: str) -> dict[str, bytes]:
        """The samples of a run, by name; see `RunRecord`."""

    def artifacts(self, run_id: str) -> dict[str, Artifact]:
        """The files that a COMPLETED run left, by name; see `Files.artifact`."""

    def needs(self, run_id: str) -> dict[str, str]:
        """The ids of the runs that a run builds on, by config key."""

    def needed_by(self, run_id: str) -> list[str]:
        """The ids of the runs that build on a run, in the order of staging."""

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The attempts of a run, oldest first: number, state, times, provenance, error."""
