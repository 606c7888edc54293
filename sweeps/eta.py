"""How long it will still take, by the runs that ended and by those that train."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from results_db.contract import PlannedRun, State
from slurm.watch import Running

if TYPE_CHECKING:
    import pandas as pd

Place = Mapping[str, tuple[int, PlannedRun]]
"""Run id to the index of its cell, and the run."""


def total_steps(run: PlannedRun) -> int:
    """Steps of the training and of what follows it, at most."""
    later = run.config.get("adv_steps", 0) if run.config.get("gan") == "posthoc" else 0
    return int(run.config.get("max_steps", 0)) + int(later)


@dataclass
class _Mean:
    """A mean that grows."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


class Durations:
    """How long runs take: those that the store had at first, and those that were seen to end since."""

    def __init__(self) -> None:
        self._all = _Mean()
        self._of_cell: dict[int, _Mean] = {}
        self._completed: set[str] = set()
        self._began: dict[str, datetime] = {}
        self._since = time.monotonic()
        self._ended = 0

    def learn(self, frame: "pd.DataFrame", place: Place) -> None:
        """What the store knows, instead of all that was learned so far."""
        self._all, self._of_cell = _Mean(), {}
        done = frame[frame["state"] == State.COMPLETED]
        self._completed = place.keys() & set(done["run_id"])
        for run_id, seconds in zip(done["run_id"], done["seconds"], strict=True):
            if run_id in self._completed:
                self._add(place[run_id][0], float(seconds))

    def see(self, states: Mapping[str, State], running: Iterable[Running], place: Place) -> None:
        """A look: which runs are complete by now, and which train."""
        now = datetime.now(UTC)
        for run_id, state in states.items():
            if state is State.COMPLETED and run_id not in self._completed:
                self._completed.add(run_id)
                self._ended += 1
                if run_id in self._began:
                    self._add(place[run_id][0], max((now - self._began[run_id]).total_seconds(), 0.0))
        attempts = (one.attempt for one in running)
        self._began = {one.attempt.run_id: one.started_at for one in attempts if one.started_at is not None}

    def mean(self, cell: int) -> float | None:
        """Mean seconds of a run of this cell; before one has ended, of all cells."""
        return self._of_cell[cell].value if cell in self._of_cell else self._all.value

    @property
    def ended_per_s(self) -> float | None:
        """Runs that were seen to end, per second of looking on."""
        return self._ended / max(time.monotonic() - self._since, 1.0) if self._ended else None

    def _add(self, cell: int, seconds: float) -> None:
        if seconds == seconds:  # a store may lack it
            self._all.add(seconds)
            self._of_cell.setdefault(cell, _Mean()).add(seconds)


class Left:
    """The time that is left: the work of the active runs, shared by those that train now.

    Work is in seconds of training: what is left of a mean run of its cell. Before any run has ended, the step limit
    stands in, which a run may not need; before there is a speed either, the runs that were seen to end tell.
    """

    def __init__(
        self,
        durations: Durations,
        states: Mapping[str, State],
        running: Sequence[Running],
        place: Place,
        *,
        now: datetime,
    ) -> None:
        self._durations = durations
        self._place = place
        self._now = now
        cell_of = {run_id: index for run_id, (index, _) in place.items()}
        self._training = Counter(cell_of[one.attempt.attempt.run_id] for one in running)
        self._waiting = Counter(cell_of[run_id] for run_id, state in states.items() if state is State.PENDING)
        self._to_limit = _Mean()
        for one in running:
            if one.steps_per_s:
                self._to_limit.add(total_steps(place[one.attempt.attempt.run_id][1]) / one.steps_per_s)
        self._work: dict[int, list[float | None]] = {index: [] for index in (*self._training, *self._waiting)}
        for one in running:
            self._work[cell_of[one.attempt.attempt.run_id]].append(self.of_run(one))
        for index, count in self._waiting.items():
            mean = durations.mean(index)
            whole = self._to_limit.value if mean is None else mean
            self._work[index].append(None if whole is None else whole * count)

    @cached_property
    def eta(self) -> float | None:
        """Seconds until the last active run ends; None where nothing tells."""
        training, waiting = sum(self._training.values()), sum(self._waiting.values())
        work = _total(part for parts in self._work.values() for part in parts)
        if work is not None:
            return work / training if training else None if waiting else 0.0
        rate = self._durations.ended_per_s
        return (training + waiting) / rate if rate else None

    def eta_of(self, cell: int) -> float | None:
        """Seconds until the last active run of a cell ends; where none of them trains, it waits with all others."""
        if cell not in self._work:
            return 0.0
        work = _total(self._work[cell])
        if work is None or not self._training[cell]:
            return self.eta
        alone = work / self._training[cell]
        return alone if self.eta is None else min(alone, self.eta)

    def of_run(self, one: Running) -> float | None:
        """What a run that trains still lacks of a mean run's time, and no more than to its step limit."""
        index, run = self._place[one.attempt.attempt.run_id]
        limit = (total_steps(run) - one.attempt.step) / one.steps_per_s if one.steps_per_s else None
        mean = self._durations.mean(index)
        if mean is None or one.attempt.started_at is None:
            return limit
        rest = max(mean - (self._now - one.attempt.started_at).total_seconds(), 0.0)
        return rest if limit is None else min(rest, limit)


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum; None if a part is not known."""
    total = 0.0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
