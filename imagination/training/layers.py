"""Layers whose first axis is the run: one weight set per run, all runs in one operation.

Activations are *folded*: `[B, R*C, H, W]`, the run axis in front of the channels, which is what a grouped
convolution with one group per run reads. Parameters of all runs are one tensor `[R, P]`; `ParameterLayout` says
where in P each layer lies. So the optimiser, compaction and checkpoints each handle one tensor.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from imagination.training import philox

LEAKY_SLOPE = 0.3
"""Slope of every LeakyReLU (the authors' code)."""


class ParameterLayout:
    """Names and shapes of one run's parameters, in the order in which they lie in `[R, P]`.

    Attributes:
        shapes: name to shape, without the run axis.
        size: parameters per run, P.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def unpack(self, parameters: Tensor) -> dict[str, Tensor]:
        """`[R, P]` as views by name, each `[R, *shape]`."""
        parts = parameters.split(self._sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in named}

    def glorot_uniform(self, seeds: Tensor) -> Tensor:
        """Initial parameters float32 `[R, P]`: Glorot-uniform weights, zero biases.

        Args:
            seeds: int64 `[R]`; a run's weights depend on its own seed and the layers' names alone.
        """
        runs = seeds.shape[0]
        parts = []
        for (name, shape), size in zip(self.shapes.items(), self._sizes, strict=True):
            if len(shape) == 1:
                parts.append(torch.zeros(runs, size, device=seeds.device))
                continue
            receptive = math.prod(shape[2:])
            limit = math.sqrt(6 / ((shape[0] + shape[1]) * receptive))
            zero = torch.zeros_like(seeds)
            draw = philox.uniform(seeds, zero, stream=f"weights.{name}", lanes=1, count=size)
            parts.append(((2 * draw.reshape(runs, size) - 1) * limit).float())
        return torch.cat(parts, dim=1)


def convolution_shapes(
    name: str, *, layers: int, channels_in: int, channels: int, channels_out: int, kernel: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of a stack of convolutions `name.0`, `name.1`, ...: weights `[out, in, k, k]`, biases `[out]`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        width_in = channels_in if layer == 0 else channels
        width_out = channels_out if layer == layers - 1 else channels
        shapes[f"{name}.{layer}.weight"] = (width_out, width_in, kernel, kernel)
        shapes[f"{name}.{layer}.bias"] = (width_out,)
    return shapes


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution per run, zero padded to the same size.

    Args:
        x: `[B, R*C_in, H, W]`.
        weight: `[R, C_out, C_in, k, k]`, k odd.
        bias: `[R, C_out]`.

    Returns:
        `[B, R*C_out, H, W]`.
    """
    runs, kernel = weight.shape[0], weight.shape[-1]
    return F.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=kernel // 2, groups=runs)


def convolutions(
    parameters: Mapping[str, Tensor], name: str, x: Tensor, *, layers: int, linear_end: bool = False
) -> Tensor:
    """The stack `name`, LeakyReLU after every convolution (but the last, if `linear_end`).

    `[B, R*C_in, H, W]` to `[B, R*C_out, H, W]`.
    """
    for layer in range(layers):
        x = convolve(x, parameters[f"{name}.{layer}.weight"], parameters[f"{name}.{layer}.bias"])
        if not (linear_end and layer == layers - 1):
            x = F.leaky_relu(x, LEAKY_SLOPE)
    return x


def fold(x: Tensor) -> Tensor:
    """`[R, B, H, W]` (one channel per run) to `[B, R, H, W]`."""
    return x.transpose(0, 1)


def unfold(x: Tensor) -> Tensor:
    """`[B, R, H, W]` (one channel per run) to `[R, B, H, W]`."""
    return x.transpose(0, 1)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout in which convolutions measured fastest (`benchmarks/bench_convolution.py`)."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
