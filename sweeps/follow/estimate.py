"""How long it will still take, by the runs that ended and by those that train."""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from results_db.contract import OpenAttempt, PlannedRun, State
from slurm.follow.progress import Running

if TYPE_CHECKING:
    import pandas as pd

_NEARLY = 0.05
"""The part of a mean run that one still takes that has made as many steps already."""

Place = Mapping[str, tuple[int, PlannedRun]]
"""Run id to the index of its cell, and the run."""


def total_steps(run: PlannedRun) -> int:
    """Steps of the training and of what follows it, at most."""
    return int(run.config.get("max_steps", 0)) + _later_steps(run)


def _later_steps(run: PlannedRun) -> int:
    return int(run.config.get("adv_steps", 0)) if run.config.get("gan") == "posthoc" else 0


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


def mates(running: Iterable[Running]) -> dict[str, int]:
    """Run id to how many runs its job or process trains at once, itself included."""
    attempts = [one.attempt for one in running]
    jobs = Counter(map(_job, attempts))
    return {one.attempt.run_id: jobs[_job(one)] for one in attempts}


def _job(one: OpenAttempt) -> object:
    return one.job_id or (one.host, one.process)


class Durations:
    """How long runs take: those that the store had at first, and those that were seen to end since.

    In seconds of a worker's time, as the store has them: of runs that train together each takes its part.
    """

    def __init__(self) -> None:
        self._all = _Mean()
        self._of_cell: dict[int, _Mean] = {}
        self._all_steps = _Mean()
        self._steps_of_cell: dict[int, _Mean] = {}
        self._completed: set[str] = set()
        self._began: dict[str, tuple[datetime, int]] = {}
        self._since = time.monotonic()
        self._ended = 0

    def learn(self, frame: "pd.DataFrame", place: Place) -> None:
        """What the store knows, instead of all that was learned so far."""
        self._all, self._of_cell = _Mean(), {}
        self._all_steps, self._steps_of_cell = _Mean(), {}
        done = frame[frame["state"] == State.COMPLETED]
        self._completed = place.keys() & set(done["run_id"])
        counts = done["steps"] if "steps" in done else [None] * len(done)
        for run_id, seconds, steps in zip(done["run_id"], done["seconds"], counts, strict=True):
            if run_id in self._completed:
                self._add(place[run_id][0], float(seconds))
                self._add_steps(place[run_id], steps)

    def see(self, states: Mapping[str, State], running: Sequence[Running], place: Place) -> None:
        """A look: which runs are complete by now, and which train."""
        now = datetime.now(UTC)
        for run_id, state in states.items():
            if state is State.COMPLETED and run_id not in self._completed:
                self._completed.add(run_id)
                self._ended += 1
                if run_id in self._began:
                    began, together = self._began[run_id]
                    self._add(place[run_id][0], max((now - began).total_seconds(), 0.0) / together)
        together_of = mates(running)
        self._began = {
            run_id: (one.attempt.started_at, together_of[run_id])
            for one in running
            if one.attempt.started_at is not None and (run_id := one.attempt.attempt.run_id)
        }

    def mean(self, cell: int) -> float | None:
        """Mean seconds of a run of this cell; before one has ended, of all cells."""
        return self._of_cell[cell].value if cell in self._of_cell else self._all.value

    def mean_steps(self, cell: int) -> float | None:
        """Mean steps of a run of this cell; before one has ended, of all cells."""
        return self._steps_of_cell[cell].value if cell in self._steps_of_cell else self._all_steps.value

    @property
    def ended_per_s(self) -> float | None:
        """Runs that were seen to end, per second of looking on."""
        return self._ended / max(time.monotonic() - self._since, 1.0) if self._ended else None

    def _add(self, cell: int, seconds: float) -> None:
        if seconds == seconds:  # a store may lack it
            self._all.add(seconds)
            self._of_cell.setdefault(cell, _Mean()).add(seconds)

    def _add_steps(self, place: tuple[int, PlannedRun], steps: float | None) -> None:
        """`steps`: of the training alone."""
        if steps is not None and steps > 0:  # nor is that true of NaN
            cell, run = place
            self._all_steps.add(steps + _later_steps(run))
            self._steps_of_cell.setdefault(cell, _Mean()).add(steps + _later_steps(run))


