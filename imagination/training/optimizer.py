"""Adam, clipping and the learning-rate schedule, for all runs of a pack at once.

Every setting is a tensor with the runs as first axis, so runs with different rates and limits share a pack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = (
    0.9,
    0.999,
    1e-7,
)  # Keras' defaults, as in the authors' code; epsilon stands where Kingma has it


class OptimizerConfig(Protocol):
    """The config keys that the optimiser reads."""

    @property
    def lr(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> float: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def clip(self) -> float: ...
    @property
    def clip_by(self) -> str: ...


@dataclass(frozen=True)
class Optimizer:
    """Settings of R runs; each attribute is float32 `[R]`, and infinite where it does not apply.

    Attributes:
        lr: peak learning rate.
        warmup: steps of linear rise.
        decay_end: step at which a linear decay arrives at zero.
        value_limit: largest gradient entry.
        norm_limit: largest gradient norm.
    """

    lr: Tensor
    warmup: Tensor
    decay_end: Tensor
    value_limit: Tensor
    norm_limit: Tensor

    @classmethod
    def of(cls, configs: Sequence[OptimizerConfig], device: torch.device) -> Self:
        """The settings of these runs."""
        inf = float("inf")

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return cls(
            lr=column([c.lr for c in configs]),
            warmup=column([c.warmup * c.max_steps for c in configs]),
            decay_end=column([c.max_steps if c.schedule == "linear" else inf for c in configs]),
            value_limit=column([c.clip if c.clip_by == "value" else inf for c in configs]),
            norm_limit=column([c.clip if c.clip_by == "norm" else inf for c in configs]),
        )

    def rate(self, steps: Tensor) -> Tensor:
        """Learning rate float32 `[R]` of the update after `steps` (int64 `[R]`) updates."""
        done = steps.float()
        rise = ((done + 1) / self.warmup.clamp(min=1)).clamp(max=1)
        fall = (self.decay_end - done) / (self.decay_end - self.warmup)
        fall = torch.where(self.decay_end.isinf(), torch.ones_like(fall), fall.clamp(0, 1))
        return self.lr * torch.minimum(rise, fall)

    def clipped(self, gradient: Tensor) -> Tensor:
        """The gradient `[R, P]`, each run's entries or norm within its limit."""
        limit = self.value_limit[:, None]
        gradient = torch.minimum(torch.maximum(gradient, -limit), limit)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        # An infinite limit must leave even a zero gradient alone, so the ratio is formed only where it binds.
        scale = torch.where(norm > self.norm_limit[:, None], self.norm_limit[:, None] / norm, 1.0)
        return gradient * scale

    def update(
        self, parameters: Tensor, gradient: Tensor, *, mean: Tensor, variance: Tensor, steps: Tensor
    ) -> None:
        """One Adam update of `parameters` `[R, P]` and its moments, in place (Kingma and Ba, 2015).

        Args:
            parameters: float32 `[R, P]`.
            gradient: `[R, P]`.
            mean: first moment `[R, P]`.
            variance: second moment `[R, P]`.
            steps: int64 `[R]`, updates done before this one.
        """
        gradient = self.clipped(gradient)
        mean.lerp_(gradient, 1 - BETA1)
        variance.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        time = (steps + 1).double()[:, None]
        correction1, correction2 = 1 - BETA1**time, 1 - BETA2**time
        size = (self.rate(steps)[:, None].double() / correction1).float()
        denominator = (variance / correction2.float()).sqrt_().add_(EPSILON)
        parameters.sub_(size * mean / denominator)
