"""Estimates how long runs take, from the runs that have ended."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagination.schema import Scalar
from jobs.identity import canonical_json
from jobs.progress import Training
from results_db.contract import State
from sweeps.spec.expand import Cell

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd

_LEAST_SHARE = 0.05
"""A running run is expected to need at least this share of a mean run's time."""

_ALL = ""
"""The key of the means over all cells."""


def total_steps(config: Mapping[str, Scalar]) -> int:
    """A run's step limit: that of its training, and that of a post-hoc adversary."""
    return int(config.get("max_steps", 0)) + _adversary_steps(config)


def _adversary_steps(config: Mapping[str, Scalar]) -> int:
    return int(config.get("adv_steps", 0)) if config.get("gan") == "posthoc" else 0


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
    """Mean durations of the cells' runs, and the time left.

    Durations are in seconds of a worker's time. Runs that train together share each second. All stored runs of
    `frame` that differ from a cell only in the seed and the sampled keys count as the cell's.
    """

    def __init__(self, cells: Sequence[Cell], frame: "pd.DataFrame | None" = None) -> None:
        self._config_of: dict[str, str] = {}  # run id to its cell's config
        self._adversary_steps: dict[str, int] = {}
        for cell in cells:
            config = canonical_json(cell.config)
            self._config_of |= {run.run_id: config for run in cell.runs}
            self._adversary_steps[config] = _adversary_steps(cell.template)
        self._seconds: defaultdict[str, _Mean] = defaultdict(_Mean)
        self._steps: defaultdict[str, _Mean] = defaultdict(_Mean)
        if frame is not None:
            stored = frame[frame["state"] == State.COMPLETED]
            for keys in {tuple(cell.config) for cell in cells}:
                self._learn(stored, keys)

    def _learn(self, stored: "pd.DataFrame", keys: Sequence[str]) -> None:
        """Learns from the stored runs of the cells whose configs have these keys."""
        columns = stored.reindex(columns=[*keys, "seconds", "steps"]).dropna(subset=[*keys, "seconds"])
        for *values, seconds, steps in zip(*(columns[name].tolist() for name in columns), strict=True):
            config = canonical_json(dict(zip(keys, values, strict=True)))
            if config in self._adversary_steps:
                self._add(config, seconds, steps)

    def _add(self, config: str, seconds: float, steps: float | None) -> None:
        for key in (config, _ALL):
            self._seconds[key].add(seconds)
            if steps is not None and steps > 0:  # false for NaN
                self._steps[key].add(steps + self._adversary_steps[config])

    def ended(self, run_id: str, seconds: float, steps: float) -> None:
        """Learns from a run that has just ended: its training time, and its steps without the adversary's."""
        self._add(self._config_of[run_id], seconds, steps)

    def seconds(self, cell: Cell) -> float | None:
        """Mean seconds of the cell's stored runs; None without any."""
        return self._seconds[canonical_json(cell.config)].value

    def of_run(self, run: Training) -> float | None:
        """Seconds until a run ends; None: unknown. The run is expected to be a mean run, within its step limit."""
        mean = self._mean(self._seconds, run.run_id)
        if mean is None:
            return run.to_limit_s
        steps = self._mean(self._steps, run.run_id) or max(run.max_steps, 1)
        left = mean * max(1 - run.step / steps, _LEAST_SHARE) / run.share
        return left if run.to_limit_s is None else min(left, run.to_limit_s)

    def left(
        self, training: Sequence[Training], waiting: Collection[str], *, workers: float | None = None
    ) -> float | None:
        """Seconds until the last of these runs ends; None: unknown.

        The workers share all of the work. Until the first run has ended, a run that waits or has just started is
        expected to take as long as the mean training run needs to its step limit.

        Args:
            training: runs that train.
            waiting: ids of runs that wait for a worker.
            workers: the number of workers; default: those that train now.
        """
        workers = workers or sum(run.share for run in training)
        if not workers:
            return None if waiting else 0.0
        to_limit = _Mean()
        for run in training:
            if run.steps_per_s:
                to_limit.add(run.max_steps / run.steps_per_s * run.share)
        longest = work = 0.0
        for run in training:
            rest = self.of_run(run)
            if rest is None:  # it has just started
                if to_limit.value is None:
                    return None
                rest = to_limit.value / run.share
            longest, work = max(longest, rest), work + rest * run.share
        for run_id in waiting:
            mean = self._mean(self._seconds, run_id)
            mean = to_limit.value if mean is None else mean
            if mean is None:
                return None
            work += mean
        # A worker that ends early cannot help with the longest run.
        return max(longest, work / workers)

    def _mean(self, means: "defaultdict[str, _Mean]", run_id: str) -> float | None:
        """The mean over the run's cell, or over all cells if no run of its cell has ended."""
        own = means[self._config_of[run_id]].value
        return means[_ALL].value if own is None else own
