"""The trainer: trains R runs at once. The run is the first axis of every tensor.

Runs of a pack share operations and nothing else. Each has its own random streams, step count, learning rate,
early stop and record. When a run's stage ends, the others continue. When all stages have ended, the runs that have a
next stage train it together.

Between two events (a traced value, the end of an interval) the host only starts steps: everything else stays on the
device, and an event fetches what it needs at once.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagination.recorder import Arrays, Recorder
from imagination.runner import CheckpointError, Run
from imagination.training import graphs, memory
from imagination.training.config import TrainingConfig
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.state import TrainState

log = logging.getLogger(__name__)

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
        self._places: list[int | None] = []  # by row of the tensors: the run's place; None if it has ended
        self._most = len(runs)  # that train at once; too little memory halves it
        self._is_torn = False  # while the state is between two steps

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
                self._train_what_fits()
            if self._most < len(self._members):
                log.warning(
                    "%d runs at a time fit into the memory: launch with --pack-size %d", *[self._most] * 2
                )
            return True
        except Stopped:
            self._checkpoint()
            for entry in self._waiting:
                self._members[entry.place].recorder.checkpoint(entry.state.arrays(0))
            return False

    def _begin_stage(self) -> None:
        """Begins the earliest stage that runs wait for, with all runs that wait for it, as far as they fit."""
        stage = min(entry.stage for entry in self._waiting)
        entering = [entry for entry in self._waiting if entry.stage == stage]
        entering.sort(key=lambda entry: entry.place)  # in the pack's order
        entering = entering[: self._most]
        self._waiting = [entry for entry in self._waiting if entry not in entering]
        places = [entry.place for entry in entering]
        self._places = list(places)
        # On the host, so that no read waits.
        self._steps: list[int] = [int(entry.state.step) for entry in entering]
        self._earlier: list[int] = [int(entry.state.earlier) for entry in entering]
        self._take(self._at_stage(places, stage), TrainState.joined([entry.state for entry in entering]))
        self._charged = time.perf_counter()

    def _take(self, experiment: Experiment, state: TrainState) -> None:
        """Trains these rows from now on."""
        self._experiment, self._state = experiment, state
        self._optimizers = experiment.optimizers()
        self._graphs = graphs.Graphs(experiment.device)

    def _train_what_fits(self) -> None:
        """Trains the stage. If the memory does not suffice, half of its runs wait until the others have ended."""
        try:
            self._train_stage()
            return
        except (MemoryError, RuntimeError) as error:  # without a name below: its frames hold the tensors
            runs = len(self._training())
            if runs == 1 or self._is_torn or not memory.is_out_of_memory(error):
                raise
        self._most = (runs + 1) // 2
        log.warning("%d runs do not fit into the memory; %d at a time are tried", runs, self._most)
        stage = self._experiment.stage
        for row, place in self._training():
            self._waiting.append(_Waiting(place, stage, self._state.select([row])))
        self._places = []
        self._graphs = graphs.Graphs(self._experiment.device)
        if self._experiment.device.type == "cuda":
            torch.cuda.empty_cache()

    def _train_stage(self) -> None:
        while True:
            self._end_intervals()
            if not self._training():
                return
            for _ in range(self._quiet_steps()):
                self._check_stop()
                if time.monotonic() - self._saved > self._checkpoint_every_s:
                    self._checkpoint()
                    self._saved = time.monotonic()
                self._advance()

    def _training(self) -> list[tuple[int, int]]:
        """Row and place of each run that trains now."""
        return [(row, place) for row, place in enumerate(self._places) if place is not None]

    def _quiet_steps(self) -> int:
        """How many steps until an interval may end."""
        return min(self._to_interval(row, self._members[place].config) for row, place in self._training())

    def _to_interval(self, row: int, config: TrainingConfig) -> int:
        left = self._experiment.updates(config) - self._steps[row]
        return (
            left
            if self._experiment.stage
            else min(left, config.eval_every - self._steps[row] % config.eval_every)
        )

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped

    def _checkpoint(self) -> None:
        if not self._training():
            return
        self._charge()
        state = self._state.on_host()
        for row, place in self._training():
            self._members[place].recorder.checkpoint(state.arrays(row))

    def _charge(self) -> None:
        """Divides the time since the last call among the runs. Call it after the host has waited for the device."""
        now = time.perf_counter()
        self._state.seconds += (now - self._charged) / len(self._training())
        self._charged = now

    def _advance(self) -> None:
        """Trains every run by one step."""
        due = [
            (row, self._members[place])
            for row, place in self._training()
            if self._steps[row] % self._members[place].config.trace_every == 0
        ]
        values = self._graphs.run(self._update, traced=bool(due))
        if values is not None:
            self._trace(due, values.tolist())
        self._steps = [step + 1 for step in self._steps]

    def _update(self, traced: bool) -> Tensor | None:
        """The device's work of a step. With `traced` the traced values from before the update, float64 `[names, R]`.

        All tensors of the state stay where they are.
        """
        state = self._state
        parameters = state.parameters.detach().requires_grad_()
        with self._experiment.products():
            forward = self._experiment.forward(parameters, state.data, state.step)
            (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
        values = self._traced(forward) if traced else None
        self._is_torn = True
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
        state.data.copy_(self._experiment.next_data(forward.carry, state.step))
        self._is_torn = False
        return values

    @torch.no_grad()
    def _traced(self, forward: Forward) -> Tensor:
        named = forward.traced()
        self._names = list(named)
        return torch.stack([value.double() for value in named.values()])

    def _trace(self, due: Sequence[tuple[int, Run]], values: list[list[float]]) -> None:
        """Records the traced values `[names][R]` of the rows and runs that are due."""
        self._charge()
        for row, run in due:
            now = {name: value[row] for name, value in zip(self._names, values, strict=True)}
            now = {
                name: value for name, value in now.items() if math.isfinite(value)
            }  # a diverged loss has none
            for name, value in now.items():
                run.recorder.trace(name, self._steps[row], value)
            run.recorder.progress(self._earlier[row] + self._steps[row], now)

    def _end_intervals(self) -> None:
        """Applies the stopping rule to the runs whose interval ended, and ends the stage of those that must stop.

        A second call at the same step changes nothing, so a run that was stopped during its evaluation can repeat it.
        """
        due = [(row, place) for row, place in self._training() if self._may_end_interval(row, place)]
        if not due:
            return
        state, first = self._state, self._experiment.stage == 0
        accuracy, finite = state.accuracy_sum / state.interval, state.parameters.isfinite().all(1)
        accuracies, are_finite, batches = torch.stack(
            [accuracy, finite.double(), state.interval.double()]
        ).tolist()
        self._charge()
        ended: dict[int, _End] = {}
        continued: list[int] = []
        for row, place in due:
            if batches[row] == 0:
                continue
            steps = self._steps[row] if first else self._earlier[row]
            config, is_finite = self._members[place].config, bool(are_finite[row]) or not first
            outcome = _outcome(config, steps, accuracy=accuracies[row], is_finite=is_finite)
            if outcome is None:
                continued.append(row)
            else:
                ended[row] = _End(outcome, accuracy=accuracies[row], steps=steps)
        state.accuracy_sum[continued] = 0
        state.interval[continued] = 0
        for row, end in ended.items():
            self._end(row, end)
            self._charged = time.perf_counter()  # evaluation does not count as training time
        self._compact()

    def _may_end_interval(self, row: int, place: int) -> bool:
        """Whether a run's interval may end at this step.

        Intervals end every `eval_every` steps. If fewer steps would remain, the last interval continues to
        `max_steps`. A later stage has one interval.
        """
        config, step = self._members[place].config, self._steps[row]
        left = self._experiment.updates(config) - step
        if self._experiment.stage:
            return bool(left <= 0)
        return bool(left <= 0 or (step % config.eval_every == 0 and left >= config.eval_every))

    def _end(self, row: int, end: _End) -> None:
        """Ends a run's stage: the run waits for the next stage, or is evaluated and recorded."""
        place = self._places[row]
        assert place is not None
        recorder = self._members[place].recorder
        alone = self._experiment.select([row])
        hopeless = end.outcome in (DIVERGED, GIVEN_UP)
        following = None if hopeless else alone.next_stage()
        if following is None:
            self._finish(row, end, alone=alone, recorder=recorder)
        else:
            state = self._state.successor(row, following)
            self._waiting.append(_Waiting(place, following.stage, state))
            recorder.checkpoint(state.arrays(0))
        self._places[row] = None

    def _finish(self, row: int, end: _End, *, alone: Experiment, recorder: Recorder) -> None:
        """Evaluates an ended run and records it; an error in the evaluation fails only this run."""
        recorder.checkpoint(self._state.arrays(row))  # a stopped evaluation begins again here
        weights = self._experiment.layout.unpack(self._state.parameters[row : row + 1])
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
            seconds=float(self._state.seconds[row]),
            weights={name: value[0].cpu().numpy() for name, value in weights.items()},
        )

    def _compact(self) -> None:
        """Removes rows of ended runs from the tensors."""
        training = [row for row, _ in self._training()]
        ended = [row for row, place in enumerate(self._places) if place is None]
        wanted = graphs.rows(len(training), self._experiment.device) if training else 0
        if not training or wanted >= len(self._places):
            return
        kept = sorted(training + ended[: wanted - len(training)])
        self._places = [self._places[row] for row in kept]
        self._steps = [self._steps[row] for row in kept]
        self._earlier = [self._earlier[row] for row in kept]
        self._take(self._experiment.select(kept), self._state.select(kept))


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
