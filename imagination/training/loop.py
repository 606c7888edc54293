"""The trainer: R runs at once, the run being the first axis of every tensor; R = 1 is the plain case.

Runs of a pack share operations and nothing else. Each has its own random streams, step count, learning rate,
early stop and record; a run that ends leaves the pack, and the others go on in smaller tensors.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from imagination.recorder import Arrays, Recorder
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Optimizer, OptimizerConfig


class TrainingConfig(OptimizerConfig, Protocol):
    """The config keys that the loop reads."""

    @property
    def eval_every(self) -> int: ...
    @property
    def trace_every(self) -> int: ...
    @property
    def accuracy(self) -> float: ...


@dataclass(frozen=True)
class Forward:
    """One batch of every run.

    Attributes:
        loss: `[R]`, with gradient.
        accuracy: training accuracy of the batch, `[R]`.
    """

    loss: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What a finished run is worth: metrics (None where one does not exist) and boards for pictures."""

    metrics: Mapping[str, float | None]
    samples: Mapping[str, Arrays]


class Experiment(Protocol):
    """R runs of one kind. Parameters are `[R, P]`; no method lets one run's data reach another's results."""

    configs: list[Any]
    layout: ParameterLayout
    device: torch.device

    def select(self, kept: Sequence[int]) -> "Experiment":
        """The same experiment with these runs alone."""

    def initial_parameters(self) -> Tensor:
        """Fresh parameters `[R, P]`."""

    def initial_data(self) -> Tensor:
        """What the first batch is made of, `[R, ...]`."""

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Losses of the batch that `data` `[R, ...]` begins, in each run's step `steps` (int64 `[R]`, from 0)."""

    def next_data(self, forward: Forward, steps: Tensor) -> Tensor:
        """`data` of the batch of each run's step, `steps` int64 `[R]`."""

    def similarities(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """The traced values of a batch, by name, each `[R]`."""

    def evaluate(self, parameters: Tensor, *, check: Callable[[], None] = lambda: None) -> Evaluation:
        """Metrics and samples of a single finished run (R = 1). Calls `check` often; what it raises goes through."""


class Stopped(Exception):  # noqa: N818 - no error: somebody asked
    """Training was asked to stop."""


class CheckpointError(Exception):
    """A checkpoint does not fit its run, as after an update of this package.

    Attributes:
        index: the run's place in its pack.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass
class TrainState:
    """All that changes while R runs train; the first axis of every tensor is the run. A checkpoint is a row of it.

    Attributes:
        parameters: float32 `[R, P]`.
        mean: Adam's first moment, `[R, P]`.
        variance: Adam's second moment, `[R, P]`.
        data: the next batch' beginning, `[R, ...]`.
        step: updates done, int64 `[R]`.
        accuracy_sum: sum of the batches' training accuracies in this interval, float64 `[R]`.
        interval: batches in this interval, int64 `[R]`.
        seconds: each run's share of the training time, float64 `[R]`.
    """

    parameters: Tensor
    mean: Tensor
    variance: Tensor
    data: Tensor
    step: Tensor
    accuracy_sum: Tensor
    interval: Tensor
    seconds: Tensor

    @classmethod
    def initial(cls, experiment: Experiment) -> "TrainState":
        """The state before the first step."""
        parameters = experiment.initial_parameters()
        runs, device = parameters.shape[0], parameters.device
        return cls(
            parameters=parameters,
            mean=torch.zeros_like(parameters),
            variance=torch.zeros_like(parameters),
            data=experiment.initial_data(),
            step=torch.zeros(runs, dtype=torch.int64, device=device),
            accuracy_sum=torch.zeros(runs, dtype=torch.float64, device=device),
            interval=torch.zeros(runs, dtype=torch.int64, device=device),
            seconds=torch.zeros(runs, dtype=torch.float64, device=device),
        )

    def select(self, kept: Sequence[int]) -> "TrainState":
        """The state of the runs with these indices."""
        index = torch.tensor(kept, dtype=torch.int64, device=self.step.device)
        return TrainState(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def arrays(self, run: int) -> Arrays:
        """One run's row as numpy arrays: its checkpoint."""
        return {f.name: getattr(self, f.name)[run].cpu().numpy().copy() for f in fields(self)}

    def restore(self, run: int, arrays: Arrays) -> None:
        """Put a checkpoint into a row.

        Raises:
            CheckpointError: the checkpoint is of another kind or shape.
        """
        for f in fields(self):
            row = getattr(self, f.name)
            if f.name not in arrays or arrays[f.name].shape != row[run].shape:
                raise CheckpointError(f"the checkpoint's {f.name} is not this run's", index=run)
            row[run] = torch.from_numpy(np.asarray(arrays[f.name])).to(row)


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a pack: its config, where its results go, and a checkpoint to go on from."""

    config: Any
    recorder: Recorder
    checkpoint: Arrays | None = None


class Trainer:
    """Trains a pack until every run has ended or somebody asks to stop.

    Args:
        experiment: the runs' experiment, in the order of `runs`.
        runs: the pack.
        checkpoint_every_s: seconds between checkpoints.

    Raises:
        CheckpointError: a checkpoint does not fit its run.
    """

    def __init__(
        self, experiment: Experiment, runs: Sequence[Run], *, checkpoint_every_s: float = 60
    ) -> None:
        self._experiment = experiment
        self._runs = list(runs)
        self._checkpoint_every_s = checkpoint_every_s
        self._state = TrainState.initial(experiment)
        for index, run in enumerate(runs):
            if run.checkpoint is not None:
                self._state.restore(index, run.checkpoint)
        self._steps: list[int] = self._state.step.tolist()  # the same on the host: asking it costs no wait
        self._optimizer = Optimizer.of([run.config for run in runs], experiment.device)
        self._stop: Callable[[], bool] = lambda: False
        self._charged = time.perf_counter()

    def train(self, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train. True if every run ended; False if `stop` said so first, all open runs being checkpointed."""
        self._stop = stop
        self._charged = time.perf_counter()
        saved = time.monotonic()
        try:
            while True:
                self._end_intervals()
                if not self._runs:
                    return True
                self._check_stop()
                if time.monotonic() - saved > self._checkpoint_every_s:
                    self._checkpoint()
                    saved = time.monotonic()
                self._advance()
        except Stopped:
            self._checkpoint()
            return False

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped

    def _checkpoint(self) -> None:
        self._charge()
        for index, run in enumerate(self._runs):
            run.recorder.checkpoint(self._state.arrays(index))

    def _charge(self) -> None:
        """Share the time since the last charge among the runs. Call it where the host has waited for the device."""
        now = time.perf_counter()
        self._state.seconds += (now - self._charged) / len(self._runs)
        self._charged = now

    def _advance(self) -> None:
        """One step of every run."""
        state = self._state
        parameters = state.parameters.requires_grad_()
        forward = self._experiment.forward(parameters, state.data, state.step)
        (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
        state.parameters = parameters.detach()
        self._trace(forward)
        self._optimizer.update(
            state.parameters, gradient, mean=state.mean, variance=state.variance, steps=state.step
        )
        state.step += 1
        state.interval += 1
        state.accuracy_sum += forward.accuracy
        state.data = self._experiment.next_data(forward, state.step)
        self._steps = [step + 1 for step in self._steps]

    def _trace(self, forward: Forward) -> None:
        """Record the trace of the runs whose turn it is; the values are those before this step's update."""
        due = [i for i, run in enumerate(self._runs) if self._steps[i] % run.config.trace_every == 0]
        if not due:
            return
        similar = self._experiment.similarities(self._state.parameters, forward)
        values = {name: column.tolist() for name, column in similar.items()}
        self._charge()
        for index in due:
            now = {name: column[index] for name, column in values.items()}
            recorder = self._runs[index].recorder
            for name, value in now.items():
                recorder.trace(name, self._steps[index], value)
            recorder.progress(self._steps[index], now)

    def _end_intervals(self) -> None:
        """Ask the stopping rule of the runs whose interval ended, and let go of those that are done.

        Done twice at the same step it does nothing more, so a run that was stopped in its evaluation takes it up again.
        """
        if not any(self._may_end_interval(index) for index in range(len(self._runs))):
            return
        batches = self._state.interval.tolist()
        accuracies = (self._state.accuracy_sum / self._state.interval).tolist()
        finite = self._state.parameters.isfinite().all(1).tolist()
        self._charge()
        ended: dict[Run, tuple[str, float]] = {}
        for index, run in enumerate(self._runs):
            if batches[index] == 0 or not self._may_end_interval(index):
                continue
            outcome = _outcome(
                run.config, self._steps[index], accuracy=accuracies[index], is_finite=finite[index]
            )
            if outcome is None:
                self._state.accuracy_sum[index] = 0
                self._state.interval[index] = 0
            else:
                ended[run] = (outcome, accuracies[index])
        for run, (outcome, accuracy) in ended.items():
            self._finish(self._runs.index(run), outcome, accuracy=accuracy)
            self._charged = time.perf_counter()  # evaluation is no training time

    def _may_end_interval(self, index: int) -> bool:
        """At every multiple of `eval_every`, but for one so late that the last interval would be short."""
        config, step = self._runs[index].config, self._steps[index]
        left = config.max_steps - step
        return bool(left <= 0 or (step % config.eval_every == 0 and left >= config.eval_every))

    def _finish(self, index: int, outcome: str, *, accuracy: float) -> None:
        """Evaluate an ended run, hand over its record and let it go; if evaluation goes wrong it fails alone."""
        recorder = self._runs[index].recorder
        recorder.checkpoint(self._state.arrays(index))  # whatever follows can be repeated from here
        parameters = self._state.parameters[index : index + 1]
        try:
            evaluation = self._evaluate(index, parameters) if outcome != "diverged" else Evaluation({}, {})
        except Stopped:
            raise
        except Exception as error:
            recorder.fail(error)
        else:
            recorder.metric("train_accuracy", accuracy)
            recorder.metric("steps", self._steps[index])
            for name, value in evaluation.metrics.items():
                recorder.metric(name, value)
            for name, arrays in evaluation.samples.items():
                recorder.sample(name, arrays)
            named = self._experiment.layout.unpack(parameters)
            weights = {name: value[0].cpu().numpy() for name, value in named.items()}
            recorder.finish(outcome, seconds=float(self._state.seconds[index]), weights=weights)
        self._let_go(index)

    def _evaluate(self, index: int, parameters: Tensor) -> Evaluation:
        return self._experiment.select([index]).evaluate(parameters, check=self._check_stop)

    def _let_go(self, index: int) -> None:
        """Go on without this run."""
        kept = [other for other in range(len(self._runs)) if other != index]
        self._runs = [self._runs[other] for other in kept]
        self._steps = [self._steps[other] for other in kept]
        if kept:
            self._state = self._state.select(kept)
            self._experiment = self._experiment.select(kept)
            self._optimizer = Optimizer.of([run.config for run in self._runs], self._experiment.device)


def _outcome(config: TrainingConfig, step: int, *, accuracy: float, is_finite: bool) -> str | None:
    """Why a run ends after this interval, None if it goes on."""
    if not is_finite:
        return "diverged"
    if accuracy >= config.accuracy:
        return "reached"
    return "step_limit" if step >= config.max_steps else None
