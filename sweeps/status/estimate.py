"""Estimates how long runs take, from the runs that have ended."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from imagination import registry
from imagination.pace import Pace
from imagination.schema import RunConfig, Scalar
from jobs.identity import canonical_json
from jobs.progress import Training, Where
from results_db.contract import State
from sweeps.spec.expand import Cell
from sweeps.status.past import PastRun

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd

_ALL = ""
"""The key of the values over all cells."""


def total_steps(config: Mapping[str, Scalar]) -> int:
    """The largest number of steps of a run; 0 if it is not known."""
    built: RunConfig = registry.rebuilt(config)
    return built.total_steps


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


class Estimate:
    """The steps and seconds that the cells' runs take, and the time left.

    Seconds are those of a worker's time, which runs that train together share. They are kept apart by where the runs
    trained (`Where`), because another device or pack size says nothing about them; steps are the same everywhere.
    All stored runs of `frame` that differ from a cell only in the seed and the sampled keys count as the cell's.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        frame: "pd.DataFrame | None" = None,
        past: Mapping[str, PastRun] | None = None,
    ) -> None:
        self._config_of: dict[str, str] = {}  # run id to its cell's config
        self._template: dict[str, Mapping[str, Scalar]] = {}
        for cell in cells:
            config = canonical_json(cell.config)
            self._config_of |= {run.run_id: config for run in cell.runs}
            self._template[config] = cell.template
        self._seconds: defaultdict[tuple[str, Where], _Mean] = defaultdict(_Mean)
        self._steps: defaultdict[str, list[float]] = defaultdict(list)
        if frame is not None:
            stored = frame[frame["state"] == State.COMPLETED]
            for keys in {tuple(cell.config) for cell in cells}:
                self._learn(stored, keys, past or {})

    def _learn(self, stored: "pd.DataFrame", keys: Sequence[str], past: Mapping[str, PastRun]) -> None:
        """Learns from the stored runs of the cells whose configs have these keys."""
        columns = stored.reindex(columns=[*keys, "run_id", "steps"]).dropna(subset=keys)
        for *values, run_id, steps in zip(*(columns[name].tolist() for name in columns), strict=True):
            config = canonical_json(dict(zip(keys, values, strict=True)))
            if config in self._template:
                self._add_steps(config, steps)
                if run_id in past:
                    self._add_seconds(config, past[run_id].seconds, past[run_id].where)

    def _add_steps(self, config: str, steps: float) -> None:
        if steps > 0:  # false for NaN
            for key in (config, _ALL):
                self._steps[key].append(steps)

    def _add_seconds(self, config: str, seconds: float, where: Where) -> None:
        for key in (config, _ALL):
            self._seconds[key, where].add(seconds)

    def ended(self, run_id: str, where: Where, *, seconds: float, steps: float) -> None:
        """Learns from a run that has just ended: its training time, and its metric `steps`."""
        self._add_steps(self._config_of[run_id], steps)
        self._add_seconds(self._config_of[run_id], seconds, where)

    def seconds(self, run_id: str, where: Where | None) -> float | None:
        """Mean seconds of the stored runs of the run's cell that trained there; None: unknown."""
        return None if where is None else self._seconds[self._config_of[run_id], where].value

    def paced(self, run_id: str, pace: Pace) -> tuple[float, bool]:
        """Seconds of a run at this pace, and whether they are the most that it can take.

        They are if no run of the sweep has ended yet, because then its steps are those of its limit.
        """
        config = self._config_of[run_id]
        seconds = pace.seconds(self._mean_first_steps(config), later=self._later_steps(config))
        return seconds, not self._ended_steps(config)

    def of_run(self, run: Training) -> float | None:
        """Seconds until a run ends, at its own speed; None: unknown.

        The run is expected to need as many steps as the mean of the stored runs that needed more than it has done.
        """
        left, config = self._steps_left(run), self._config_of[run.run_id]
        if run.steps_per_s:
            return left / run.steps_per_s
        whole = self._anywhere(config, run.where)
        return None if whole is None else whole * left / self._mean_steps(config) / run.share

    def left(
        self,
        training: Sequence[Training],
        waiting: Mapping[str, Where | None],
        *,
        workers: float | None = None,
    ) -> float | None:
        """Seconds until the last of these runs ends; None: unknown, or there are no runs.

        The workers share all of the work. Until a run has ended where another one waits, that one is expected to
        train as fast as those that train now.

        Args:
            training: runs that train.
            waiting: run id to where it will train (None: unknown), of runs that wait for a worker.
            workers: the number of workers; default: those that train now.
        """
        workers = workers or sum(run.share for run in training)
        if not workers or not (training or waiting):
            return None
        paces = [run.share / run.steps_per_s for run in training if run.steps_per_s]
        pace = fmean(paces) if paces else None  # a worker's seconds for a step of one run
        longest = work = 0.0
        for run in training:
            rest = self.of_run(run)
            if rest is None and pace is not None:  # it has just started
                rest = pace * self._steps_left(run) / run.share
            if rest is None:
                return None
            longest, work = max(longest, rest), work + rest * run.share
        alike = Counter((self._config_of[run_id], where) for run_id, where in waiting.items())
        for (config, where), runs in alike.items():
            whole = self._anywhere(config, where)
            if whole is None and pace is not None:
                whole = pace * self._mean_steps(config)
            if whole is None:
                return None
            work += whole * runs
        # A worker that ends early cannot help with the longest run.
        return max(longest, work / workers)

    def _anywhere(self, config: str, where: Where | None) -> float | None:
        """The mean seconds there over the cell, or over all cells if no run of the cell has ended there."""
        if where is None:
            return None
        own = self._seconds[config, where].value
        return self._seconds[_ALL, where].value if own is None else own

    def _ended_steps(self, config: str) -> Sequence[float]:
        """The steps of the first stage of the cell's stored runs, or of all cells' if there are none."""
        return self._steps.get(config) or self._steps[_ALL]

    def _later_steps(self, config: str) -> int:
        built: RunConfig = registry.rebuilt(self._template[config])
        return built.later_steps

    def _mean_first_steps(self, config: str) -> float:
        """The steps of its first stage that a run of the cell is expected to need: a mean run's, else its limit."""
        most = total_steps(self._template[config]) - self._later_steps(config)
        return fmean(self._ended_steps(config) or [max(most, 1)])

    def _mean_steps(self, config: str) -> float:
        """The same over all stages."""
        return self._mean_first_steps(config) + self._later_steps(config)

    def _steps_left(self, run: Training) -> float:
        config = self._config_of[run.run_id]
        ended = [steps + self._later_steps(config) for steps in self._ended_steps(config)]
        longer = [steps for steps in ended if steps > run.step] or [run.max_steps]
        return max(min(fmean(longer), run.max_steps) - run.step, 0)
