"""What the trainer trains: R runs of one experiment, in one stage of their training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from imagination.recorder import Arrays
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One training batch of every run.

    Attributes:
        loss: `[R]`, with gradient.
        accuracy: training accuracy of the batch, `[R]`; None in a stage that has no stopping rule.
    """

    loss: Tensor
    accuracy: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a finished run (None where one does not exist) and its samples."""

    metrics: Mapping[str, float | None]
    samples: Mapping[str, Arrays]


class Experiment(Protocol):
    """R runs of one experiment. No method lets one run's data reach another run's results.

    A run's training has one stage or more. The first (0) ends by the stopping rule. A later one begins with the
    parameters of the stage before it in its first columns, and ends after a fixed number of updates.

    Attributes:
        stage: number of this stage, from 0.
        configs: one per run.
        layout: names and shapes of one run's P parameters.
        device: the device of all tensors.
    """

    stage: int
    configs: list[Any]
    layout: ParameterLayout
    device: torch.device

    def select(self, kept: Sequence[int]) -> "Experiment":
        """The same stage of these runs alone."""

    def next_stage(self) -> "Experiment | None":
        """The stage that follows this one; None if this is the last."""
        return None

    def updates(self, config: Any) -> int:
        """The largest number of updates of a run in this stage."""

    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The optimiser of every group of parameters (columns of P); columns of no group stay as they are."""

    def initial_parameters(self) -> Tensor:
        """Fresh parameters, float32 `[R, P]`."""

    def initial_data(self) -> Tensor:
        """The data from which `forward` makes the first batch, `[R, ...]`."""

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Losses of the batch that `data` `[R, ...]` begins, in each run's step `steps` (int64 `[R]`, from 0)."""

    def next_data(self, forward: Forward, steps: Tensor) -> Tensor:
        """The data of the batch of each run's step, `steps` int64 `[R]`."""

    def traced(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """The traced values of a batch, by name, each `[R]`."""

    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Metrics and samples of a single finished run (R = 1).

        Args:
            weights: the run's parameters by name, each `[1, ...]`, of this stage or of a later one.
            check: called often; what it raises goes through.
        """
