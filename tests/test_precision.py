"""bfloat16: what is rounded, what is not, and that every kind of run trains in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import CPU, experiment_of, parameters_after, random, tiny, tiny_count, train

from imagination.training import layers

SHORT = {"precision": "bfloat16", "max_steps": 20, "adv_steps": 20, "adv_layers": 2, "adv_ramp": 0.0}
KINDS = {
    "state": tiny(**SHORT),
    "joint": tiny(**SHORT, gan="joint"),
    "posthoc": tiny(**SHORT, gan="posthoc"),
    "muon": tiny(**SHORT, gan="posthoc", optimizer="muon", loss="l2", model_t=3),
    "count": tiny_count(**SHORT, gan="posthoc", lstm_layers=2, model_t=3),
}
EACH = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def rounds(x):
    """Whether bfloat16 has no room for some of these numbers."""
    return not torch.equal(x.bfloat16().float(), x)


def in_bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@EACH
def test_runs_train_finite_and_keep_float32_weights(config):
    (recorder,) = train([config])
    assert recorder.error is None
    assert recorder.outcome == "step_limit"
    for name, weight in recorder.weights.items():
        assert weight.dtype == np.float32, name
        assert np.isfinite(weight).all(), name
        assert weight.size == 1 or rounds(torch.from_numpy(weight)), name  # updates are not rounded away
    for checkpoint in recorder.checkpoints:
        assert {checkpoint[name].dtype for name in ("parameters", "mean", "variance")} == {np.dtype("f4")}
    # A loss without a finite value leaves no point.
    lengths = {name: len(points) for name, points in recorder.traces.items()}
    assert set(lengths.values()) == {4}
    assert ("adv_generator_loss" in lengths) == (config.gan == "posthoc")


@EACH
def test_the_first_steps_stay_near_those_in_float32(config):
    exact, rounded = (parameters_after([replace(config, precision=p)], 5) for p in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.1, atol=0.02)


@EACH
def test_every_trained_parameter_has_a_gradient(config):
    # Casts that are made without gradients and used again with them would take it away.
    experiment = experiment_of(config).next_stage() or experiment_of(config)
    parameters = experiment.initial_parameters().requires_grad_()
    forward = experiment.forward(parameters, experiment.initial_data(), torch.tensor([3]))
    assert forward.loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
    assert gradient.dtype == torch.float32
    trained = torch.zeros(experiment.layout.size, dtype=torch.bool)
    for columns, _ in experiment.optimizers():
        trained[columns] = True
    named = experiment.layout.unpack(gradient)
    marked = experiment.layout.unpack(trained[None])
    for name, value in named.items():
        assert bool(value.any()) == bool(marked[name].all()), name


@pytest.mark.parametrize("runs", [1, 2])
def test_the_counts_are_not_rounded(runs):
    # Of boards with 36 cells half a cell is .014; bfloat16 has steps of .002 below .5 and of .004 below 1.
    experiment = experiment_of(*(tiny_count(seed=seed, precision="bfloat16") for seed in range(runs)))
    named = experiment.layout.unpack(experiment.initial_parameters())
    with in_bfloat16():
        hidden = experiment.network.hidden_states(named, experiment.initial_data())
        last = layers.convolutions(named, "count", hidden[-1], layers=1)
        found = experiment.network.count(named, hidden[-1])
    assert last.dtype == torch.bfloat16  # what the linear layer reads
    assert found.dtype == torch.float32
    assert rounds(found)
    for run in range(runs):
        weight, bias = (named[f"count.linear.{part}"][run].double() for part in ("weight", "bias"))
        wanted = last.unflatten(1, (runs, -1))[:, run].flatten(1).double() @ weight[0] + bias
        torch.testing.assert_close(found[run].double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_state", [False, True])
def test_the_memory_of_a_cell_is_float32(has_state):
    layout = layers.ParameterLayout(layers.lstm_shapes("cell", channels=3, kernel=3))
    named = layout.unpack(layout.glorot_uniform(torch.tensor([0, 1])))
    x, h, c = (random(4, 6, 5, 5, seed=seed) for seed in range(3))
    c = c.unflatten(1, (2, 3))
    with in_bfloat16():
        _, memory = layers.lstm_step(named, "cell", x, (h, c) if has_state else None)
    assert memory.dtype == torch.float32
    assert rounds(memory)
    if has_state:
        # With every forget gate at 1 (a bias of 100) and no input (-100) the memory stays, to the bit.
        held = {name: torch.zeros_like(value) for name, value in named.items()}
        held["cell.bias"] = torch.tensor([-100.0, 100.0, 0.0, 0.0]).repeat_interleave(3).repeat(2, 1)
        with in_bfloat16():
            _, memory = layers.lstm_step(held, "cell", x, (h, c))
        assert torch.equal(memory, c)


def test_evaluation_is_in_float32():
    config = tiny_count(precision="bfloat16")
    experiment = experiment_of(config)
    named = experiment.layout.unpack(experiment.initial_parameters())
    exact = type(experiment)([replace(config, precision="float32")], CPU)
    assert experiment.evaluate(named)[0].metrics == exact.evaluate(named)[0].metrics


def test_tf32_is_allowed_inside_a_step_and_nowhere_else():
    kinds = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    try:
        for precision, allowed in (("tf32", True), ("float32", False)):
            with experiment_of(tiny(precision=precision)).products():
                assert [kind.allow_tf32 for kind in kinds] == [allowed, allowed]
            assert not any(kind.allow_tf32 for kind in kinds)
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def test_on_a_cpu_tf32_is_float32_to_the_bit():
    exact, rounded = (parameters_after([tiny(precision=p)], 5) for p in ("float32", "tf32"))
    assert torch.equal(exact, rounded)
