"""The trainer: trains R runs at once. The run is the first axis of every tensor.

Runs of a pack share operations and nothing else. Each has its own random streams, step count, learning rate,
early stop and record. When a run's stage ends, the run is removed from the tensors and the others continue. When all
stages have ended, the runs that have a next stage train it together.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from imagination.recorder import Arrays
from imagination.runner import CheckpointError, Run
from imagination.training import memory
from imagination.training.config import TrainingConfig
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.state import TrainState

DIVERGED, GIVEN_UP = "diverged", "given_up"


class Stopped(Exception):  # noqa: N818 - not an error
    """Training was asked to stop."""


@dataclass(frozen=True)
class _End:
    """How a run's first stage ended."""

    outcome: str
    accuracy: float
    steps: int


@dataclass(frozen=True)
class _Waiting:
    """A run that waits to begin or continue a stage.

    Attributes:
        place: the run's place in the pack.
        stage: number of the stage.
        state: the run's state in that stage, `[1, ...]`.
    """

    place: int
    stage: int
    state: TrainState


class Trainer:
    """Trains a pack until every run has ended or `stop` returns True.

    Args:
        experiment: the runs' experiment in its first stage, in the order of `runs`.
        runs: the pack.
        checkpoint_every_s: seconds between checkpoints.

    Raises:
        CheckpointError: a checkpoint does not fit its run.
    """

    def __init__(
        self, experiment: Experiment, runs: Sequence[Run], *, checkpoint_every_s: float = 60
    ) -> None:
        self._pack, self._members = experiment, list(runs)
        self._checkpoint_every_s = checkpoint_every_s
        self._stop: Callable[[], bool] = lambda: False
        self._saved = self._charged = 0.0
        self._waiting = [self._entrance(place, run.checkpoint) for place, run in enumerate(runs)]
        self._places: list[int] = []  # of the runs that train now

    def _entrance(self, place: int, checkpoint: Arrays | None) -> _Waiting:
        """The stage and state in which a run begins, or continues from its checkpoint."""
        if checkpoint is None:
            return _Waiting(place, 0, TrainState.initial(self._pack.select([place])))
        stage = int(checkpoint.get("stage", 0))
        try:
            state = TrainState.initial(self._at_stage([place], stage))
            state.restore(0, checkpoint)
        except ValueError as error:
            raise CheckpointError(str(error), index=place) from None
        return _Waiting(place, stage, state)

    def _at_stage(self, places: Sequence[int], stage: int) -> Experiment:
        """The experiment of these runs in a stage.

        Raises:
            ValueError: the experiment has no such stage.
        """
        whole = len(places) == len(self._members)
        experiment: Experiment | None = self._pack if whole else self._pack.select(places)
        for _ in range(stage):
            experiment = experiment.next_stage() if experiment is not None else None
        if experiment is None:
            raise ValueError(f"the checkpoint is of stage {stage}, which this run does not have")
        return experiment

    def train(self, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Trains the pack. True if every run ended; False if `stop` ended it and the open runs have checkpoints."""
        self._stop = stop
        memory.keep_freed()
        self._saved = time.monotonic()
        try:
            while self._waiting:
                self._begin_stage()
                self._train_stage()
            return True
        except Stopped:
            self._checkpoint()
            for entry in self._waiting:
                self._members[entry.place].recorder.checkpoint(entry.state.arrays(0))
            return False

    def _begin_stage(self) -> None:
        """Begins the earliest stage that runs wait for, with all runs that wait for it."""
        stage = min(entry.stage for entry in self._waiting)
        entering = [entry for entry in self._waiting if entry.stage == stage]
        entering.sort(key=lambda entry: entry.place)  # in the pack's order
        self._waiting = [entry for entry in self._waiting if entry.stage != stage]
        self._places = [entry.place for entry in entering]
        self._experiment = self._at_stage(self._places, stage)
        self._state = TrainState.joined([entry.state for entry in entering])
        self._optimizers = self._experiment.optimizers()
        self._steps: list[int] = self._state.step.tolist()  # on the host, so that no read waits
        self._charged = time.perf_counter()

    def _train_stage(self) -> None:
        while True:
            self._end_intervals()
            if not self._places:
                return
            self._check_stop()
            if time.monotonic() - self._saved > self._checkpoint_every_s:
                self._checkpoint()
                self._saved = time.monotonic()
            self._advance()

    @property
    def _runs(self) -> list[Run]:
        """The runs that train now, in the order of the tensors' rows."""
        return [self._members[place] for place in self._places]

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped

    def _checkpoint(self) -> None:
        if not self._places:
            return
        self._charge()
        for index, run in enumerate(self._runs):
            run.recorder.checkpoint(self._state.arrays(index))

    def _charge(self) -> None:
        """Divides the time since the last call among the runs. Call it after the host has waited for the device."""
        now = time.perf_counter()
        self._state.seconds += (now - self._charged) / len(self._places)
        self._charged = now

    def _advance(self) -> None:
        """Trains every run by one step."""
        state = self._state
        parameters = state.parameters.requires_grad_()
        forward = self._experiment.forward(parameters, state.data, state.step)
        (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
        state.parameters = parameters.detach()
        self._trace(forward)
        for columns, optimizer in self._optimizers:
            optimizer.update(
                state.parameters[:, columns],
                gradient[:, columns],
                mean=state.mean[:, columns],
                variance=state.variance[:, columns],
                steps=state.step,
            )
        state.step += 1
        if forward.accuracy is not None:  # a later stage keeps the accuracy of the first stage's end
            state.interval += 1
            state.accuracy_sum += forward.accuracy
        state.data = self._experiment.next_data(forward.carry, state.step)
        self._steps = [step + 1 for step in self._steps]

    def _trace(self, forward: Forward) -> None:
        """Records the traced values of the runs that are due. Call it before this step's update."""
        runs = self._runs
        due = [i for i, run in enumerate(runs) if self._steps[i] % run.config.trace_every == 0]
        if not due:
            return
        with torch.no_grad():
            values = {name: column.tolist() for name, column in forward.traced().items()}
        earlier = self._state.earlier.tolist()
        self._charge()
        for index in due:
            # A diverged loss has no value.
            now = {name: column[index] for name, column in values.items() if math.isfinite(column[index])}
            recorder = runs[index].recorder
            for name, value in now.items():
                recorder.trace(name, self._steps[index], value)
            recorder.progress(earlier[index] + self._steps[index], now)

    def _end_intervals(self) -> None:
        """Applies the stopping rule to the runs whose interval ended, and ends the stage of those that must stop.

        A second call at the same step changes nothing, so a run that was stopped during its evaluation can repeat it.
        """
        due = [index for index in range(len(self._places)) if self._may_end_interval(index)]
        if not due:
            return
        state, first = self._state, self._experiment.stage == 0
        batches = state.interval.tolist()
        accuracies = (state.accuracy_sum / state.interval).tolist()
        finite = state.parameters.isfinite().all(1).tolist()
        earlier = state.earlier.tolist()
        self._charge()
        ended: dict[int, _End] = {}
        for index in due:
            if batches[index] == 0:
                continue
            steps = self._steps[index] if first else earlier[index]
            config, accuracy = self._runs[index].config, accuracies[index]
            outcome = _outcome(config, steps, accuracy=accuracy, is_finite=finite[index] or not first)
            if outcome is None:
                state.accuracy_sum[index] = 0
                state.interval[index] = 0
            else:
                ended[self._places[index]] = _End(outcome, accuracy=accuracy, steps=steps)
        for place, end in ended.items():
            self._end(self._places.index(place), end)
            self._charged = time.perf_counter()  # evaluation does not count as training time

    def _may_end_interval(self, index: int) -> bool:
        """Whether a run's interval may end at this step.

        Intervals end every `eval_every` steps. If fewer steps would remain, the last interval continues to
        `max_steps`. A later stage has one interval.
        """
        config, step = self._runs[index].config, self._steps[index]
        left = self._experiment.updates(config) - step
        if self._experiment.stage:
            return bool(left <= 0)
        return bool(left <= 0 or (step % config.eval_every == 0 and left >= config.eval_every))

    def _end(self, index: int, end: _End) -> None:
        """Ends a run's stage: the run waits for the next stage, or is evaluated and recorded."""
        alone = self._experiment.select([index])
        hopeless = end.outcome in (DIVERGED, GIVEN_UP)
        following = None if hopeless else alone.next_stage()
        if following is None:
            self._finish(index, end, alone)
        else:
            state = self._state.successor(index, following)
            self._waiting.append(_Waiting(self._places[index], following.stage, state))
            self._runs[index].recorder.checkpoint(state.arrays(0))
        self._remove(index)

    def _finish(self, index: int, end: _End, alone: Experiment) -> None:
        """Evaluates an ended run and records it; an error in the evaluation fails only this run."""
        recorder = self._runs[index].recorder
        recorder.checkpoint(self._state.arrays(index))  # a stopped evaluation begins again here
        weights = self._experiment.layout.unpack(self._state.parameters[index : index + 1])
        try:
            evaluation = Evaluation({}, {})
            if end.outcome != DIVERGED:
                evaluation = alone.evaluate(weights, check=self._check_stop)
        except Stopped:
            raise
        except Exception as error:
            recorder.fail(error)
            return
        recorder.metric("train_accuracy", end.accuracy)
        recorder.metric("steps", end.steps)
        for name, value in evaluation.metrics.items():
            recorder.metric(name, value)
        for name, arrays in evaluation.samples.items():
            recorder.sample(name, arrays)
        recorder.finish(
            end.outcome,
            seconds=float(self._state.seconds[index]),
            weights={name: value[0].cpu().numpy() for name, value in weights.items()},
        )

    def _remove(self, index: int) -> None:
        """Removes a run from the tensors."""
        kept = [other for other in range(len(self._places)) if other != index]
        self._places = [self._places[other] for other in kept]
        self._steps = [self._steps[other] for other in kept]
        if kept:
            self._state = self._state.select(kept)
            self._experiment = self._experiment.select(kept)
            self._optimizers = self._experiment.optimizers()


def _outcome(config: TrainingConfig, step: int, *, accuracy: float, is_finite: bool) -> str | None:
    """Why a run ends after this interval; None if it continues."""
    if not is_finite:
        return DIVERGED
    if accuracy >= config.accuracy:
        return "reached"
    if step >= config.max_steps:
        return "step_limit"
    hopeless = 0 < config.give_up_at <= step and accuracy < config.give_up_accuracy
    return GIVEN_UP if hopeless else None
