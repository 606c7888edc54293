"""The runner of experiments that learn by gradient descent: the packed trainer."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
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

T = TypeVar("T")


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
        kind: type = type(configs[0])
        given = {"needs": needs} if schema.needs(kind) else {}
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
    def pace(
        self, configs: Sequence[Any], *, device: torch.device, within_s: float, end_s: float | None = None
    ) -> Pace | None:
        configs = _alone(configs)
        if not configs:
            return None
        memory.keep_freed()
        stages = self._stages(configs, device)
        groups = [Group(stage, TrainState.initial(stage), range(len(configs))) for stage in stages]
        step_s = _tried(
            lambda: tuple(_step_s(group, within_s / len(stages)) / len(configs) for group in groups)
        )
        if step_s is None or any(group.lacks_graphs for group in groups):
            return None
        return Pace(step_s, _end_s(stages[-1].select([0])) if end_s is None else end_s)

    @override
    def agrees(self, configs: Sequence[Any], *, device: torch.device) -> bool:
        configs = _alone(configs)
        if not gpu.choice() or not configs:
            return True
        return all(_agrees(stage) for stage in self._stages(configs, device))

    def _stages(self, configs: Sequence[Any], device: torch.device) -> list[Experiment]:
        stages: list[Experiment] = []
        following: Experiment | None = self.experiment(configs, device)
        while following is not None:
            stages.append(following)
            following = following.next_stage()
        return stages

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


def _alone(configs: Sequence[Any]) -> list[Any]:
    """The configs without what they build on, which changes no time of a step; none if they cannot train without it."""
    kind: type = type(configs[0])
    optional = dict.fromkeys(set(schema.needs(kind)) & set(schema.added(kind)), "")
    alone = [replace(config, **optional) for config in configs]
    return [] if any(getattr(config, key) for config in alone for key in schema.needs(kind)) else alone


def _end_s(alone: Experiment) -> float:
    """Seconds of an evaluation of this run."""
    weights = alone.layout.unpack(alone.initial_parameters())
    started = time.perf_counter()
    alone.evaluate(weights)
    return time.perf_counter() - started


_USUAL = 5
"""Steps that are measured at once, and before them steps in which libraries choose and build their kernels."""

_CLOSE, _CLOSE_ROUNDED = 0.01, 0.05
"""How far the gradients of a tensor may be apart, as a share of their norm: in float32, and in other precisions.

On a CPU they were at most 0.000002 apart with our kernels, and with bfloat16 0.04.
"""

_FLOOR, _FLOOR_ROUNDED = 0.0001, 0.001
"""How much further they may be apart, as a share of the norm of all tensors: some tensors have almost no gradient.

The smallest norm that we found was 0.004 (life_count, lstm2.hidden.weight), but for tensors without any gradient.
"""


def _agrees(stage: Experiment) -> bool:
    """Whether each tensor has the gradients in the ways that are chosen that PyTorch's own operations give.

    Each run's optimiser keeps a mean of them, which is compared. The parameters tell less: in the first steps, whose
    rates are low, the gradients move them by a thousandth.
    """
    with gpu.chosen(""):
        wanted = _mean_gradients(stage)
    found = _tried(lambda: _mean_gradients(stage))
    if found is None:
        return False
    exact = getattr(stage.configs[0], "precision", "float32") == "float32"
    close, floor = (_CLOSE, _FLOOR) if exact else (_CLOSE_ROUNDED, _FLOOR_ROUNDED)
    far, norms = _norms(stage, found - wanted), _norms(stage, wanted)
    near = bool((far <= close * norms + floor * torch.linalg.vector_norm(norms, dim=0)).all())
    if not near:
        log.warning("training with %s has other gradients here, so it is not measured", gpu.choice())
    return near


def _tried(act: Callable[[], T]) -> T | None:
    """What this gives; None: it fails in other ways than PyTorch's own. The log says why.

    Raises:
        Exception: there is too little memory, or it fails in PyTorch's own way.
    """
    try:
        return act()
    except Exception as error:  # a kernel may need more than this device has
        if memory.is_out_of_memory(error) or not gpu.choice():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("training with %s fails here, so it is not measured: %s", gpu.choice(), reason)
        return None


def _norms(stage: Experiment, values: Tensor) -> Tensor:
    """The norm `[tensors, R]` of each tensor of parameters."""
    return torch.stack([part.flatten(1).norm(dim=1) for part in stage.layout.unpack(values).values()])


def _mean_gradients(stage: Experiment) -> Tensor:
    """The running mean `[R, P]` of the gradients of a few steps. Graphs are captured in the fourth of them."""
    group = Group(stage, TrainState.initial(stage), range(len(stage.configs)))
    for _ in range(_USUAL):
        group.step()
    return group.state.mean


def _step_s(group: Group, within_s: float) -> float:
    """Seconds of a step of these runs. Where a step takes long, it and the one before it may be all.

    On a GPU, the steps in which kernels are built and graphs are captured do not count.
    """
    if group.experiment.device.type == "cuda":
        for _ in range(_USUAL):
            group.step()
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
