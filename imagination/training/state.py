"""The training state of R runs, and their checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from imagination.recorder import Arrays
from imagination.training.experiment import Experiment

_OF_PARAMETERS = ("parameters", "mean", "variance")
"""The tensors that have a column for each parameter."""


@dataclass
class TrainState:
    """Everything that changes while R runs train. The first axis is the run; a checkpoint is one run's row.

    Attributes:
        parameters: float32 `[R, P]`.
        mean: Adam's first moment, `[R, P]`.
        variance: Adam's second moment, `[R, P]`.
        data: what the next batch is made from, `[R, ...]`.
        stage: number of the run's stage, int64 `[R]`.
        step: updates done in this stage, int64 `[R]`.
        earlier: updates done in earlier stages, int64 `[R]`.
        accuracy_sum: sum of the training accuracies of the batches in this interval, float64 `[R]`.
        interval: number of batches in this interval, int64 `[R]`.
        seconds: each run's share of the training time, float64 `[R]`.
    """

    parameters: Tensor
    mean: Tensor
    variance: Tensor
    data: Tensor
    stage: Tensor
    step: Tensor
    earlier: Tensor
    accuracy_sum: Tensor
    interval: Tensor
    seconds: Tensor

    @classmethod
    def initial(cls, experiment: Experiment) -> "TrainState":
        """The state before the experiment's first step."""
        parameters = experiment.initial_parameters()
        runs, device = parameters.shape[0], parameters.device

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(runs, dtype=dtype, device=device)

        return cls(
            parameters=parameters,
            mean=torch.zeros_like(parameters),
            variance=torch.zeros_like(parameters),
            data=experiment.initial_data(),
            stage=zeros(torch.int64) + experiment.stage,
            step=zeros(torch.int64),
            earlier=zeros(torch.int64),
            accuracy_sum=zeros(torch.float64),
            interval=zeros(torch.int64),
            seconds=zeros(torch.float64),
        )

    def successor(self, experiment: Experiment) -> "TrainState":
        """The state in which this run begins the stage of `experiment`. Both have R = 1.

        Its trained parameters come first. The accuracy of the last interval and the seconds are kept.
        """
        begun = TrainState.initial(experiment)
        begun.parameters[:, : self.parameters.shape[1]] = self.parameters
        begun.earlier = self.earlier + self.step
        for name in ("accuracy_sum", "interval", "seconds"):
            setattr(begun, name, getattr(self, name))
        return begun

    @classmethod
    def joined(cls, states: Sequence["TrainState"]) -> "TrainState":
        """One state with the runs of several states, which have equal stages and shapes."""
        return cls(**{f.name: torch.cat([getattr(s, f.name) for s in states]) for f in fields(cls)})

    def select(self, kept: Sequence[int]) -> "TrainState":
        """The state of the runs with these indices."""
        index = torch.tensor(kept, dtype=torch.int64, device=self.step.device)
        return TrainState(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def put(self, row: int, other: "TrainState") -> None:
        """Copies the only run of another state into this row."""
        for f in fields(self):
            getattr(self, f.name)[row] = getattr(other, f.name)[0]

    def widened(self, columns: Tensor) -> "TrainState":
        """This state with its columns at `columns` (bool `[P]`) of P, and zeros at the others."""
        wide = {}
        for name in _OF_PARAMETERS:
            own: Tensor = getattr(self, name)
            wide[name] = own.new_zeros(len(own), len(columns))
            wide[name][:, columns] = own
        return replace(self, **wide)

    def narrowed(self, columns: Tensor) -> "TrainState":
        """This state with these columns (bool `[P]`) alone."""
        return replace(self, **{name: getattr(self, name)[:, columns] for name in _OF_PARAMETERS})

    def on_host(self) -> "TrainState":
        """This state in the host's memory."""
        return TrainState(**{f.name: getattr(self, f.name).cpu() for f in fields(self)})

    def arrays(self, run: int) -> Arrays:
        """One run's row as numpy arrays: its checkpoint."""
        return {f.name: getattr(self, f.name)[run].cpu().numpy().copy() for f in fields(self)}

    def restore(self, run: int, arrays: Arrays) -> None:
        """Replaces a run's row by a checkpoint.

        Raises:
            ValueError: the checkpoint lacks a tensor, or has one of another shape.
        """
        for f in fields(self):
            row = getattr(self, f.name)
            if f.name not in arrays or arrays[f.name].shape != row[run].shape:
                raise ValueError(f"{f.name} of the checkpoint does not fit this run")
            row[run] = torch.from_numpy(np.asarray(arrays[f.name])).to(row)
