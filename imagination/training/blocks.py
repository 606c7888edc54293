"""Activations in the layout of the compiled kernels, and stacks of convolutions on them.

Sixteen boards lie side by side in the lanes of a vector, and each has a border of zeros. So any number of channels
fills whole vectors, and no run shares an operation with another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from imagination.training import native


@dataclass(frozen=True)
class Blocks:
    """Activations of R runs.

    Attributes:
        values: float32 `[R, G, C, H + 2, W + 2, 16]`, zero on the border, contiguous.
        boards: number of boards of each run, at most 16 G. The lanes beyond them count for nothing.
    """

    values: Tensor
    boards: int

    @property
    def groups(self) -> int:
        """G."""
        return self.values.shape[1]

    @classmethod
    def fold(cls, boards: Tensor) -> "Blocks":
        """One channel of boards, bool or float `[R, B, H, W]`."""
        runs, count, high, wide = boards.shape
        groups = -(-count // native.LANES)
        lanes = F.pad(boards.float(), (0, 0, 0, 0, 0, groups * native.LANES - count))
        lanes = lanes.reshape(runs, groups, 1, native.LANES, high, wide).movedim(3, -1)
        return cls(F.pad(lanes, (0, 0, 1, 1, 1, 1)).contiguous(), count)

    def unfold(self) -> Tensor:
        """The activations `[R, B, C, H, W]`."""
        inner = self.values[:, :, :, 1:-1, 1:-1].permute(0, 1, 5, 2, 3, 4)
        return inner.flatten(1, 2)[:, : self.boards]

    def __add__(self, other: "Blocks") -> "Blocks":
        return Blocks(self.values + other.values, self.boards)

    def convolutions(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], *, slopes: Sequence[float]
    ) -> "Blocks":
        """A stack of 3x3 convolutions, each followed by LeakyReLU with its slope (1: none).

        Args:
            weights: each `[R, C_out, C_in, 3, 3]`.
            biases: each `[R, C_out]`.
            slopes: one per convolution.
        """
        apply: Callable[..., Tensor] = _Stack.apply
        return Blocks(apply(self.values, list(slopes), *weights, *biases), self.boards)


class _Stack(torch.autograd.Function):
    """See `Blocks.convolutions`. The convolutions' outputs are kept for the backward pass."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, slopes: list[float], *parameters: Tensor) -> Tensor:
        depth = len(slopes)
        packed = [parameter.contiguous() for parameter in parameters]
        outputs = [x]
        for weight, bias, slope in zip(packed[:depth], packed[depth:], slopes, strict=True):
            outputs.append(native.convolve(outputs[-1], weight, bias, slope=slope))
        ctx.slopes, ctx.weights, ctx.inputs = slopes, packed[:depth], outputs[:-1]
        ctx.save_for_backward(outputs[-1])
        return outputs[-1]

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (last,) = ctx.saved_tensors
        gradient: Tensor | None = gradients[0].contiguous()
        if ctx.slopes[-1] != 1.0:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, last, ctx.slopes[-1], True)
        found: list[tuple[Tensor, Tensor]] = []
        for layer in reversed(range(len(ctx.slopes))):
            assert gradient is not None
            x = ctx.inputs[layer]
            found.append(native.weight_gradients(x, gradient))
            if layer:
                before = ctx.slopes[layer - 1]
                gradient = native.input_gradient(gradient, ctx.weights[layer], sign=x, slope=before)
            elif ctx.needs_input_grad[0]:
                gradient = native.input_gradient(gradient, ctx.weights[0])
            else:
                gradient = None
        found.reverse()
        return (gradient, None, *[weight for weight, _ in found], *[bias for _, bias in found])
