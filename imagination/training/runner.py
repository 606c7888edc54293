"""The runner of experiments that learn by gradient descent: the packed trainer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from imagination.recorder import Arrays
from imagination.runner import Run, Runner
from imagination.training.experiment import Experiment
from imagination.training.loop import Trainer


class GradientRunner(Runner):
    """Trains a pack with `Trainer`.

    Args:
        experiment: makes the first stage of these configs on a device.
    """

    def __init__(self, experiment: Callable[[Sequence[Any], torch.device], Experiment]) -> None:
        self.experiment = experiment

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
        experiment = self.experiment([run.config for run in runs], device)
        trainer = Trainer(experiment, runs, slots=slots, checkpoint_every_s=checkpoint_every_s)
        return trainer.train(stop=stop)

    @override
    def evaluate(
        self, config: Any, weights: Arrays, *, device: torch.device
    ) -> Mapping[str, float | None] | None:
        experiment = self.experiment([config], device)
        shapes = {name: value.shape for name, value in weights.items()}
        if not experiment.layout.shapes.items() <= shapes.items():  # a later stage has further weights
            return None
        tensors = {name: torch.from_numpy(value)[None].to(device) for name, value in weights.items()}
        return experiment.evaluate(tensors).metrics
