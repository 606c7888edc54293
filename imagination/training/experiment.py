"""What the trainer needs of an experiment: R runs, in one stage of their training."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
        carry: what `next_data` needs of this batch, `[R, ...]`.
        traced: computes the traced values by name, each `[R]`; call it before the parameters change.
        accuracy: training accuracy of the batch, `[R]`; None in a stage without a stopping rule.
    """

    loss: Tensor
    carry: Tensor
    traced: Callable[[], dict[str, Tensor]]
    accuracy: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a finished run (None where one does not exist) and its samples."""

    metrics: Mapping[str, float | None]
    samples: Mapping[str, Arrays]


class Experiment(Protocol):
    """R runs of one experiment. No method lets one run's data reach another run's results.

    In a padded pack runs differ in a width (`pads` in their config). The shapes of all are then those of the largest,
    and each run has zeros where its own network has no channels. Zeros must stay zeros in every step.

    Training has one or more stages. The stopping rule ends the first stage. A later stage ends after a fixed number
    of updates; its first columns of parameters are those of the stage before.

    Attributes:
        stage: number of this stage, from 0.
        configs: one per run.
        layout: names and shapes of one run's P parameters; of the widest run, if widths differ.
        device: the device of all tensors.
    """

    stage: int
    configs: list[Any]
    layout: ParameterLayout
    device: torch.device

    def select(self, kept: Sequence[int]) -> "Experiment":
        """The same stage, with these runs only."""

    def layout_of(self, run: int) -> ParameterLayout:
        """The layout of one run's own network, which `select` of this run alone has."""
        return self.layout

    def next_stage(self) -> "Experiment | None":
        """The stage that follows this one; None if this is the last."""
        return None

    def updates(self, config: Any) -> int:
        """The largest number of updates of a run in this stage."""

    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The optimiser of each group of parameters (columns of P). Columns in no group do not change."""

    def initial_parameters(self) -> Tensor:
        """Fresh parameters of runs with equal widths, float32 `[R, P]`."""

    def initial_data(self) -> Tensor:
        """The data from which `forward` makes the first batch, `[R, ...]`."""

    def products(self) -> AbstractContextManager[object]:
        """How products are rounded in a training step's forward and backward pass."""
        return nullcontext()

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Computes the batch made from `data` `[R, ...]`, in each run's step `steps` (int64 `[R]`, from 0)."""

    def next_data(self, carry: Tensor, steps: Tensor) -> Tensor:
        """The data of the next batch, from the `carry` of this one; `steps` (int64 `[R]`) are the next batch's."""

    def lots(self) -> Sequence[Sequence[int]]:
        """Which runs are evaluated together when all of them end: each run once, in as many lots as needed."""
        return [[run] for run in range(len(self.configs))]

    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Sequence[Evaluation]:
        """Metrics and samples of each run of one of the `lots`, now finished.

        Args:
            weights: the runs' parameters by name, each `[R, ...]`, of this stage or of a later one.
            check: called often; an exception that it raises ends the evaluation.
        """
