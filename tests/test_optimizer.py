"""Adam, Muon, clipping and the schedules of many runs at once: by hand, and against plain numpy in float64."""

import math

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from training_helpers import CPU, experiment_of, random, tiny, tiny_count

from imagination.training.layers import hidden_kernels, kernels_first
from imagination.training.optimizer import Adam, Muon, Schedule, orthogonalised


def adam(*configs):
    return Adam(configs, CPU)


def factors(config, *steps):
    return [Schedule([config], CPU).factor(torch.tensor([step])).item() for step in steps]


def updated(optimizer, parameters, gradients, *, first=0):
    """Parameters, mean and variance after an update with each of these gradients, all `[R, p]`."""
    state = [parameters.clone(), torch.zeros_like(parameters), torch.zeros_like(parameters)]
    for step, gradient in enumerate(gradients, start=first):
        steps = torch.full((len(parameters),), step)
        optimizer.update(state[0], gradient, mean=state[1], variance=state[2], steps=steps)
    return state


# --- schedules ---


def test_warm_up_rises_to_the_peak_and_the_decay_ends_at_zero():
    config = tiny(warmup=1 / 3, max_steps=12, schedule="linear")
    # A third of 12 steps are 4: updates 1 to 4 take 1/4, 2/4, 3/4 and 4/4 of the peak; from step 4 on the rate
    # falls by 1/8 a step.
    assert factors(config, 0, 1, 2, 3, 4, 5, 8, 11, 12) == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.5, 0.125, 0.0]
    )


def test_a_constant_rate_stays_after_the_warm_up():
    config = tiny(warmup=0.05, schedule="constant")  # 5% of 40 steps are 2
    assert factors(config, 0, 1, 2, 1000) == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert factors(tiny(warmup=0.0, schedule="constant"), 0) == [1.0]


