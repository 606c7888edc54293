"""The protocol by which the trainer hands over a run's results. Torch-free."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class Recorder(Protocol):
    """Receives the results of one run, and keeps them until it writes the run's record."""

    def trace(self, name: str, step: int, value: float) -> None:
        """Records a value of a training step. Steps come in ascending order."""

    def metric(self, name: str, value: float | None) -> None:
        """Records a value of the run, or None if the run has no such value."""

    def sample(self, name: str, arrays: Arrays) -> None:
        """Records a few arrays for figures, such as decoded boards."""

    def artifact(self, name: str, content: Arrays | bytes) -> None:
        """Keeps arrays, or a file, beside the store, such as the weights of an autoencoder or a picture.

        Args:
            name: of letters, digits and `_.-`. Of two artifacts with one name the later stays.
            content: named arrays, or the content of a file.
        """

    def checkpoint(self, state: Arrays) -> None:
        """Saves the training state and the traces so far, from which the run can continue exactly."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the run's step and traced values to the user. They are not part of the record."""

    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """Ends the run with its outcome, its share of the training time, and its final weights.

        The outcome is `reached`, `step_limit`, `given_up`, `diverged` (never kept), or another word of at most 16
        characters, a-z and _.
        """

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error; the other runs of its pack continue."""