class Left:
    """The time that is left: the work of the active runs, shared by the workers that train now.

    Work is in seconds of a worker's time, of which a pack's runs each take a part: for a run that trains, the part of
    a mean run of its cell that it lacks by its steps. Before any run has ended, the step limit stands in, which a run
    may not need; before there is a speed either, the runs that were seen to end tell.
    """

    def __init__(
        self, durations: Durations, states: Mapping[str, State], running: Sequence[Running], place: Place
    ) -> None:
        self._durations = durations
        self._place = place
        self._mates = mates(running)
        self._training: defaultdict[int, list[Running]] = defaultdict(list)
        for one in running:
            self._training[place[one.attempt.attempt.run_id][0]].append(one)
        self._waiting = Counter(
            place[run_id][0] for run_id, state in states.items() if state is State.PENDING and run_id in place
        )
        self._to_limit = _Mean()
        for one in running:
            run_id = one.attempt.attempt.run_id
            if one.steps_per_s:
                self._to_limit.add(total_steps(place[run_id][1]) / one.steps_per_s / self._mates[run_id])

    @cached_property
    def eta(self) -> float | None:
        """Seconds until the last active run ends; None where nothing tells."""
        cells = self._training.keys() | self._waiting.keys()
        if self._work(cells) is not None:
            return self._time(cells)
        rate = self._durations.ended_per_s
        active = sum(map(len, self._training.values())) + self._waiting.total()
        return active / rate if rate else None

    def eta_of(self, cell: int) -> float | None:
        """Seconds until the last active run of a cell ends; where none of them trains, it waits with all others."""
        if cell not in self._training and not self._waiting[cell]:
            return 0.0
        alone = self._time({cell})
        if alone is None or self.eta is None:
            return self.eta if alone is None else alone
        return min(alone, self.eta)

    def of_run(self, one: Running) -> float | None:
        """How long a run that trains still takes: as a mean run by its steps, and no more than to its step limit."""
        run_id, step = one.attempt.attempt.run_id, one.attempt.step
        index, run = self._place[run_id]
        steps = max(total_steps(run), 1)
        left = max(steps - step, 0)
        limit = left / one.steps_per_s if one.steps_per_s else None
        mean = self._durations.mean(index)
        if mean is None:
            return limit
        # Who needs more steps than others is taken to be nearly there.
        share = max(1 - step / (self._durations.mean_steps(index) or steps), _NEARLY)
        rest = mean * share * self._mates.get(run_id, 1)
        return rest if limit is None else min(rest, limit)

    def _time(self, cells: Collection[int]) -> float | None:
        """Seconds until the last active run of these cells ends, by the workers that train them now."""
        work, training = self._work(cells), self._runs_of(cells)
        if work is None or not training:
            return None if any(self._waiting[cell] for cell in cells) else 0.0
        workers = sum(map(self._part, training))
        # A worker that is done early cannot help the one that trains the longest.
        return max(work / workers, *(self.of_run(one) or 0.0 for one in training))

    def _work(self, cells: Collection[int]) -> float | None:
        """Seconds of a worker's time that these cells' active runs still take."""
        rests = [(self.of_run(one), self._part(one)) for one in self._runs_of(cells)]
        training = [None if rest is None else rest * part for rest, part in rests]
        return _total([*training, *map(self._of_waiting, cells)])

    def _of_waiting(self, cell: int) -> float | None:
        mean = self._durations.mean(cell)
        whole = self._to_limit.value if mean is None else mean
        count = self._waiting[cell]
        return 0.0 if not count else None if whole is None else whole * count

    def _runs_of(self, cells: Collection[int]) -> list[Running]:
        return [one for cell in cells for one in self._training.get(cell, ())]

    def _part(self, one: Running) -> float:
        """Of its worker."""
        return 1 / self._mates[one.attempt.attempt.run_id]


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum; None if a part is not known."""
    total = 0.0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
