"""The runner of experiments that learn by gradient descent: the packed trainer."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from imagination import schema
from imagination.pace import Pace
from imagination.recorder import Arrays
from imagination.runner import Needed, Run, Runner
from imagination.training import memory
from imagination.training.experiment import Experiment
from imagination.training.group import Group
from imagination.training.loop import Trainer
from imagination.training.state import TrainState


class GradientRunner(Runner):
    """Trains a pack with `Trainer`.

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
        return experiment.evaluate(tensors).metrics


def _declares_needs(configs: Sequence[Any]) -> bool:
    kind: type = type(configs[0])
    return bool(schema.needs(kind))


_AT_LEAST = 5
"""Steps that are measured, and before them steps in which libraries choose and build their kernels."""


def _step_s(group: Group, within_s: float) -> float:
    """Seconds of a step of these runs."""

    def some() -> None:
        for _ in range(_AT_LEAST):
            group.step()
        group.state.step.tolist()  # waits for the device

    some()
    started, times = time.perf_counter(), 0
    while not times or time.perf_counter() - started < within_s:
        some()
        times += 1
    return (time.perf_counter() - started) / (times * _AT_LEAST)
