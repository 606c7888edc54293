"""Takes the snapshots of `watch`: cells by status, training runs, time left, causes of failures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jobs.progress import Training, Where
from results_db.contract import Attempt, PlannedRun, State, Store
from results_db.query.failures import by_cause
from slurm.client.client import Slurm
from slurm.follow.hold import FAULTS, held
from slurm.follow.progress import Pace, Running, under_way, waiting
from slurm.follow.reconcile import Reconciled, Reconciler
from sweeps.follow.coverage import grown
from sweeps.spec.choose import matching
from sweeps.spec.expand import Cell, Expansion
from sweeps.spec.model import Spec
from sweeps.status.blocked import blocked, lines
from sweeps.status.cell import BLOCKED, NEW, CellStatus, Status, count_by_status, describe, read_cells
from sweeps.status.estimate import Estimate, total_steps
from sweeps.status.past import past_runs

_RELEARN_AT = 1.1
"""Growth of the number of stored runs after which the estimate is made again."""


@dataclass(frozen=True, kw_only=True)
class RunNow(Training):
    """A run that trains, as the screen and `--json` show it.

    Attributes:
        experiment: its experiment.
        label: its cell's columns and its seed.
        job_id: the id of its Slurm job, if any.
        node: its node.
        device: its GPU or processor.
        phase: `silent` if its heartbeats are late, else empty.
        progress: the values of its last heartbeat.
        eta_seconds: seconds until it ends; None: unknown.
    """

    experiment: str
    label: str
    job_id: str | None
    node: str
    device: str
    phase: str
    progress: Mapping[str, float]
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The result of one look.

    Attributes:
        name: the name of the sweep, or `all sweeps`.
        at: the time, in ISO form.
        states: state to number of runs.
        eta_seconds: seconds until the last active run ends; None: unknown.
        cells: every cell.
        running: every run that trains.
        waiting: Slurm's reason to the number of runs that wait for it.
        failures: the causes of failures, each with its runs, nodes and last failure; the newest first.
        held: a line for every held dispatch.
        blocked: a line for every reason why runs are blocked.
        changes: what reconciling found and changed.
        queries_per_minute: Slurm command to its number of calls in the last minute.
    """

    name: str
    at: str
    states: Mapping[str, int]
    eta_seconds: float | None
    cells: Sequence[CellStatus]
    running: Sequence[RunNow]
    waiting: Mapping[str, int]
    failures: Sequence[Mapping[str, Any]]
    held: Sequence[str]
    blocked: Sequence[str]
    changes: Reconciled
    queries_per_minute: Mapping[str, int]

    @property
    def counts(self) -> dict[Status, int]:
        """The number of runs with each status."""
        return count_by_status(self.states)

    @property
    def active(self) -> int:
        """The number of active runs."""
        return self.counts[Status.WAITING] + self.counts[Status.RUNNING]

    @property
    def has_failed(self) -> bool:
        """Whether no run is active, and some failed, were interrupted or are blocked."""
        stopped = (Status.FAILED, Status.INTERRUPTED, Status.BLOCKED)
        return not self.active and any(self.counts[status] for status in stopped)

    def as_dict(self) -> dict[str, Any]:
        """The snapshot for `--json`."""
        return vars(self) | {
            "counts": self.counts,
            "cells": [
                {
                    "sweep": cell.sweep,
                    **cell.cell.columns,
                    "states": cell.states,
                    "counts": count_by_status(cell.states),
                    "eta_seconds": cell.eta_s,
                }
                for cell in self.cells
            ],
            "running": [asdict(run) for run in self.running],
            "changes": self.changes.as_dict(),
        }


