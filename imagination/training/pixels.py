"""Activations in the layout of Triton's kernels, and stacks of convolutions on them.

Each run has its own part of memory, and the channels of a pixel lie side by side. So a run's convolution is a matrix
product of its own: pixels times (taps and input channels), with bias, LeakyReLU and the sum of a residual step fused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

_SHARE = 2048
"""Pixels whose share of a weight's gradient one program sums. A fixed order of sums gives equal bits."""


@dataclass(frozen=True)
class Tiles:
    """The part of a matrix product that a program computes at a time: powers of 2, at least 16."""

    pixels: int = 128
    depth: int = 32
    width: int = 32


TILES = Tiles()


@dataclass(frozen=True)
class Pixels:
    """Activations of R runs.

    Attributes:
        values: `[R, B, H, W, C]`, contiguous.
    """

    values: Tensor

    @classmethod
    def fold(cls, boards: Tensor, dtype: torch.dtype = torch.float32) -> "Pixels":
        """One channel of boards, bool or float `[R, B, H, W]`."""
        return cls(boards.to(dtype).contiguous()[..., None])

    def unfold(self) -> Tensor:
        """The activations `[R, B, C, H, W]`."""
        return self.values.movedim(-1, 2)

    def convolutions(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        slopes: Sequence[float],
        residual: bool = False,
        stride: int = 1,
    ) -> "Pixels":
        """A stack of convolutions of every run, each followed by LeakyReLU with its slope (1: none).

        Args:
            weights: each `[R, C_out, C_in, k, k]`, k odd.
            biases: each `[R, C_out]`.
            slopes: one per convolution.
            residual: the result is the sum of the input and the last one's output.
            stride: of every kernel.
        """
        apply: Callable[..., Tensor] = _Stack.apply
        return Pixels(apply(self.values.contiguous(), list(slopes), residual, stride, *weights, *biases))


class _Stack(torch.autograd.Function):
    """See `Pixels.convolutions`. The convolutions' outputs are kept for the backward pass."""

    @staticmethod
    @override
    def forward(
        ctx: Any, x: Tensor, slopes: list[float], residual: bool, stride: int, *parameters: Tensor
    ) -> Tensor:
        depth = len(slopes)
        weights, biases = parameters[:depth], parameters[depth:]
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        states = [x]
        for layer, (weight, bias, slope) in enumerate(zip(weights, biases, slopes, strict=True)):
            addend = x if residual and layer == depth - 1 else None
            found, total = _convolve(
                states[-1], _columns(weight, x), bias, slope=slope, kernel=weight.shape[-1], stride=stride,
                addend=addend,
            )  # fmt: skip
            states.append(found)
        ctx.slopes, ctx.residual, ctx.stride, ctx.weights = slopes, residual, stride, weights
        # The result itself may only be kept by this method: otherwise it would keep its own history.
        ctx.states = states if residual else states[:-1]
        ctx.save_for_backward(*[] if residual else [found])
        return total if residual else found

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, upstream = [*ctx.states, *ctx.saved_tensors], gradients[0].contiguous()
        depth = len(ctx.slopes)
        of_weights, of_biases = list[Tensor](), list[Tensor]()
        gradient: Tensor = upstream
        if ctx.slopes[-1] != 1:
            gradient = torch.ops.aten.leaky_relu_backward(upstream, states[-1], ctx.slopes[-1], True)
        found: Tensor | None = None
        for layer in reversed(range(depth)):
            x, weight = states[layer], ctx.weights[layer]
            of_weight, of_bias = _weight_gradients(x, gradient, like=weight, stride=ctx.stride)
            of_weights.insert(0, of_weight)
            of_biases.insert(0, of_bias)
            if layer == 0 and not ctx.needs_input_grad[0]:
                break
            addend = upstream if ctx.residual and layer == 0 else None
            gradient, total = _convolve(
                gradient,
                _turned_columns(weight, x),
                None,
                slope=ctx.slopes[layer - 1] if layer else 1.0,
                kernel=weight.shape[-1],
                stride=ctx.stride,
                addend=addend,
                sign=x if layer else None,
                turned=x.shape,
            )
            found = gradient if addend is None else total
        return (found, None, None, None, *of_weights, *of_biases)


