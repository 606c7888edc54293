"""The trainer: trains R runs at once. The run is the first axis of every tensor.

Runs of a pack share operations and nothing else. Each has its own random streams, step count, learning rate,
early stop and record. The runs of each stage are a group, and the groups step in turn, so a run can train in its second
stage while others are still in their first. While runs that ended are evaluated, the others wait. Then the slots are
free, and the next runs of the pack begin there.

Between two events (a traced value, the end of an interval) the host starts steps and counts them. Everything else stays
on the device. At an event the host fetches all that it needs in one transfer.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagination.recorder import Arrays, Recorder
from imagination.runner import CheckpointError, Run
from imagination.training import graphs, memory
from imagination.training.config import TrainingConfig
from imagination.training.experiment import Evaluation, Experiment
from imagination.training.group import Group
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

    @property
    def has_begun(self) -> bool:
        """Whether it has trained before."""
        return self.stage > 0 or int(self.state.step) > 0


class Trainer:
    """Trains a pack until every run has ended or `stop` returns True.

    Args:
        experiment: the runs' experiment in its first stage, in the order of `runs`.
        runs: the pack.
        slots: how many of them train at once; None: all. The others wait for a free slot.
        checkpoint_every_s: seconds between checkpoints.

    Raises:
        CheckpointError: a checkpoint does not fit its run.
    """

    def __init__(
        self,
        experiment: Experiment,
        runs: Sequence[Run],
        *,
        slots: int | None = None,
        checkpoint_every_s: float = 60,
    ) -> None:
        self._pack, self._members = experiment, list(runs)
        self._checkpoint_every_s = checkpoint_every_s
        self._stop: Callable[[], bool] = lambda: False
        self._saved = self._charged = 0.0
        self._waiting = [self._entrance(place, run.checkpoint) for place, run in enumerate(runs)]
        self._groups: dict[int, Group] = {}  # by stage
        self._slots = self._wanted = min(slots or len(runs), len(runs))  # too little memory halves the slots

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
        whole = list(places) == list(range(len(self._members)))
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
        self._charged = time.perf_counter()
        try:
            while self._waiting:
                self._train_what_fits()
            if self._slots < self._wanted:
                log.warning(
                    "%d runs at a time fit into the memory: launch with --slots %d", *[self._slots] * 2
                )
            return True
        except Stopped:
            self._checkpoint()
            for entry in self._waiting:
                if entry.has_begun:
                    self._members[entry.place].recorder.checkpoint(entry.state.arrays(0))
            return False

    def _train_what_fits(self) -> None:
        """Trains until all runs have ended. If the memory does not suffice, all wait, and half of the slots remain."""
        try:
            self._train_all()
            return
        except (MemoryError, RuntimeError) as error:  # without a name below: its frames hold the tensors
            runs = min(
                self._slots, len(self._training()) + len(self._waiting)
            )  # also if they could not begin
            is_torn = any(group.is_torn for group in self._groups.values())
            if runs <= 1 or is_torn or not memory.is_out_of_memory(error):
                raise
        self._slots = (runs + 1) // 2
        log.warning("%d runs do not fit into the memory; %d at a time are tried", runs, self._slots)
        for group, row, place in self._training():
            self._waiting.append(_Waiting(place, group.experiment.stage, group.run(row)))
        self._groups = {}
        if self._pack.device.type == "cuda":
            torch.cuda.empty_cache()

    def _train_all(self) -> None:
        while True:
            self._fill()
            if not self._groups:
                return
            if self._end_intervals():
                continue  # there are free slots
            for _ in range(self._quiet_steps()):
                self._check_stop()
                if time.monotonic() - self._saved > self._checkpoint_every_s:
                    self._checkpoint()
                    self._saved = time.monotonic()
                self._advance()

    def _fill(self) -> None:
        """Begins or continues waiting runs in the free slots: those of later stages first, then in the pack's order.

        Then rows that are still free go.
        """
        waiting = sorted(self._waiting, key=lambda entry: (-entry.stage, entry.place))
        free = self._slots - len(self._training())
        entering = waiting[:free]
        if entering:
            self._charge()
        for stage in sorted({entry.stage for entry in entering}):
            self._enter(stage, {entry.place: entry.state for entry in entering if entry.stage == stage})
        self._groups = {stage: group.compacted() for stage, group in self._groups.items() if group.training}

    def _enter(self, stage: int, states: Mapping[int, TrainState]) -> None:
        """Lets waiting runs enter a stage, by place: in free rows of its group, or else in a new group."""
        group = self._groups.get(stage)
        seats = group.seats(list(states)) if group and graphs.keeps_rows(self._pack.device) else None
        if not (group and seats and group.admit(self._at_stage(seats, stage), seats, states)):
            rows = {place: group.run(row) for row, place in group.training} if group else {}
            rows |= states
            places = sorted(rows)  # in the pack's order, so that a stop and a resume change no row
            live = len(places)
            places += places[:1] * (graphs.rows(live, self._pack.device) - live)
            joining, free = [rows[place] for place in places], range(live, len(places))
            self._groups[stage] = Group.of(self._at_stage(places, stage), joining, places, free)
        # Only now, because memory may have been too little.
        self._waiting = [entry for entry in self._waiting if entry.place not in states]

    def _training(self) -> list[tuple[Group, int, int]]:
        """Group, row and place of each run that trains now."""
        return [(group, row, place) for group in self._groups.values() for row, place in group.training]

    def _quiet_steps(self) -> int:
        """How many steps until an interval may end."""
        return min(self._to_interval(*each) for each in self._training())

    def _to_interval(self, group: Group, row: int, place: int) -> int:
        config: TrainingConfig = self._members[place].config
        left = group.experiment.updates(config) - group.steps[row]
        return (
            left
            if group.experiment.stage
            else min(left, config.eval_every - group.steps[row] % config.eval_every)
        )

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped

    def _checkpoint(self) -> None:
        """Saves all runs between the same two steps, so that they continue together as they would have."""
        if not self._groups:
            return
        self._charge()
        for group in self._groups.values():
            state = group.state.on_host()
            for row, place in group.training:
                self._members[place].recorder.checkpoint(group.run(row, state=state).arrays(0))

    def _charge(self) -> None:
        """Divides the time since the last call among the runs. Call it after the host has waited for the device."""
        now = time.perf_counter()
        for group in self._groups.values():
            group.state.seconds += (now - self._charged) / max(len(self._training()), 1)
        self._charged = now

    def _advance(self) -> None:
        """Trains every run by one step."""
        for group in self._groups.values():
            due = [
                (row, self._members[place])
                for row, place in group.training
                if group.steps[row] % self._members[place].config.trace_every == 0
            ]
            values = group.step(traced=bool(due))
            if values is not None:
                self._trace(group, due, values.tolist())

    def _trace(self, group: Group, due: Sequence[tuple[int, Run]], values: list[list[float]]) -> None:
        """Records the values `[names][R]` from before the step just done, of the rows and runs that are due."""
        self._charge()
        for row, run in due:
            step = group.steps[row] - 1
            now = {name: value[row] for name, value in zip(group.names, values, strict=True)}
            now = {
                name: value for name, value in now.items() if math.isfinite(value)
            }  # a diverged loss has none
            for name, value in now.items():
                run.recorder.trace(name, step, value)
            run.recorder.progress(group.earlier[row] + step, now)

    def _end_intervals(self) -> bool:
        """Applies the stopping rule to the runs whose interval ended, and ends the stage of those that must stop.

        A second call at the same step changes nothing, so a run that was stopped during its evaluation can repeat it.

        Returns:
            Whether a stage ended.
        """
        ends = [self._end_intervals_of(group) for group in self._groups.values()]
        return any(ends)

    def _end_intervals_of(self, group: Group) -> bool:
        due = [(row, place) for row, place in group.training if self._may_end_interval(group, row, place)]
        if not due:
            return False
        first = group.experiment.stage == 0
        accuracies, are_finite, batches = group.intervals()
        self._charge()
        ended: dict[int, _End] = {}
        continued: list[int] = []
        for row, place in due:
            if batches[row] == 0:
                continue
            steps = group.steps[row] if first else group.earlier[row]
            config, is_finite = self._members[place].config, are_finite[row] or not first
            outcome = _outcome(config, steps, accuracy=accuracies[row], is_finite=is_finite)
            if outcome is None:
                continued.append(row)
            else:
                ended[row] = _End(outcome, accuracy=accuracies[row], steps=steps)
        group.begin_intervals(continued)
        self._end(group, ended)
        self._charged = time.perf_counter()  # evaluation does not count as training time
        return bool(ended)

    def _may_end_interval(self, group: Group, row: int, place: int) -> bool:
        """Whether a run's interval may end at this step.

        Intervals end every `eval_every` steps. If fewer steps would remain, the last interval continues to
        `max_steps`. A later stage has one interval.
        """
        config, step = self._members[place].config, group.steps[row]
        left = group.experiment.updates(config) - step
        if group.experiment.stage:
            return bool(left <= 0)
        return bool(left <= 0 or (step % config.eval_every == 0 and left >= config.eval_every))

    def _end(self, group: Group, ended: Mapping[int, _End]) -> None:
        """Ends the stage of these rows: each waits for the next stage, or is evaluated and recorded."""
        finished: dict[int, _End] = {}
        for row, end in ended.items():
            hopeless = end.outcome in (DIVERGED, GIVEN_UP)
            following = None if hopeless else group.experiment.select([row]).next_stage()
            if following is None:
                finished[row] = end
                continue
            place, state = group.places[row], group.run(row).successor(following)
            self._members[place].recorder.checkpoint(state.arrays(0))
            self._waiting.append(_Waiting(place, following.stage, state))
            group.free.add(row)  # nothing may fail between these two lines
        self._finish(group, finished)

    def _finish(self, group: Group, ended: Mapping[int, _End]) -> None:
        """Evaluates and records runs that ended together; an error in a run's evaluation fails only this run."""
        places = {row: place for row, place in group.training if row in ended}
        states = {row: group.run(row) for row in places}
        for row, place in places.items():
            self._members[place].recorder.checkpoint(states[row].arrays(0))  # for a stopped evaluation
        for row, found in self._evaluations(group, {row: ended[row] for row in places}):
            _record(
                self._members[places[row]].recorder,
                ended[row],
                found,
                seconds=float(states[row].seconds),
                weights=group.experiment.layout_of(row).unpack(states[row].parameters),
            )
            group.free.add(row)

    def _evaluations(
        self, group: Group, ended: Mapping[int, _End]
    ) -> Iterator[tuple[int, Evaluation | Exception]]:
        """Row and evaluation of each run, lot by lot, so that a stop between two lots loses nothing."""
        rows = [row for row, end in ended.items() if end.outcome != DIVERGED]
        yield from ((row, Evaluation({}, {})) for row in ended if row not in rows)
        for lot in group.experiment.select(rows).lots() if rows else ():
            yield from self._evaluated(group, [rows[index] for index in lot]).items()

    def _evaluated(self, group: Group, rows: Sequence[int]) -> dict[int, Evaluation | Exception]:
        """The evaluation of each row, or its error. After an error of several, each half is evaluated again."""
        experiment, state = group.part(rows)
        try:
            evaluations = experiment.evaluate(
                experiment.layout.unpack(state.parameters), check=self._check_stop
            )
            return dict(zip(rows, evaluations, strict=True))
        except Stopped:
            raise
        except Exception as error:
            if len(rows) == 1:
                traceback.clear_frames(error.__traceback__)  # they hold tensors
                return {rows[0]: error}
            log.warning("%d runs could not be evaluated together, each half is tried: %s", len(rows), error)
        middle = len(rows) // 2
        return {**self._evaluated(group, rows[:middle]), **self._evaluated(group, rows[middle:])}


def _record(
    recorder: Recorder,
    end: _End,
    found: Evaluation | Exception,
    *,
    seconds: float,
    weights: Mapping[str, Tensor],
) -> None:
    """Records how a run ended.

    Args:
        recorder: the run's.
        end: how its first stage ended.
        found: its evaluation, or the error in it.
        seconds: its share of the training time.
        weights: its parameters by name, each `[1, ...]`.
    """
    if isinstance(found, Exception):
        recorder.fail(found)
        return
    recorder.metric("train_accuracy", end.accuracy)
    recorder.metric("steps", end.steps)
    for name, value in found.metrics.items():
        recorder.metric(name, value)
    for name, arrays in found.samples.items():
        recorder.sample(name, arrays)
    recorder.finish(
        end.outcome,
        seconds=seconds,
        weights={name: value[0].cpu().numpy() for name, value in weights.items()},
    )


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