def test_an_exponential_rate_falls_by_its_decay_every_100_000_steps():
    config = tiny(warmup=0.0, schedule="exponential", decay=0.25)
    # A quarter after 100,000 steps, so the half of it (a square root) after 50,000, and a 16th after 200,000.
    assert factors(config, 0, 50_000, 100_000, 200_000) == pytest.approx([1.0, 0.5, 0.25, 0.0625])
    warm = tiny(warmup=0.5, max_steps=200_000, schedule="exponential", decay=0.25)
    assert factors(warm, 49_999, 100_000) == pytest.approx([0.5 * 0.5, 0.25], rel=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_decay_is_the_exponential_schedules_alone(schedule):
    assert factors(tiny(schedule=schedule, decay=0.5), 17) == factors(tiny(schedule=schedule, decay=1.0), 17)


def test_the_runs_of_a_pack_have_schedules_and_steps_of_their_own():
    configs = [
        tiny(warmup=0.0, max_steps=10, schedule="linear"),
        tiny(warmup=0.5, max_steps=10, schedule="constant"),
        tiny(warmup=0.0, schedule="exponential", decay=0.5),
    ]
    found = Schedule(configs, CPU).factor(torch.tensor([5, 1, 100_000]))
    assert found.tolist() == pytest.approx([0.5, 0.4, 0.5])


# --- Adam ---


def test_clipping_is_each_runs_own():
    configs = [tiny(clip_by="value", clip=0.5), tiny(clip_by="norm", clip=1.0), tiny(clip_by="none")]
    gradient = torch.tensor([[3.0, -4.0, 0.1], [3.0, -4.0, 0.0], [3.0, -4.0, 0.1]])
    # By value: every entry into [-.5, .5]. By norm: the norm of (3, -4, 0) is 5, so a fifth of it. None: as it is.
    expected = torch.tensor([[0.5, -0.5, 0.1], [0.6, -0.8, 0.0], [3.0, -4.0, 0.1]])
    torch.testing.assert_close(adam(*configs).clipped(gradient), expected)


def test_a_gradient_within_its_limit_or_zero_is_left_alone():
    configs = [tiny(clip_by="norm", clip=1.0), tiny(clip_by="norm", clip=1.0)]
    gradient = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    assert torch.equal(adam(*configs).clipped(gradient), gradient)


def test_updates_are_torchs_adam_and_numpys():
    config = tiny(lr=0.01, warmup=0.0, schedule="constant", clip_by="none")
    start, gradients = random(1, 6, seed=99), [random(1, 6, seed=seed) for seed in range(20)]
    ours = updated(adam(config), start, gradients)[0].double()
    torchs = start.double().clone().requires_grad_()
    other = torch.optim.Adam([torchs], lr=0.01, eps=1e-7)
    numpys = start.double().numpy(), np.zeros((1, 6)), np.zeros((1, 6))
    for step, gradient in enumerate(gradients):
        torchs.grad = gradient.double()
        other.step()
        numpys = reference.adam(numpys[0], gradient.double().numpy(), *numpys[1:], lr=0.01, step=step)
    torch.testing.assert_close(ours, torchs.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.numpy(), numpys[0], rtol=1e-5, atol=1e-6)


def test_settings_of_a_group_follow_the_schedule_unclipped():
    group = Adam([tiny(lr=0.1, schedule="constant", warmup=0.0, clip_by="none")], CPU)
    # Without schedule, warm-up or clipping Adam's first update is lr * sign of the gradient, however large that is.
    assert updated(group, torch.zeros(1, 2), [torch.tensor([[1e4, -1e-2]])])[0].tolist() == [
        pytest.approx([-0.1, 0.1], rel=1e-4)
    ]


# --- Muon ---


def spectrum(singular):
    """What Jordan's quintic makes of the singular values of a matrix, in five steps."""
    singular = singular / np.linalg.norm(singular)
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return singular


def orthogonal(matrix):
    """The iteration by way of its singular values, which alone it changes: U diag(spectrum(s)) V'."""
    u, singular, v = np.linalg.svd(matrix, full_matrices=False)
    return u * spectrum(singular) @ v


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_orthogonalised_keeps_singular_vectors_and_pushes_their_values_to_about_one(shape, size):
    matrices = size * random(3, *shape)
    found = orthogonalised(matrices).double().numpy()
    for matrix, ours in zip(matrices.double().numpy(), found, strict=True):
        # epsilon, 1e-7 beside the norm, changes a matrix of size 1e-3 by less than 1e-4 of itself
        np.testing.assert_allclose(ours, orthogonal(matrix), atol=2e-3)
        # A random square matrix has one singular value near zero, which five steps do not lift.
        singular = np.linalg.svd(ours, compute_uv=False)
        relative = np.linalg.svd(matrix, compute_uv=False) / np.linalg.norm(matrix)
        assert (singular < 1.25).all()
        assert (singular[relative > 0.02] > 0.65).all()
        assert (relative > 0.02).sum() >= min(shape) - 1


def test_of_an_orthogonal_matrix_the_direction_stays():
    q, _ = np.linalg.qr(random(6, 6).double().numpy())
    found = orthogonalised(torch.from_numpy(q)[None].float())[0].double().numpy()
    # All six singular values are 1, and 1/sqrt(6) of the norm: one number for all of them.
    np.testing.assert_allclose(found, spectrum(np.ones(6))[0] * q, atol=1e-4)


def test_a_zero_matrix_stays_zero_and_leaves_the_others_alone():
    matrices = random(3, 4, 12)
    matrices[1] = 0
    found = orthogonalised(matrices)
    assert not found[1].any()
    for index in (0, 2):
        torch.testing.assert_close(found[index], orthogonalised(matrices[index : index + 1])[0])


KERNELS = {"a": (4, 2, 3, 3), "b": (4, 2, 3, 3), "c": (12, 2, 1, 1)}
SIZE = 72 + 72 + 24
LINEAR = {"schedule": "linear", "warmup": 0.0, "max_steps": 10}


def muon_in_float64(start, gradients, *, lr):
    """Jordan's Muon of one run, kernel by kernel: Nesterov momentum .95, and a linear rate to zero in 10 steps."""
    parameters, momentum = start.copy(), np.zeros(SIZE)
    for step, gradient in enumerate(gradients):
        momentum = 0.95 * momentum + gradient
        wanted = gradient + 0.95 * momentum
        for kernel in (slice(0, 72), slice(72, 144), slice(144, 168)):
            rows = 4 if kernel.stop < 150 else 12
            matrix = orthogonal(wanted[kernel].reshape(rows, -1))  # 4 x 18, 4 x 18 and 12 x 2
            scale = math.sqrt(max(1, rows / matrix.shape[1]))
            parameters[kernel] -= lr * (1 - step / 10) * scale * matrix.reshape(-1)
    return parameters, momentum


def test_updates_are_what_double_precision_computes():
    configs = [tiny(muon_lr=0.02, **LINEAR), tiny(muon_lr=0.5, **LINEAR)]
    start, gradients = random(2, SIZE), [random(2, SIZE, seed=seed) for seed in range(1, 5)]
    parameters, mean, variance = updated(Muon(configs, KERNELS, CPU), start, gradients)
    for run, config in enumerate(configs):
        expected, momentum = muon_in_float64(
            start[run].double().numpy(), [g[run].double().numpy() for g in gradients], lr=config.muon_lr
        )
        moved = np.abs(expected - start[run].double().numpy()).max()
        np.testing.assert_allclose(parameters[run].double().numpy(), expected, rtol=0, atol=1e-3 * moved)
        np.testing.assert_allclose(mean[run].double().numpy(), momentum, rtol=1e-4, atol=1e-5)
    assert not variance.any()


def test_the_size_of_a_gradient_plays_no_part_and_a_zero_one_moves_nothing():
    muon = Muon([tiny(**LINEAR)], KERNELS, CPU)
    start, gradient = torch.zeros(1, SIZE), random(1, SIZE)
    once, large = (updated(muon, start, [size * gradient])[0] for size in (1, 1000))
    torch.testing.assert_close(once, large, rtol=1e-3, atol=1e-5)
    gradient[:, 72:144] = 0  # kernel b
    moved = updated(muon, start, [gradient])[0][0] != 0
    assert moved[:72].all()
    assert not moved[72:144].any()
    assert moved[144:].all()


def test_momentum_goes_on_where_the_gradient_has_ended():
    muon = Muon([tiny(**LINEAR)], KERNELS, CPU)
    gradients = [random(1, SIZE), torch.zeros(1, SIZE)]
    one, two = (updated(muon, torch.zeros(1, SIZE), gradients[:count])[0] for count in (1, 2))
    # Both updates move along the same matrices, the second by 9/10 of the rate.
    torch.testing.assert_close(two - one, 0.9 * one, rtol=1e-3, atol=1e-5)


def test_runs_do_not_influence_each_other_to_the_bit():
    configs = [tiny(**LINEAR), tiny(muon_lr=0.1, **LINEAR), tiny(muon_lr=0.3, **LINEAR)]
    muon = Muon(configs, KERNELS, CPU)
    start, gradients = random(3, SIZE), [random(3, SIZE, seed=seed) for seed in (1, 2)]
    usual = updated(muon, start, gradients)
    disturbed = [gradient.clone() for gradient in gradients]
    disturbed[0][0] = math.nan
    disturbed[1][2] *= -3
    for ours, other in zip(usual, updated(muon, start, disturbed), strict=True):
        assert torch.equal(ours[1], other[1])
    alone = updated(Muon(configs[1:2], KERNELS, CPU), start[1:2], [g[1:2] for g in gradients])
    torch.testing.assert_close(usual[0][1:2], alone[0], rtol=1e-4, atol=1e-5)


# --- what is Muon's ---


def test_hidden_kernels_have_several_channels_on_both_sides():
    shapes = {
        "encoder.0.weight": (4, 1, 3, 3),  # reads a board
        "encoder.0.bias": (4,),
        "step.0.weight": (4, 4, 3, 3),
        "step.0.bias": (4,),
        "lstm1.input.weight": (16, 4, 3, 3),
        "step.1.weight": (4, 4, 3, 3),
        "count.linear.weight": (1, 144),
        "decoder.0.weight": (1, 4, 3, 3),  # makes a board
    }
    assert list(hidden_kernels(shapes)) == ["step.0.weight", "lstm1.input.weight", "step.1.weight"]
    # Those of one shape side by side, then everything else as it was.
    assert list(kernels_first(shapes)) == [
        "step.0.weight",
        "step.1.weight",
        "lstm1.input.weight",
        "encoder.0.weight",
        "encoder.0.bias",
        "step.0.bias",
        "count.linear.weight",
        "decoder.0.weight",
    ]
    assert kernels_first(shapes) == shapes


@pytest.mark.parametrize(
    "config",
    [
        tiny(optimizer="muon", rnn=False, enc_layers=2),
        tiny(optimizer="muon", gan="joint"),
        tiny_count(optimizer="muon", count_layers=2),
    ],
)
def test_every_parameter_has_one_optimizer_and_kernels_have_muon(config):
    experiment = experiment_of(config)
    shapes = experiment.layout.shapes
    kinds = torch.zeros(1, experiment.layout.size)
    for columns, optimizer in experiment.optimizers():
        kinds[:, columns] += 1 + 9 * isinstance(optimizer, Muon)
    for name, kind in experiment.layout.unpack(kinds).items():
        is_hidden = len(shapes[name]) == 4 and 1 not in shapes[name][:2] and "discriminator" not in name
        assert (kind == (10 if is_hidden else 1)).all(), name
    assert (kinds == 10).any()


def test_a_network_without_hidden_kernels_is_adams():
    ((columns, optimizer),) = experiment_of(tiny(channels=1, optimizer="muon")).optimizers()
    assert isinstance(optimizer, Adam)
    assert columns == slice(0, experiment_of(tiny(channels=1)).layout.size)
