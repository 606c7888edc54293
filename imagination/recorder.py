"""The protocol through which a run's results leave the trainer. Torch-free."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class Recorder(Protocol):
    """Receives the results of one run. It keeps all but `progress` until the run's record is written."""

    def trace(self, name: str, step: int, value: float) -> None:
        """Records a value of a training step; steps come in rising order."""

    def metric(self, name: str, value: float | None) -> None:
        """Records a value of the run; None where the run has no such value."""

    def sample(self, name: str, arrays: Arrays) -> None:
        """Records a few decoded boards for figures."""

    def checkpoint(self, state: Arrays) -> None:
        """Saves the training state, with the traces so far, so that the run can continue as if undisturbed."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the run's step and traced values to a user; may be dropped."""

    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """Ends the run with its outcome, its share of the training time, and its final parameters by name."""

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error; the other runs of its pack continue."""
