"""Whole trainings by Triton's kernels: the same within rounding as by PyTorch's own operations."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from training_helpers import experiment_of, padding_of, tiny, tiny_count, trained
from triton_helpers import DEVICE, by_triton

from imagination import registry
from imagination.training import draws, gpu
from imagination.ways import TRITON, VARIABLE

__all__ = ["by_triton"]

SMALL = {"board": 4, "batch": 2, "adv_ramp": 0.0}
KINDS = {
    "state": tiny(**SMALL, gan="posthoc", channels=5),
    "joint": tiny(**SMALL, gan="joint", rnn=False, residual=False),
    "count": tiny_count(**SMALL, gan="posthoc", model_t=3),
}
pytestmark = pytest.mark.skipif(
    DEVICE.type != "cpu", reason="the interpreter only; benchmarks/gpu.py checks a GPU"
)


def losses_and_gradients(configs, stage):
    """Of the first step in this stage: the losses `[R]`, all traced values, the gradient, the next boards."""
    experiment = experiment_of(*configs)
    for _ in range(stage):
        experiment = experiment.next_stage()
    parameters = experiment.initial_parameters().requires_grad_()
    steps = torch.tensor([3] * len(configs))
    forward = experiment.forward(parameters, experiment.initial_data(), steps)
    (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
    traced = torch.stack([value.double() for value in forward.traced().values()])
    return [forward.loss, traced, gradient, experiment.next_data(forward.carry, steps + 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage"), [("state", 0), ("state", 1), ("joint", 0), ("count", 0), ("count", 1)]
)
def test_a_step_is_the_same_within_rounding(kind, stage, by_triton):
    configs = [replace(KINDS[kind], seed=seed) for seed in range(2)]
    wanted = losses_and_gradients(configs, stage)
    by_triton()
    for found, plain in zip(losses_and_gradients(configs, stage), wanted, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS["state"], KINDS["joint"], replace(KINDS["count"], gan="none")])
def test_padding_stays_zero(kind, by_triton):
    by_triton()
    group = trained([replace(kind, channels=channels) for channels in (2, 3)], steps=2)
    assert not group.state.parameters[0, padding_of(group)].any()


def said(*lines, **environment):
    """What another process says about Triton on its CPU, asked twice: whether it takes a tensor, and its log."""
    code = ["import torch", "from imagination.training import gpu", "x = torch.zeros(1)", *lines]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, "print(gpu.takes(x), gpu.takes(x))"])],
        env={**os.environ, VARIABLE: "triton,graphs", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr.strip().splitlines()


@pytest.mark.slow
def test_without_a_gpu_nothing_is_tried():
    assert said(TRITON_INTERPRET="0") == (["False", "False"], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["import sys; sys.modules['triton'] = None"], "import of triton halted"),
        # The interpreter, chosen after Triton's own functions were made for a GPU: no kernel can be built.
        (["import os, triton.language; os.environ['TRITON_INTERPRET'] = '1'"], "Cannot call @triton.jit"),
    ],
)
def test_where_triton_fails_training_goes_on_and_the_log_says_so_once(lines, reason):
    answers, (line,) = said(*lines, TRITON_INTERPRET="1" if "None" in lines[0] else "0")
    assert answers == ["False", "False"]
    assert line.startswith("training goes on without Triton's kernels: ")
    assert reason in line


def test_a_way_that_does_not_exist_is_named(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "tritn")
    assert not gpu.uses("triton")
    assert not gpu.uses("graphs")
    assert caplog.messages == ["IMAGINE_GPU: 'tritn' is not known; it may have triton and graphs"]


@pytest.mark.slow
def test_a_way_is_measured_only_if_it_trains_the_same(monkeypatch, caplog):
    config = tiny(board=4, batch=2, channels=3)
    runner = registry.load(registry.declaration(config.experiment).runner)
    with gpu.chosen(TRITON):
        assert gpu.takes(torch.zeros(1, device=DEVICE))
        assert runner.agrees([config], device=DEVICE)
        assert not caplog.messages
        right = draws.words
        monkeypatch.setattr(draws, "words", lambda *a, **k: right(*a, **k) ^ 1)  # other boards
        assert not runner.agrees([config], device=DEVICE)
    assert caplog.messages == ["training with triton has other gradients here, so it is not measured"]
    assert not gpu.takes(torch.zeros(1, device=DEVICE))