class Watch:
    """Watches sweeps, and reconciles at every look if this user may write the store.

    `sweeps` reads the sweeps; it is called again when runs were added to the store. `name` is the name of the
    snapshots. `where` chooses runs; see `matching`.
    """

    def __init__(
        self,
        sweeps: Callable[[], Sequence[tuple[Spec, Expansion]]],
        *,
        store: Store,
        slurm: Slurm,
        name: str,
        where: str | None = None,
    ) -> None:
        self._read_sweeps, self._store, self._slurm, self._name = sweeps, store, slurm, name
        self._where = where
        self._reconciler = Reconciler(store, slurm)
        self._writes = store.may_write()
        self._pace = Pace()
        self._size = self._stored = -1
        self._sweeps: list[tuple[str, Expansion]] = []
        self._runs: dict[str, tuple[Cell, PlannedRun]] = {}
        self._estimate = Estimate([])
        self._devices: dict[Attempt, str] = {}

    def look(self) -> Snapshot:
        """Reconciles, and takes a snapshot.

        Raises:
            StoreError: the store cannot be reached.
        """
        changes = self._reconciler.look() if self._writes else self._reconciler.see()
        self._refresh()
        states = self._store.states(self._runs)
        ended = {one.attempt for one in changes.ended}
        own = [one for one in changes.open if one.attempt.run_id in self._runs and one.attempt not in ended]
        reasons = waiting(own, changes.queue)
        now = datetime.now(UTC)
        running = [
            one
            for one in under_way(own, changes.queue, pace=self._pace, now=now)
            if states.get(one.attempt.attempt.run_id) is State.RUNNING
        ]
        # squeue shows a requeued job earlier than the store does.
        active = (State.PENDING, State.RUNNING)
        states |= {run_id: State.PENDING for run_id in reasons if states.get(run_id) in active}
        packs, begun = Counter(map(_worker, running)), _begun(running)
        sharing = Counter(map(_worker, begun))
        training = [
            self._run_now(one, pack=packs[_worker(one)], sharing=sharing[_worker(one)]) for one in begun
        ]
        places = {run.where for run in training}
        # Runs that wait are expected to train where the others do, if these are all alike.
        place = places.pop() if len(places) == 1 else None
        by_id = {run.run_id: run for run in training}
        queued = {
            run_id: place for run_id, state in states.items() if state in active and run_id not in by_id
        }
        is_active = any(state in active for state in states.values())
        eta = self._estimate.left(training, queued) if is_active else 0.0
        at_hand = {file for _, expansion in self._sweeps for file in expansion.files}
        runs = [run for _, run in self._runs.values()]
        stopped = blocked(runs, states, self._store, at_hand=at_hand)
        shown = {**states, **dict.fromkeys(stopped, BLOCKED)}
        job_names = {one.job_name for one in own if one.job_name}
        return Snapshot(
            name=self._name,
            at=now.isoformat(timespec="seconds"),
            states=Counter(str(shown.get(run_id, NEW)) for run_id in self._runs),
            eta_seconds=eta,
            cells=[
                self._measured(cell, by_id, queued, whole=eta)
                for name, expansion in self._sweeps
                for cell in read_cells(expansion, states, sweep=name, blocked=stopped)
            ],
            running=training,
            waiting=Counter(reasons.values()),
            failures=self._failures(),
            held=[hold.describe() for hold in held(self._store.folder, job_names)],
            blocked=lines(stopped),
            changes=changes,
            queries_per_minute=self._slurm.per_minute(),
        )

    def _refresh(self) -> None:
        """Reads the sweeps again if runs were added, and updates the estimate if many more runs are stored."""
        counts = [Counter(states) for states in self._store.sweeps().values()]
        size, stored = sum(each.total() for each in counts), sum(each[State.COMPLETED] for each in counts)
        if size == self._size and stored <= self._stored * _RELEARN_AT:
            return
        frame = self._store.runs()
        if size != self._size:
            known = set(frame["run_id"])
            self._sweeps, self._runs = [], {}
            for spec, expansion in matching(grown(self._read_sweeps(), known), self._where):
                own = []
                for cell in expansion.cells:
                    # A run of two sweeps is shown once.
                    runs = {run.run_id: (cell, run) for run in cell.runs if run.run_id not in self._runs}
                    own.append(replace(cell, runs=[run for _, run in runs.values()]))
                    self._runs |= runs
                self._sweeps.append((spec.name, Expansion(own)))
        cells = [cell for _, each in self._sweeps for cell in each.cells]
        self._estimate = Estimate(cells, frame, past_runs(self._store, frame))
        self._size, self._stored = size, stored

    def _measured(
        self,
        cell: CellStatus,
        training: Mapping[str, RunNow],
        queued: Mapping[str, Where | None],
        *,
        whole: float | None,
    ) -> CellStatus:
        """The cell with what is done of it, and the time left by its own workers, but at most `whole`, that of all.

        Nothing is known of a cell whose runs all wait, because other cells' runs may come first.
        """
        run_ids = [run.run_id for run in cell.cell.runs]
        own = [training[run_id] for run_id in run_ids if run_id in training]
        done = cell.counts.stored + sum(run.done for run in own)
        if not cell.counts.active or not own:
            return replace(cell, done=done, eta_s=None if cell.counts.active else 0.0)
        alone = self._estimate.left(own, {run_id: queued[run_id] for run_id in run_ids if run_id in queued})
        eta = min((eta for eta in (alone, whole) if eta is not None), default=None)
        return replace(cell, done=done, eta_s=eta)

    def _run_now(self, one: Running, *, pack: int, sharing: int) -> RunNow:
        """What is shown of a run, one of so many of its worker's pack, of which so many train now."""
        attempt = one.attempt.attempt
        cell, run = self._runs[attempt.run_id]
        if attempt not in self._devices:
            self._devices[attempt] = str(self._store.attempts(attempt.run_id)[-1].get("device") or "")
        found = RunNow(
            run_id=attempt.run_id,
            experiment=str(run.config["experiment"]),
            label=describe({**cell.columns, "seed": run.config["seed"]}),
            job_id=one.attempt.job_id,
            node=one.node,
            device=self._devices[attempt],
            phase=one.phase,
            step=one.attempt.step,
            max_steps=total_steps(run.config),
            progress=one.attempt.progress,
            steps_per_s=one.steps_per_s,
            share=1 / sharing,
            where=Where(self._devices[attempt], pack),
        )
        return replace(found, eta_seconds=self._estimate.of_run(found))

    def _failures(self) -> list[dict[str, Any]]:
        failed = [one for one in self._store.ended_attempts(FAULTS) if one.attempt.run_id in self._runs]
        causes = sorted(by_cause(failed), key=lambda cause: cause.attempts[0].ended_at, reverse=True)
        shown = ("state", "exit_code", "error", "log_tail", "job_id")
        return [
            {
                "cause": cause.example,
                "count": cause.count,
                "runs": [one.attempt.run_id for one in cause.attempts],
                "nodes": sorted({one.host for one in cause.attempts if one.host}),
                "last": {
                    "run_id": last.attempt.run_id,
                    **{name: getattr(last, name) for name in shown},
                    "ended_at": last.ended_at.isoformat(timespec="seconds"),
                },
            }
            for cause in causes
            for last in cause.attempts[:1]
        ]


def _begun(running: Sequence[Running]) -> list[Running]:
    """Those that train. The others wait for a slot of their worker's pack, so they have no values yet.

    If no run of a worker has values, all of them count.
    """
    told = {_worker(one) for one in running if one.attempt.progress}
    return [one for one in running if one.attempt.progress or _worker(one) not in told]


def _worker(one: Running) -> object:
    """What identifies the run's worker: its job, or its host and process."""
    return one.attempt.job_id or (one.attempt.host, one.attempt.process)
