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

    def convolutions(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        slopes: Sequence[float],
        residual: bool = False,
    ) -> "Blocks":
        """A stack of 3x3 convolutions; arguments as in `native.Stack`."""
        apply: Callable[..., Tensor] = _Stack.apply
        return Blocks(apply(self.values, list(slopes), residual, *weights, *biases), self.boards)


def lstm_cell(gates: Sequence[Blocks], before: Tensor | None, *, forget_bias: float) -> tuple[Blocks, Tensor]:
    """One step of an LSTM's cells: the new h, and the new c as the values of blocks.

    Borders stay zero, because tanh(0) is 0. Arguments as in `native.lstm_forward`.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _Cell.apply
    h, c = apply(forget_bias, before, *(each.values for each in gates))
    return Blocks(h, gates[0].boards), c


class _Cell(torch.autograd.Function):
    """See `lstm_cell`."""

    @staticmethod
    @override
    def forward(ctx: Any, forget_bias: float, before: Tensor | None, *gates: Tensor) -> tuple[Tensor, Tensor]:
        h, c, activations = native.lstm_forward(gates, before, forget_bias=forget_bias)
        ctx.activations, ctx.terms = activations, len(gates)
        ctx.save_for_backward(before, c)
        return h, c

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (before, c), (of_h, of_c) = ctx.saved_tensors, gradients
        of_gates, of_before = native.lstm_backward(ctx.activations, before, c, of_h=of_h, of_c=of_c)
        return (None, of_before, *[of_gates] * ctx.terms)


class _Stack(torch.autograd.Function):
    """See `Blocks.convolutions`. The convolutions' outputs are kept for the backward pass."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, slopes: list[float], residual: bool, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[: len(slopes)], parameters[len(slopes) :]
        stack = native.Stack(weights, biases, slopes=slopes, residual=residual)
        result, outputs = stack.forward(x, keep=any(ctx.needs_input_grad))
        # The result itself may only be kept by this method: otherwise it would keep its own history.
        ctx.stack, ctx.x, ctx.kept = stack, x, outputs if residual else outputs[:-1]
        ctx.save_for_backward(*[] if residual else [result])
        return result

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_weights, of_biases = ctx.stack.backward(
            ctx.x,
            [*ctx.kept, *ctx.saved_tensors],
            gradients[0].contiguous(),
            reaches_x=ctx.needs_input_grad[0],
        )
        return (of_x, None, None, *of_weights, *of_biases)
