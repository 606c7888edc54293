"""The discriminator's logits by the compiled kernels, with one pass over the boards for both sides of the game.

A logit depends only on its own board. So the gradient of any loss with respect to anything before the logits is that
of the logits themselves, times the loss's gradient at that board's logit. One backward pass gives the former; it is
scaled once for the generator and once for the discriminator.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from imagination.training import native

_SLOPE = 0.3


def logits(
    boards: Tensor,
    factors: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    linear_weight: Tensor,
    linear_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """The logits `[R, 16 G]` of all boards, twice with equal values.

    A loss of the first ones reaches only the boards, a loss of the second ones only the parameters.

    Args:
        boards: `[R, G, 1, H + 2, W + 2, 16]`, see `Blocks`.
        factors: dropout factors of every convolution's output.
        weights: of the convolutions with stride 2, each `[R, C_out, C_in, 3, 3]`.
        biases: each `[R, C_out]`.
        linear_weight: `[R, 1, C*h*w]`.
        linear_bias: `[R, 1]`.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _Judge.apply
    return apply(boards, list(factors), linear_weight, linear_bias, *weights, *biases)


class _Judge(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any, boards: Tensor, factors: list[Tensor], linear: Tensor, offset: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        depth = len(factors)
        packed = [parameter.contiguous() for parameter in parameters]
        states = [boards]
        for weight, bias, factor in zip(packed[:depth], packed[depth:], factors, strict=True):
            states.append(native.convolve(states[-1], weight, bias, slope=_SLOPE, stride=2).mul_(factor))
        inner = states[-1][..., 1:-1, 1:-1, :]
        ending = F.pad(linear.reshape(linear.shape[0], 1, *inner.shape[2:5]), (1, 1, 1, 1))[..., None]
        found = (states[-1] * ending).sum((2, 3, 4)).flatten(1) + offset
        ctx.states, ctx.factors, ctx.weights, ctx.ending = states, factors, packed[:depth], ending
        return found, found.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weights = ctx.states, ctx.weights
        runs, groups = states[0].shape[:2]
        generator, own = (g.reshape(runs, groups, 1, 1, 1, native.LANES) for g in gradients)
        linear = (states[-1] * own).sum((1, 5))[..., 1:-1, 1:-1].reshape(runs, 1, -1)
        slope = ctx.ending.expand_as(states[-1])
        found: list[tuple[Tensor, Tensor]] = []
        for layer in reversed(range(len(weights))):
            slope = slope * ctx.factors[layer]
            if layer == len(weights) - 1:
                slope = torch.ops.aten.leaky_relu_backward(slope, states[-1], _SLOPE, True)
            found.append(native.weight_gradients(states[layer], slope * own, stride=2))
            sign = states[layer] if layer else None
            spread = _spread(slope, states[layer])
            slope = native.input_gradient(spread, weights[layer], sign=sign, slope=_SLOPE if layer else 1.0)
        found.reverse()
        return (
            slope * generator,
            None,
            linear,
            own.sum((1, 5)).reshape(runs, 1),
            *[weight for weight, _ in found],
            *[bias for _, bias in found],
        )


def _spread(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of a convolution with stride 2, as that of one with stride 1: zero where stride 2 skips a pixel.

    Three of four products are then wasted, which costs little, because a discriminator has few channels.
    """
    spread = x.new_zeros((*gradient.shape[:3], *x.shape[3:]))
    spread[..., 1:-1:2, 1:-1:2, :] = gradient[..., 1:-1, 1:-1, :]
    return spread
