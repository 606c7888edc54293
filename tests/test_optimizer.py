"""Adam, clipping and the schedule of many runs at once, by hand and against torch's own."""

import pytest
import torch
from training_helpers import CPU, tiny

from imagination.training.optimizer import Optimizer


def optimizer(*configs):
    return Optimizer.of(configs, CPU)


def rates(config, *steps):
    return [optimizer(config).rate(torch.tensor([step])).item() for step in steps]


def test_warm_up_rises_to_the_peak_and_the_decay_ends_at_zero():
    config = tiny(lr=1.0, warmup=1 / 3, max_steps=12, schedule="linear")
    # A third of 12 steps are 4: updates 1 to 4 take 1/4, 2/4, 3/4 and 4/4 of the peak; from step 4 on the rate
    # falls by 1/8 a step.
    assert rates(config, 0, 1, 2, 3, 4, 5, 8, 11, 12) == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.5, 0.125, 0.0]
    )


def test_a_constant_rate_stays_after_the_warm_up():
    config = tiny(lr=2.0, warmup=0.05, schedule="constant")  # 5% of 40 steps are 2
    assert rates(config, 0, 1, 2, 1000) == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert rates(tiny(lr=2.0, warmup=0.0, schedule="constant"), 0) == [2.0]


def test_clipping_is_each_runs_own():
    configs = [tiny(clip_by="value", clip=0.5), tiny(clip_by="norm", clip=1.0), tiny(clip_by="none")]
    gradient = torch.tensor([[3.0, -4.0, 0.1], [3.0, -4.0, 0.0], [3.0, -4.0, 0.1]])
    # By value: every entry into [-.5, .5]. By norm: the norm of (3, -4, 0) is 5, so a fifth of it. None: as it is.
    expected = torch.tensor([[0.5, -0.5, 0.1], [0.6, -0.8, 0.0], [3.0, -4.0, 0.1]])
    torch.testing.assert_close(optimizer(*configs).clipped(gradient), expected)


def test_a_gradient_within_its_limit_or_zero_is_left_alone():
    configs = [tiny(clip_by="norm", clip=1.0), tiny(clip_by="norm", clip=1.0)]
    gradient = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    assert torch.equal(optimizer(*configs).clipped(gradient), gradient)


def test_updates_are_torchs_adam():
    config = tiny(lr=0.01, warmup=0.0, schedule="constant", clip_by="none")
    ours = torch.randn(1, 6, generator=torch.Generator().manual_seed(1))
    reference = ours.double().clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.01, eps=1e-7)
    mean, variance = torch.zeros(1, 6), torch.zeros(1, 6)
    for step in range(20):
        gradient = torch.randn(1, 6, generator=torch.Generator().manual_seed(step))
        optimizer(config).update(ours, gradient, mean=mean, variance=variance, steps=torch.tensor([step]))
        reference.grad = gradient.double()
        adam.step()
    torch.testing.assert_close(ours.double(), reference.detach(), rtol=1e-5, atol=1e-6)
