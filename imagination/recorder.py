"""The one way by which results leave the science: a recorder per run, implemented by whoever trains. Torch-free."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class Recorder(Protocol):
    """What the trainer tells about one run. All but `progress` must survive until the run's record is written."""

    def trace(self, name: str, step: int, value: float) -> None:
        """A value per training step; steps come in rising order."""

    def metric(self, name: str, value: float | None) -> None:
        """A value per run; None where it does not exist for this run."""

    def sample(self, name: str, arrays: Arrays) -> None:
        """A few decoded boards, kept for pictures."""

    def checkpoint(self, state: Arrays) -> None:
        """Everything from which training goes on as if it had not stopped, traces so far included."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Where the run stands, for a person who watches; may be dropped."""

    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """The run ended: `reached`, `step_limit` or `diverged`; its share of training time; its final weights."""

    def fail(self, error: BaseException) -> None:
        """The run alone went wrong; the others of its pack go on."""
