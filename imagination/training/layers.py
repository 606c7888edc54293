"""Layers whose first axis is the run: one weight set per run, all runs in one operation.

Activations are *folded*: `[B, R*C, H, W]`, so that one grouped convolution has one group per run. The parameters of
all runs are one tensor `[R, P]`, and `ParameterLayout` says which columns of P each layer has. So optimisers and
checkpoints handle one tensor.
"""

import math
from collections.abc import Collection, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from imagination.training import blocks, gpu, native, philox
from imagination.training.blocks import Blocks
from imagination.training.pixels import Pixels

Activations: TypeAlias = Tensor | Blocks | Pixels
"""Folded, or in the layout of the compiled kernels, or in that of Triton's."""

LEAKY_SLOPE = 0.3
"""Slope of every LeakyReLU (the authors' code)."""

FORGET_BIAS = 1.0
"""Added to the forget gate, so that an untrained LSTM remembers (Jozefowicz et al., 2015; the default of Keras)."""


class Gates(tuple[int, ...]):
    """The shape of a parameter whose first axis has the channels of four gates, one gate after the other."""

    number = 4


class ParameterLayout:
    """Names and shapes of one run's parameters, in the order of the columns of `[R, P]`.

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
            ValueError: there are no such parameters, or their columns are not adjacent.
        """
        chosen = [index for index, name in enumerate(self.shapes) if name in names]
        if not chosen or chosen != list(range(chosen[0], chosen[-1] + 1)):
            raise ValueError(f"the columns of {', '.join(names)} are not adjacent")
        return slice(sum(self._sizes[: chosen[0]]), sum(self._sizes[: chosen[-1] + 1]))

    def unpack(self, parameters: Tensor) -> dict[str, Tensor]:
        """Views of `[R, P]` by parameter name, each `[R, *shape]`."""
        parts = parameters.split(self._sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in named}

    def columns_of(self, narrow: "ParameterLayout") -> Tensor:
        """Which columns of P a narrower network has here, bool `[P]`: the lower end of every axis, for gates of each.

        They are in the order of its own columns.
        """
        assert list(narrow.shapes) == list(self.shapes)
        parts = []
        for name, shape in self.shapes.items():
            blocks = shape.number if isinstance(shape, Gates) else 1
            high, *others = narrow.shapes[name]
            part = torch.zeros(blocks, shape[0] // blocks, *shape[1:], dtype=torch.bool)
            part[:, *(slice(size) for size in (high // blocks, *others))] = True
            parts.append(part.flatten())
        return torch.cat(parts)

    def glorot_uniform(self, seeds: Tensor) -> Tensor:
        """Initial parameters float32 `[R, P]`: Glorot-uniform weights, zero biases.

        A run's weights depend only on its seed (`seeds` is int64 `[R]`) and the parameters' names and shapes.
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
    """The same parameters with the hidden kernels first, sorted by shape, as Muon needs them."""
    kernels = hidden_kernels(shapes)
    return {**dict(sorted(kernels.items(), key=lambda item: item[1])), **shapes}


def convolve(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1) -> Tensor:
    """One convolution per run, zero-padded by half a kernel on every side.

    Args:
        x: `[B, R*C_in, H, W]`.
        weight: `[R, C_out, C_in, k, k]`, k odd.
        bias: `[R, C_out]`.
        stride: of the kernel; H and W become ceil(H / stride) and ceil(W / stride).

    Returns:
        `[B, R*C_out, H, W]`.
    """
    runs, kernel = weight.shape[0], weight.shape[-1]
    return F.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=kernel // 2, stride=stride, groups=runs)


def convolutions(
    parameters: Mapping[str, Tensor],
    name: str,
    x: Activations,
    *,
    layers: int,
    linear_end: bool = False,
    residual: bool = False,
) -> Activations:
    """The stack `name` of convolutions, in the layout of x: `[B, R*C_in, H, W]` to `[B, R*C_out, H, W]`, and so on.

    LeakyReLU follows every convolution; with `linear_end`, every one except the last. With `residual` the result is the
    sum of the input and the last one's output.
    """
    if not isinstance(x, Tensor):
        weights, biases = (
            [parameters[f"{name}.{layer}.{part}"] for layer in range(layers)] for part in ("weight", "bias")
        )
        slopes = [LEAKY_SLOPE] * (layers - 1) + [1.0 if linear_end else LEAKY_SLOPE]
        return x.convolutions(weights, biases, slopes=slopes, residual=residual)
    first = x
    for layer in range(layers):
        x = convolve(x, parameters[f"{name}.{layer}.weight"], parameters[f"{name}.{layer}.bias"])
        if not (linear_end and layer == layers - 1):
            x = F.leaky_relu(x, LEAKY_SLOPE)
    return first + x if residual else x


def lstm_shapes(name: str, *, channels: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a convolutional LSTM cell: gates in the order input, forget, cell, output."""
    gates = Gates((Gates.number * channels, channels, kernel, kernel))
    return {
        f"{name}.input.weight": gates,
        f"{name}.hidden.weight": gates,
        f"{name}.bias": Gates((Gates.number * channels,)),
    }


def lstm_step(
    parameters: Mapping[str, Tensor],
    name: str,
    x: Activations | None,
    state: tuple[Activations, Tensor] | None,
) -> tuple[Activations, Tensor]:
    """One step of a convolutional LSTM cell (Shi et al., 2015, without peepholes).

    i, f, o = sigmoid(W_x * x + W_h * h + b), with 1 added to f's; g = tanh(...); c <- f c + i g; h <- o tanh(c).

    Args:
        parameters: by name, each `[R, ...]`.
        name: of the cell.
        x: the input; None for zeros, which need no convolution.
        state: h, in the layout of x, and c, float32 with an axis of its own for each run: `[B, R, C, H, W]`,
            `[R, B, H, W, C]` beside `Pixels`, or as the values of `Blocks`. None for zeros. At least one of x and
            state is given.

    Returns:
        The new (h, c).
    """
    bias = parameters[f"{name}.bias"]
    terms: list[Activations] = []
    if x is not None:
        terms.append(_gates(x, parameters[f"{name}.input.weight"], bias))
    if state is not None:
        rest = torch.zeros_like(bias) if terms else bias
        terms.append(_gates(state[0], parameters[f"{name}.hidden.weight"], rest))
    if compiled := [term for term in terms if isinstance(term, Blocks)]:
        return blocks.lstm_cell(compiled, state and state[1], forget_bias=FORGET_BIAS)
    values = [term if isinstance(term, Tensor) else term.values for term in terms]
    gates = values[0] if len(values) == 1 else values[0] + values[1]
    # Runs or gates have their own axis here, which keeps the memory layout; c is float32.
    folded = isinstance(terms[0], Tensor)
    apart, axis = (
        (gates.unflatten(1, (bias.shape[0], 4, -1)), 2) if folded else (gates.unflatten(-1, (4, -1)), -2)
    )
    i, f, g, o = apart.float().unbind(axis)
    new = i.sigmoid() * g.tanh()
    c = new if state is None else (f + FORGET_BIAS).sigmoid() * state[1] + new
    h = o.sigmoid() * c.tanh()
    return h.flatten(1, 2) if folded else Pixels(h), c


def _gates(x: Activations, weight: Tensor, bias: Tensor) -> Activations:
    """What one input adds to all gates, before their activations."""
    if isinstance(x, Tensor):
        return convolve(x, weight, bias)
    return x.convolutions([weight], [bias], slopes=[1.0])


def fold(boards: Tensor, weight: Tensor, *, compiled: bool = True) -> Activations:
    """One channel of boards, bool or float `[R, B, H, W]`, in the layout of the fastest kernels for this weight.

    Args:
        boards: see above.
        weight: of the first convolution, `[R, C, 1, k, k]`.
        compiled: whether everything that follows has compiled kernels.
    """
    if gpu.takes(weight):
        return Pixels.fold(boards, weight.dtype)
    if compiled and weight.shape[-1] == 3 and native.usable(weight):
        return Blocks.fold(boards)
    return boards.transpose(0, 1).float()


def boards(x: Activations) -> Tensor:
    """The only channel of x as boards, float32 `[R, B, H, W]`."""
    return (x.transpose(0, 1) if isinstance(x, Tensor) else x.unfold()[:, :, 0]).float()


def linear(parameters: Mapping[str, Tensor], name: str, x: Activations) -> Tensor:
    """One number per board, from all channels and pixels: `[R, B]`.

    The weight is `[R, 1, C*H*W]`, the bias `[R, 1]`.
    """
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    if not isinstance(x, Tensor):
        flat = x.unfold().flatten(2)  # [R, B, C*H*W]
    else:
        flat = x.unflatten(1, (weight.shape[0], -1)).transpose(0, 1).flatten(2)
    # bfloat16 cannot resolve half a cell of a board.
    with torch.autocast(flat.device.type, enabled=False):
        return torch.bmm(flat.float(), weight.transpose(1, 2))[..., 0] + bias


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout with the fastest convolutions, as measured by `benchmarks/bench_convolution.py`."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