def _columns(weight: Tensor, like: Tensor) -> Tensor:
    """`[R, C_out, C_in, k, k]` to `[R, k * k * C_in, C_out]`."""
    return weight.permute(0, 3, 4, 2, 1).flatten(1, 3).to(like.dtype).contiguous()


def _turned_columns(weight: Tensor, like: Tensor) -> Tensor:
    """`[R, C_out, C_in, k, k]` to `[R, k * k * C_out, C_in]`."""
    return weight.permute(0, 3, 4, 1, 2).flatten(1, 3).to(like.dtype).contiguous()


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    slope: float,
    kernel: int,
    stride: int,
    addend: Tensor | None = None,
    sign: Tensor | None = None,
    turned: torch.Size | None = None,
) -> tuple[Tensor, Tensor]:
    """The result after LeakyReLU and, with `addend`, its sum with that; see `triton_kernels.convolve`.

    Args:
        x: `[R, B, H, W, C_in]`.
        weight: `[R, k * k * C_in, C_out]`.
        bias: `[R, C_out]`, or None.
        slope: of LeakyReLU, for the elements where `sign`, or else the result, is not above 0.
        kernel: k.
        stride: of the kernel.
        addend: of the result's shape.
        sign: of the result's shape.
        turned: shape of the input whose gradient this computes, from x, that of the output.
    """
    from imagination.training import triton_kernels as kernels

    runs, boards, high_in, wide_in, width_in = x.shape
    width = weight.shape[-1]
    high, wide = (-(-high_in // stride), -(-wide_in // stride)) if turned is None else turned[2:4]
    found = x.new_empty((runs, boards, high, wide, width))
    total = None if addend is None else torch.empty_like(found)
    tiles = _tiles(width)
    grid = (-(-boards * high * wide // tiles.pixels), -(-width // tiles.width), runs)
    kernels.convolve[grid](
        x,
        weight,
        None if bias is None else bias.contiguous(),
        sign,
        addend,
        found,
        total,
        slope,
        boards,
        high_in,
        wide_in,
        high,
        wide,
        IN=width_in,
        OUT=width,
        KERNEL=kernel,
        STRIDE=stride,
        TURNED=turned is not None,
        PRECISION=_precision(x),
        PIXELS=tiles.pixels,
        DEPTH=tiles.depth,
        WIDTH=tiles.width,
    )
    return found, found if total is None else total


def _weight_gradients(x: Tensor, gradient: Tensor, *, like: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The gradients of a convolution's weight and bias, from its input and the gradient of its output."""
    from imagination.training import triton_kernels as kernels

    runs, boards, high_in, wide_in, width_in = x.shape
    high, wide, width = gradient.shape[2:]
    kernel = like.shape[-1]
    parts, tiles = -(-boards * high * wide // _SHARE), _tiles(width)
    depth = 64  # more rows of taps and input channels per program, because each reads the gradient once
    weights = like.new_empty((parts, runs, kernel * kernel * width_in, width))
    biases = like.new_empty((parts, runs, width))
    blocks = -(-kernel * kernel * width_in // depth) * -(-width // tiles.width)
    kernels.weight_gradients[parts, blocks, runs](
        x,
        gradient.contiguous(),
        weights,
        biases,
        boards,
        high_in,
        wide_in,
        high,
        wide,
        runs,
        IN=width_in,
        OUT=width,
        KERNEL=kernel,
        STRIDE=stride,
        PRECISION=_precision(x),
        SHARE=_SHARE,
        PIXELS=tiles.depth,
        DEPTH=depth,
        WIDTH=tiles.width,
    )
    summed = weights.sum(0).reshape(runs, kernel, kernel, width_in, width)
    return summed.permute(0, 4, 3, 1, 2), biases.sum(0)


def _tiles(width: int) -> Tiles:
    """The tiles of a result with this many channels."""
    narrow = 16 if width <= 16 else TILES.width
    return Tiles(TILES.pixels, TILES.depth, narrow)


def _precision(x: Tensor) -> str:
    """How Triton multiplies, as PyTorch would."""
    if x.dtype == torch.float32:
        return "tf32" if x.is_cuda and torch.backends.cudnn.allow_tf32 else "ieee"
    if x.dtype == torch.bfloat16 and not x.is_cuda:
        return "rounded"
    return str(x.dtype).removeprefix("torch.")
