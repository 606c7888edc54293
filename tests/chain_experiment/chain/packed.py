"""Runs of one pack learn the numbers of the source that they share, by gradient descent."""

import numpy as np
import torch

from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.runner import GradientRunner


class Descent:
    def update(self, parameters, gradient, *, mean, variance, steps):
        parameters.sub_(4 * gradient)


class Fit(Experiment):
    stage = 0

    def __init__(self, configs, device, *, needs):
        self.configs, self.device, self._needs = list(configs), device, list(needs)
        numbers = [need["source"].arrays("numbers")["numbers"] for need in needs]
        self._numbers = torch.tensor(np.stack(numbers), dtype=torch.float32, device=device)
        self.layout = ParameterLayout({"guess": (self._numbers.shape[1],)})

    def select(self, kept):
        return Fit([self.configs[i] for i in kept], self.device, needs=[self._needs[i] for i in kept])

    def updates(self, config):
        return config.max_steps

    def optimizers(self):
        return [(slice(0, self.layout.size), Descent())]

    def initial_parameters(self):
        return torch.zeros_like(self._numbers)

    def initial_data(self):
        return torch.zeros(len(self.configs), 1, device=self.device)

    def forward(self, parameters, data, steps):
        loss = (parameters - self._numbers).square().mean(1)
        return Forward(loss=loss, carry=data, traced=lambda: {"loss": loss}, accuracy=(loss < 1e-6).float())

    def next_data(self, carry, steps):
        return carry

    def evaluate(self, weights, *, check=lambda: None):
        return [Evaluation({"learned": guess.sum().item()}, {}) for guess in weights["guess"]]


RUNNER = GradientRunner(Fit)
