"""The runner of experiments that learn by gradient descent: the packed trainer."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from imagination import schema
from imagination.pace import Pace
from imagination.recorder import Arrays
from imagination.runner import Needed, Run, Runner
from imagination.training import gpu, memory
from imagination.training.experiment import Experiment
from imagination.training.group import Group
from imagination.training.loop import Trainer
from imagination.training.state import TrainState

log = logging.getLogger(__name__)


class GradientRunner(Runner):
    """Trains a pack with `Trainer`, which records `train_accuracy` and `steps` beside the metrics of an evaluation.

    Args:
        experiment: makes the first stage of these configs on a device: `experiment(configs, device)`. If the
            configs declare needs, it also gets `needs=[...]`: for each run, what it builds on by config key.
    """

    def __init__(self, experiment: Callable[..., Experiment]) -> None:
        self.experiment = experiment

    def _first_stage(
        self, configs: Sequence[Any], needs: Sequence[Mapping[str, Needed]], *, device: torch.device
    ) -> Experiment:
        given = {"needs": needs} if _declares_needs(configs) else {}
        return self.experiment(configs, device, **given)

    @override
    def train(
        self,
        runs: Sequence[Run],
        *,
        device: torch.device,
        stop: Callable[[], bool],
        checkpoint_every_s: float,
        slots: int | None = None,
    ) -> bool:
        experiment = self._first_stage(
            [run.config for run in runs], [run.needs for run in runs], device=device
        )
        trainer = Trainer(experiment, runs, slots=slots, checkpoint_every_s=checkpoint_every_s)
        return trainer.train(stop=stop)

    @override
    def pace(self, configs: Sequence[Any], *, device: torch.device, within_s: float) -> Pace | None:
        if _declares_needs(configs):  # they cannot train without what they build on
            return None
        memory.keep_freed()
        stages: list[Experiment] = []
        following: Experiment | None = self.experiment(configs, device)
        while following is not None:
            stages.append(following)
            following = following.next_stage()
        if not all(_agrees(stage) for stage in stages):
            return None
        groups = [Group(stage, TrainState.initial(stage), range(len(configs))) for stage in stages]
        step_s = tuple(_step_s(group, within_s / len(stages)) / len(configs) for group in groups)
        last = stages[-1].select([0])
        weights = last.layout.unpack(last.initial_parameters())
        started = time.perf_counter()
        last.evaluate(weights)
        return Pace(step_s, time.perf_counter() - started)

    @override
    def evaluate(
        self, config: Any, weights: Arrays, *, device: torch.device, needs: Mapping[str, Needed]
    ) -> Mapping[str, float | None] | None:
        experiment = self._first_stage([config], [needs], device=device)
        shapes = {name: value.shape for name, value in weights.items()}
        if not experiment.layout.shapes.items() <= shapes.items():  # a later stage has further weights
            return None
        tensors = {name: torch.from_numpy(value)[None].to(device) for name, value in weights.items()}
        (found,) = experiment.evaluate(tensors)
        return found.metrics


def _declares_needs(configs: Sequence[Any]) -> bool:
    kind: type = type(configs[0])
    return bool(schema.needs(kind))


_CLOSE = 1e-3


def _agrees(stage: Experiment) -> bool:
    """Whether steps in the ways that are chosen give the parameters that PyTorch's own operations give.

    The difference is below a thousandth of each run's parameters.
    """
    if not gpu.choice() or gpu.VARIABLE in os.environ:
        return True
    found = []
    for ways in (gpu.choice(), ""):
        with gpu.chosen(ways):
            group = Group(stage, TrainState.initial(stage), range(len(stage.configs)))
            for _ in range(_USUAL):
                group.step()
            found.append(group.state.parameters)
    near = torch.linalg.vector_norm(found[0] - found[1], dim=1) < _CLOSE * torch.linalg.vector_norm(
        found[1], dim=1
    )
    if not bool(near.all()):
        log.warning("training in the ways %s goes wrong here; they are not measured", gpu.choice())
    return bool(near.all())


_USUAL = 5
"""Steps that are measured at once, and before them steps in which libraries choose and build their kernels."""


def _step_s(group: Group, within_s: float) -> float:
    """Seconds of a step of these runs. Where a step takes long, it and the one before it may be all."""
    begun = time.perf_counter()

    def left_s() -> float:
        return begun + within_s - time.perf_counter()

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            group.step()
        group.state.step.tolist()  # waits for the device
        return time.perf_counter() - started

    last_s = seconds(1)
    for _ in range(_USUAL - 1):
        if left_s() > within_s / 2:
            last_s = seconds(1)
    at_once = min(max(int(left_s() / last_s), 1), _USUAL)
    found = [seconds(at_once)]
    while left_s() > found[-1]:
        found.append(seconds(at_once))
    return sum(found) / (len(found) * at_once)
