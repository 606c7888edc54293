"""What a person watches: cells by state, runs under way, what is left to wait for, and why runs failed."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from results_db.contract import ACTIVE, FAILURES, INTERRUPTED, EndedAttempt, PlannedRun, State, Store
from results_db.query.failures import by_cause
from slurm.client.client import Slurm
from slurm.follow.hold import FAULTS, held
from slurm.follow.progress import Pace, Running, under_way, waiting
from slurm.follow.reconcile import Reconciled, Reconciler
from sweeps.follow.estimate import Durations, Left, total_steps

if TYPE_CHECKING:
    from sweeps.spec.expand import Cell, Expansion

NEW = "NEW"
"""The state of a run that the store does not know."""


@dataclass(frozen=True)
class CellNow:
    """A cell.

    Attributes:
        sweep: the sweep's name.
        columns: of the cell.
        states: how many runs are in which state.
        eta_s: seconds until its active runs have ended; None: not known.
    """

    sweep: str
    columns: Mapping[str, Any]
    states: Mapping[str, int]
    eta_s: float | None


@dataclass(frozen=True)
class RunNow:
    """A run that trains.

    Attributes:
        run_id: the run.
        label: what tells it from the others.
        running: its attempt, and where.
        device: such as its GPU.
        max_steps: its step limit.
        eta_s: seconds until it ends; None: not known.
    """

    run_id: str
    label: str
    running: Running
    device: str
    max_steps: int
    eta_s: float | None


@dataclass(frozen=True)
class CauseNow:
    """Failures of one cause.

    Attributes:
        example: as one of them put it.
        run_ids: of all of them, the last to fail first.
        nodes: where they failed.
        last: the last of them.
    """

    example: str
    run_ids: Sequence[str]
    nodes: Sequence[str]
    last: EndedAttempt


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All of it at one moment; see `Watch.look`.

    Attributes:
        name: what is watched.
        states: how many runs are in which state.
        eta_s: seconds until the last active run ends; None: not known.
        cells: every cell.
        running: every run that trains.
        waiting: Slurm's reasons to let runs wait, and how many wait for each.
        causes: why runs failed, the one that struck last first.
        found: what reconciling found and changed.
        held: a line for every job that is held.
        queries: how often which command of Slurm was run in the last minute.
    """

    name: str
    states: Mapping[str, int]
    eta_s: float | None
    cells: Sequence[CellNow]
    running: Sequence[RunNow]
    waiting: Mapping[str, int]
    causes: Sequence[CauseNow]
    found: Reconciled
    held: Sequence[str]
    queries: Mapping[str, int]

    @property
    def active(self) -> int:
        """Runs that wait or train."""
        return sum(self.states.get(state, 0) for state in ACTIVE)

    @property
    def has_failed(self) -> bool:
        """No run waits or trains any more, and some failed or were interrupted."""
        return not self.active and any(self.states.get(state) for state in FAILURES | INTERRUPTED)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "states": dict(self.states),
            "eta_seconds": self.eta_s,
            "cells": [
                {"sweep": cell.sweep, **cell.columns, "states": dict(cell.states), "eta_seconds": cell.eta_s}
                for cell in self.cells
            ],
            "running": [
                {
                    "run_id": run.run_id,
                    "label": run.label,
                    "job_id": run.running.attempt.job_id,
                    "node": run.running.node,
                    "device": run.device,
                    "phase": run.running.phase,
                    "step": run.running.attempt.step,
                    "max_steps": run.max_steps,
                    "progress": dict(run.running.attempt.progress),
                    "steps_per_s": run.running.steps_per_s,
                    "eta_seconds": run.eta_s,
                }
                for run in self.running
            ],
            "waiting": dict(self.waiting),
            "failures": [
                {
                    "cause": cause.example,
                    "count": len(cause.run_ids),
                    "runs": list(cause.run_ids),
                    "nodes": list(cause.nodes),
                    "last": {
                        "run_id": cause.last.attempt.run_id,
                        "state": str(cause.last.state),
                        "exit_code": cause.last.exit_code,
                        "error": cause.last.error,
                        "log_tail": cause.last.log_tail,
                        "job_id": cause.last.job_id,
                        "ended_at": cause.last.ended_at.isoformat(timespec="seconds"),
                    },
                }
                for cause in self.causes
            ],
            "held": list(self.held),
            "changes": self.found.as_dict(),
            "queries_per_minute": dict(self.queries),
        }


