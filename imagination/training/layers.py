"""Layers whose first axis is the run: one weight set per run, all runs in one operation.

Activations are *folded*: `[B, R*C, H, W]`, the run axis in front of the channels, which is what a grouped
convolution with one group per run reads. The parameters of all runs are one tensor `[R, P]`, and `ParameterLayout`
says where in P each layer lies. So optimisers and checkpoints handle one tensor.
"""

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from imagination.training import philox

LEAKY_SLOPE = 0.3
"""Slope of every LeakyReLU (the authors' code)."""

FORGET_BIAS = 1.0
"""Added to the forget gate, so that an untrained LSTM remembers (Jozefowicz et al., 2015; the default of Keras)."""


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

    def columns(self, names: Collection[str]) -> slice:
        """The columns of P that hold these parameters.

        Raises:
            ValueError: there is no such parameter, or they do not lie side by side.
        """
        chosen = [index for index, name in enumerate(self.shapes) if name in names]
        if not chosen or chosen != list(range(chosen[0], chosen[-1] + 1)):
            raise ValueError(f"the parameters {', '.join(names)} do not lie side by side")
        return slice(sum(self._sizes[: chosen[0]]), sum(self._sizes[: chosen[-1] + 1]))

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


def hidden_kernels(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The kernels between hidden layers, which have several channels on both sides. Muon trains these."""
    return {name: shape for name, shape in shapes.items() if len(shape) == 4 and min(shape[:2]) > 1}


def kernels_first(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same parameters, hidden kernels first, kernels of one shape side by side."""
    kernels = hidden_kernels(shapes)
    return {**dict(sorted(kernels.items(), key=lambda item: item[1])), **shapes}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1) -> Tensor:
    """A convolution per run, zero padded: by half a kernel on every side.

    Args:
        x: `[B, R*C_in, H, W]`.
        weight: `[R, C_out, C_in, k, k]`, k odd.
        bias: `[R, C_out]`, or None.
        stride: of the kernel; H and W become ceil(H / stride) and ceil(W / stride).

    Returns:
        `[B, R*C_out, H, W]`.
    """
    runs, kernel = weight.shape[0], weight.shape[-1]
    flat = None if bias is None else bias.flatten()
    return F.conv2d(x, weight.flatten(0, 1), flat, padding=kernel // 2, stride=stride, groups=runs)


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


def lstm_shapes(name: str, *, channels: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a convolutional LSTM cell: gates in the order input, forget, cell, output."""
    gates = (4 * channels, channels, kernel, kernel)
    return {f"{name}.input.weight": gates, f"{name}.hidden.weight": gates, f"{name}.bias": (4 * channels,)}


def lstm_step(
    parameters: Mapping[str, Tensor],
    name: str,
    x: Tensor | None,
    state: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """One step of a convolutional LSTM cell (Shi et al., 2015, without peepholes).

    i, f, o = sigmoid(W_x * x + W_h * h + b), with 1 added to f's; g = tanh(...); c <- f c + i g; h <- o tanh(c).

    Args:
        parameters: by name, each `[R, ...]`.
        name: of the cell.
        x: input `[B, R*C, H, W]`; None for zeros, whose convolution is left out.
        state: h `[B, R*C, H, W]` and c `[B, R, C, H, W]`; None for zeros. One of x and state is given.

    Returns:
        The new (h, c).
    """
    bias = parameters[f"{name}.bias"]
    terms = []
    if x is not None:
        terms.append(convolve(x, parameters[f"{name}.input.weight"], bias))
    if state is not None:
        terms.append(convolve(state[0], parameters[f"{name}.hidden.weight"], None if terms else bias))
    gates = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    # The runs are an axis of their own here, so that no memory layout is lost; c is float32.
    i, f, g, o = gates.unflatten(1, (bias.shape[0], 4, -1)).float().unbind(2)  # each [B, R, C, H, W]
    new = i.sigmoid() * g.tanh()
    c = new if state is None else (f + FORGET_BIAS).sigmoid() * state[1] + new
    return (o.sigmoid() * c.tanh()).flatten(1, 2), c


def linear(parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """One number per board, from all channels and pixels: `[B, R*C, H, W]` to `[R, B]`.

    The weight is `[R, 1, C*H*W]`, the bias `[R, 1]`.
    """
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    flat = x.unflatten(1, (weight.shape[0], -1)).transpose(0, 1).flatten(2)  # [R, B, C*H*W]
    # bfloat16 cannot resolve half a cell of a board.
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(flat.float(), weight.transpose(1, 2))[..., 0] + bias


def swap_run_axis(x: Tensor) -> Tensor:
    """`[R, B, H, W]`, one channel per run, to the folded `[B, R, H, W]`, or back."""
    return x.transpose(0, 1)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout in which convolutions measured fastest (`benchmarks/bench_convolution.py`)."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
