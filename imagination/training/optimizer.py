"""Adam, Muon, clipping and learning-rate schedules, for all runs of a pack at once.

Every setting is a tensor with the runs as first axis, so runs with different rates and limits share a pack. An
optimiser updates a *group*: a range of columns of the parameters `[R, P]`, with settings of its own.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from imagination.training.config import TrainingConfig

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7
"""Keras' defaults, as in the authors' code. Epsilon is added after the square root, as by Kingma and Ba."""

MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5

_DECAY_STEPS = 100_000
"""Steps per factor `decay` of an exponential schedule (the authors' code)."""


class Optimizer(Protocol):
    """Updates a group of parameters."""

    def update(
        self, parameters: Tensor, gradient: Tensor, *, mean: Tensor, variance: Tensor, steps: Tensor
    ) -> None:
        """One update of `parameters` and the moments, in place.

        Args:
            parameters: the group's columns, float32 `[R, p]`.
            gradient: `[R, p]`.
            mean: first moment `[R, p]`.
            variance: second moment `[R, p]`.
            steps: int64 `[R]`, updates done before this one.
        """


class Schedule:
    """How the learning rate of R runs changes."""

    def __init__(self, configs: Sequence[TrainingConfig], device: torch.device) -> None:
        ends = [c.max_steps if c.schedule == "linear" else math.inf for c in configs]
        self._warmup = column([c.warmup * c.max_steps for c in configs], device)
        self._decay_end = column(ends, device)  # the step at which a linear decay reaches zero
        self._decay = column([c.decay if c.schedule == "exponential" else 1.0 for c in configs], device)

    def factor(self, steps: Tensor) -> Tensor:
        """The share `[R]` of the peak rate in the update after `steps` (int64 `[R]`) updates."""
        done = steps.float()
        rise = ((done + 1) / self._warmup.clamp(min=1)).clamp(max=1)
        fall = (self._decay_end - done) / (self._decay_end - self._warmup)
        fall = torch.where(self._decay_end.isinf(), torch.ones_like(fall), fall.clamp(0, 1))
        return torch.minimum(rise, fall) * self._decay ** (done / _DECAY_STEPS)


class Adam(Optimizer):
    """Adam of R runs (Kingma and Ba, 2015). Clips each gradient entry or the norm of the group's gradient.

    Attributes:
        lr: peak learning rate, `[R]`.
        schedule: schedule of the rate.
    """

    def __init__(self, configs: Sequence[TrainingConfig], device: torch.device) -> None:
        self.lr = column([c.lr for c in configs], device)
        self.schedule = Schedule(configs, device)
        self._value_limit = column([c.clip if c.clip_by == "value" else math.inf for c in configs], device)
        self._norm_limit = column([c.clip if c.clip_by == "norm" else math.inf for c in configs], device)

    def clipped(self, gradient: Tensor) -> Tensor:
        """The gradient `[R, p]`, with each run's entries or norm within its limit."""
        limit = self._value_limit[:, None]
        gradient = torch.minimum(torch.maximum(gradient, -limit), limit)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        # Only where the norm exceeds its limit: infinity / 0 would make a zero gradient NaN.
        scale = torch.where(norm > self._norm_limit[:, None], self._norm_limit[:, None] / norm, 1.0)
        return gradient * scale

    @override
    def update(
        self, parameters: Tensor, gradient: Tensor, *, mean: Tensor, variance: Tensor, steps: Tensor
    ) -> None:
        gradient = self.clipped(gradient)
        mean.lerp_(gradient, 1 - BETA1)
        variance.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        time = (steps + 1).double()[:, None]
        correction1, correction2 = 1 - BETA1**time, 1 - BETA2**time
        rate = self.lr * self.schedule.factor(steps)
        size = (rate[:, None].double() / correction1).float()
        denominator = (variance / correction2.float()).sqrt_().add_(EPSILON)
        parameters.sub_(size * mean / denominator)


class Muon(Optimizer):
    """Muon of R runs (Jordan et al., 2024): a kernel moves by the orthogonal matrix nearest to its momentum.

    A convolution kernel is the matrix `[out, in * k * k]`. The gradient's size has no effect, so nothing is clipped.
    Zeros that pad both sides alike change nothing: the ratio of the sides, and with it the rate, stays the same.
    `kernels` holds the names and shapes `(out, in, k, k)` of the group's parameters, in their order.
    """

    def __init__(
        self, configs: Sequence[TrainingConfig], kernels: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> None:
        self._lr = column([c.muon_lr for c in configs], device)
        self._schedule = Schedule(configs, device)
        # Adjacent kernels of one shape are orthogonalised in one batched product.
        self._stacks: list[tuple[slice, tuple[int, int]]] = []
        end = 0
        for shape, same in groupby(kernels.values()):
            start, end = end, end + math.prod(shape) * len(list(same))
            self._stacks.append((slice(start, end), (shape[0], math.prod(shape[1:]))))

    @override
    def update(
        self, parameters: Tensor, gradient: Tensor, *, mean: Tensor, variance: Tensor, steps: Tensor
    ) -> None:
        """See `Optimizer`; `mean` is the momentum, `variance` is not used."""
        mean.mul_(MOMENTUM).add_(gradient)
        wanted = gradient + MOMENTUM * mean  # Nesterov's
        rate = (self._lr * self._schedule.factor(steps))[:, None]
        for columns, (rows, width) in self._stacks:
            matrices = wanted[:, columns].reshape(-1, rows, width)
            step = orthogonalised(matrices) * math.sqrt(max(1.0, rows / width))
            parameters[:, columns] -= rate * step.reshape(parameters.shape[0], -1)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximately the semi-orthogonal matrix nearest to each of `[N, a, b]`: singular values from .7 to 1.2.

    Five steps of the quintic Newton-Schulz iteration with Jordan's coefficients, on the smaller side.
    """
    a, b, c = _NEWTON_SCHULZ
    x: Tensor = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + EPSILON)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(_NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def column(values: Sequence[float], device: torch.device) -> Tensor:
    """One setting of every run, float32 `[R]`."""
    return torch.tensor(values, dtype=torch.float32, device=device)
