"""Convolutions by Triton: against PyTorch in float64, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from training_helpers import random
from triton_helpers import DEVICE

from imagination.training.pixels import Pixels

pytestmark = pytest.mark.slow  # interpreted kernels


def plain(x, weights, biases, *, slopes, residual, stride):
    """One run's stack by PyTorch: x `[B, C, H, W]`."""
    y = x
    for weight, bias, slope in zip(weights, biases, slopes, strict=True):
        padding = weight.shape[-1] // 2
        y = F.leaky_relu(F.conv2d(y, weight, bias, padding=padding, stride=stride), slope)
    return y + x if residual else y


def made(runs, widths, *, kernel=3, dtype=torch.float32):
    """Random weights and biases."""
    pairs = list(zip(widths[1:], widths, strict=False))
    weights = [random(runs, out, into, kernel, kernel, seed=7) / kernel for out, into in pairs]
    biases = [random(runs, out, seed=8) for out, _ in pairs]
    return [[p.to(DEVICE, dtype).requires_grad_() for p in each] for each in (weights, biases)]


def close(found, wanted, *, atol=2e-6):
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(found.detach().double() / scale, wanted.detach() / scale, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("runs", "boards", "widths", "sides", "kernel", "stride"),
    [
        (1, 3, [1, 20, 20, 1], (5, 4), 3, 1),
        (5, 2, [2, 3, 7], (3, 6), 3, 1),
        (1, 1, [18, 33], (2, 3), 3, 1),
        (1, 3, [5, 2, 5], (7, 5), 5, 1),
        (2, 2, [3, 3], (1, 1), 1, 1),
        (5, 3, [1, 4, 9], (7, 6), 3, 2),  # strided, odd and even sides
        (1, 9, [6, 6], (16, 16), 3, 1),  # more pixels than a program's share of a gradient
    ],
)
@pytest.mark.parametrize("linear_end", [False, True])
def test_a_stack_and_its_gradients_are_what_double_precision_computes(
    runs, boards, widths, sides, kernel, stride, linear_end
):
    residual = widths[0] == widths[-1] and stride == 1
    weights, biases = made(runs, widths, kernel=kernel)
    slopes = [0.3] * (len(weights) - 1) + [1.0 if linear_end else 0.3]
    x = random(runs, boards, *sides, widths[0]).to(DEVICE).requires_grad_()
    options = {"slopes": slopes, "residual": residual, "stride": stride}
    found = Pixels(x).convolutions(weights, biases, **options).values
    upstream = random(*found.shape, seed=9).to(DEVICE)
    gradients = torch.autograd.grad(found, [x, *weights, *biases], upstream)
    for run in range(runs):
        mine = [[p[run].detach().double().requires_grad_() for p in each] for each in (weights, biases)]
        first = x[run].detach().double().movedim(-1, 1).requires_grad_()
        y = plain(first, *mine, **options)
        wanted = torch.autograd.grad(y, [first, *mine[0], *mine[1]], upstream[run].double().movedim(-1, 1))
        close(found[run].movedim(-1, 1), y)
        close(gradients[0][run].movedim(-1, 1), wanted[0])
        for gradient, expected in zip(gradients[1:], wanted[1:], strict=True):
            close(gradient[run], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_in_double_precision_are_those_of_small_differences(stride):
    weights, biases = made(2, [1, 2, 1], dtype=torch.float64)
    x = random(2, 1, 3, 2, 1).double().to(DEVICE).requires_grad_()

    def stack(x, *parameters):
        options = {"slopes": [0.3, 1.0], "residual": stride == 1, "stride": stride}
        return Pixels(x).convolutions(parameters[:2], parameters[2:], **options).values

    assert torch.autograd.gradcheck(stack, (x, *weights, *biases), fast_mode=True)


def test_each_run_of_a_pack_is_what_it_is_alone_to_the_bit():
    weights, biases = made(3, [3, 4, 3])
    with torch.no_grad():
        weights[0][1, 0, 0, 0, 0] = torch.nan
    x = random(3, 4, 5, 5, 3).to(DEVICE)

    def trained(runs):
        """The result and the gradients of these runs."""
        inputs = [p[runs].detach().requires_grad_() for p in (x, *weights, *biases)]
        y = Pixels(inputs[0]).convolutions(inputs[1:3], inputs[3:], slopes=[0.3, 0.3], residual=True).values
        return [y, *torch.autograd.grad(y.sum(), inputs)]

    together = trained(slice(0, 3))
    for run in (0, 2):
        for one, all_runs in zip(trained(slice(run, run + 1)), together, strict=True):
            assert torch.equal(one[0], all_runs[run])
    assert together[0][1].isnan().any()


def test_bfloat16_keeps_float32_gradients_of_the_weights():
    weights, biases = made(2, [3, 4])
    x = random(2, 4, 5, 5, 3).to(DEVICE).requires_grad_()
    exact = Pixels(x).convolutions(weights, biases, slopes=[1.0]).values
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = Pixels(x).convolutions(weights, biases, slopes=[1.0]).values
    assert found.dtype == torch.bfloat16
    assert not torch.equal(found.float(), exact)
    close(found, exact.double(), atol=0.02)
    rounded, whole = (torch.autograd.grad(y.float().sum(), [x, *weights, *biases]) for y in (found, exact))
    for gradient, wanted in zip(rounded, whole, strict=True):
        assert gradient.dtype == torch.float32
        close(gradient, wanted.double(), atol=0.02)