class Watch:
    """Looks again and again, and reconciles on the way.

    Args:
        name: what is watched, for a person.
        sweeps: reads the sweeps and their cells, top-ups included; called again when runs were added.
        store: the store.
        slurm: the cluster.
    """

    def __init__(
        self,
        name: str,
        sweeps: "Callable[[], Sequence[tuple[str, Expansion]]]",
        *,
        store: Store,
        slurm: Slurm,
    ) -> None:
        self._name = name
        self._read = sweeps
        self._store = store
        self._slurm = slurm
        self._reconciler = Reconciler(store, slurm)
        self._pace = Pace()
        self._size: int | None = None
        self._cells: list[tuple[str, Cell]] = []
        self._place: dict[str, tuple[int, PlannedRun]] = {}
        self._devices: dict[object, str] = {}
        self._seconds = Durations()

    def look(self) -> Snapshot:
        """How things stand now.

        Raises:
            StoreError: the store is away.
        """
        found = self._reconciler.look()
        self._follow_the_sweeps()
        states = self._store.states(self._place)
        over = {one.attempt for one in found.ended}
        own = [one for one in found.open if one.attempt.run_id in self._place and one.attempt not in over]
        reasons = waiting(own, found.queue)
        # The store may not have heard yet that a job was requeued.
        states |= {run_id: State.PENDING for run_id in reasons if states.get(run_id) in ACTIVE}
        running = under_way(own, found.queue, pace=self._pace, now=datetime.now(UTC))
        running = [one for one in running if states.get(one.attempt.attempt.run_id) is State.RUNNING]
        self._seconds.see(states, running, self._place)
        left = Left(self._seconds, states, running, self._place)
        return Snapshot(
            name=self._name,
            states=_counts(states.get(run_id, NEW) for run_id in self._place),
            eta_s=left.eta,
            cells=self._cells_now(states, left),
            running=[self._run_now(one, left) for one in running],
            waiting=dict(Counter(reasons.values())),
            causes=self._causes(),
            found=found,
            held=[
                hold.describe()
                for hold in held(self._store.folder, {one.job_name for one in own if one.job_name})
            ],
            queries=self._slurm.per_minute(),
        )

    def _follow_the_sweeps(self) -> None:
        """Read the sweeps anew when a launch or a top-up has added runs."""
        size = sum(sum(states.values()) for states in self._store.sweeps().values())
        if size == self._size:
            return
        self._size = size
        sweeps = self._read()
        self._cells = [(name, cell) for name, expansion in sweeps for cell in expansion.cells]
        self._place = {}
        for index, (_, cell) in enumerate(self._cells):
            for run in cell.runs:
                self._place.setdefault(run.run_id, (index, run))
        self._seconds.learn(self._store.runs(), self._place)

    def _cells_now(self, states: Mapping[str, State], left: Left) -> list[CellNow]:
        counts: list[Counter[str]] = [Counter() for _ in self._cells]
        for run_id, (index, _) in self._place.items():
            counts[index][str(states.get(run_id, NEW))] += 1
        return [
            CellNow(name, cell.columns, counts[index], left.eta_of(index))
            for index, (name, cell) in enumerate(self._cells)
        ]

    def _run_now(self, running: Running, left: Left) -> RunNow:
        attempt = running.attempt.attempt
        index, run = self._place[attempt.run_id]
        if attempt not in self._devices:
            self._devices[attempt] = str(self._store.attempts(attempt.run_id)[-1].get("device") or "")
        return RunNow(
            attempt.run_id,
            label(self._cells[index][1], run),
            running,
            self._devices[attempt],
            total_steps(run),
            left.of_run(running),
        )

    def _causes(self) -> list[CauseNow]:
        failed = [one for one in self._store.ended_attempts(FAULTS) if one.attempt.run_id in self._place]
        causes = [
            CauseNow(
                cause.example,
                [one.attempt.run_id for one in cause.attempts],
                sorted({one.host for one in cause.attempts if one.host}),
                cause.attempts[0],
            )
            for cause in by_cause(failed)
        ]
        return sorted(causes, key=lambda cause: cause.last.ended_at, reverse=True)


def label(cell: "Cell", run: PlannedRun) -> str:
    """`gol=3 model_t=2 seed=1`."""
    from results_db.text import cell_text

    return " ".join(
        f"{key}={cell_text(value)}" for key, value in [*cell.columns.items(), ("seed", run.config["seed"])]
    )


def _counts(states: Iterable[str]) -> dict[str, int]:
    return dict(Counter(map(str, states)))
