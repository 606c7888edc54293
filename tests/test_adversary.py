"""Discriminator and generator against plain numpy in float64, and what reaches what."""

import math
from dataclasses import replace

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from adversary_helpers import adversarial, boards, logits
from training_helpers import CPU, experiment_of, random, tiny, tiny_count

from imagination.life import rules
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.layers import ParameterLayout

SEEDS, STEPS = torch.tensor([7, 8]), torch.tensor([3, 5])


# --- the parts ---


def discriminator(widths, *, board, runs):
    """A discriminator and its parameters by name, biases included."""
    made = Discriminator(widths, board=board)
    layout = ParameterLayout(made.shapes)
    drawn = layout.glorot_uniform(torch.arange(runs)) + 0.1 * random(runs, layout.size)
    return made, layout.unpack(drawn.requires_grad_())


@pytest.mark.parametrize(("widths", "board"), [([4, 8, 16], 12), ([4, 8, 16], 5), ([3, 6], 7), ([2], 6)])
@pytest.mark.parametrize("runs", [1, 2])
def test_the_discriminator_is_what_double_precision_computes(widths, board, runs):
    made, named = discriminator(widths, board=board, runs=runs)
    x = boards(runs, 5, board, board)
    (masks,) = made.masks({"fake": x}, seeds=SEEDS[:runs], steps=STEPS[:runs])
    found = made.logits(named, x, masks)
    assert found.shape == (runs, 5)
    for run in range(runs):
        wanted = logits(
            reference.plain(named, run),
            x[run].double().numpy(),
            seed=int(SEEDS[run]),
            step=int(STEPS[run]),
            stream="fake",
        )
        np.testing.assert_allclose(found[run].detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_parameters_are_counted_by_hand():
    # Boards of 20x20 become 10, 5 and 3: 4*9 + 4, 8*4*9 + 8, 16*8*9 + 16, and 16*3*3 + 1.
    assert ParameterLayout(Discriminator([4, 8, 16], board=20).shapes).size == 40 + 296 + 1168 + 145


def test_losses_are_cross_entropies():
    # Without weights every logit is the linear layer's bias b: the generator wants it high, -log sigmoid(b); the
    # discriminator wants it high for real boards and low for decoded ones, -log sigmoid(b) - log(1 - sigmoid(b)).
    made = Discriminator([2], board=4)
    layout = ParameterLayout(made.shapes)
    parameters = torch.zeros(2, layout.size)
    parameters[:, -1] = torch.tensor([0.0, 1.5])
    both = made.losses(
        layout.unpack(parameters), real=boards(2, 3, 4, 4), fake=boards(2, 6, 4, 4), seeds=SEEDS, steps=STEPS
    )
    for b, generator, own in zip([0.0, 1.5], *(loss.tolist() for loss in both), strict=True):
        real = 1 / (1 + math.exp(-b))
        assert generator == pytest.approx(-math.log(real))
        assert own == pytest.approx(-math.log(real) - math.log(1 - real))


def test_neither_sides_loss_reaches_the_other():
    made, named = discriminator([4, 8], board=6, runs=2)
    fake = boards(2, 3, 6, 6).requires_grad_()
    generator, own = made.losses(named, real=boards(2, 4, 6, 6, seed=1), fake=fake, seeds=SEEDS, steps=STEPS)

    def gradients(loss):
        return torch.autograd.grad(
            loss.sum(), [fake, *named.values()], retain_graph=True, allow_unused=True, materialize_grads=True
        )

    to_fake, *to_discriminator = gradients(generator)
    assert to_fake.any()
    assert not any(gradient.any() for gradient in to_discriminator)
    to_fake, *to_discriminator = gradients(own)
    assert not to_fake.any()
    assert all(gradient.any() for gradient in to_discriminator)


def test_dropout_leaves_out_three_in_ten_and_scales_the_rest():
    made = Discriminator([8], board=10)
    ((found,),) = made.masks({"x": torch.ones(2, 50, 10, 10)}, seeds=SEEDS, steps=STEPS)
    assert found.shape == (50, 2 * 8, 5, 5)
    assert sorted(found.unique().tolist()) == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    for run in (found[:, :8], found[:, 8:]):  # 10,000 draws: their standard deviation is .0046
        assert (run == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
        assert run.double().mean().item() == pytest.approx(1.0, abs=0.03)


def test_dropout_is_a_function_of_seed_step_stream_and_board_not_of_the_pack():
    def draw(seeds=(7, 8), steps=(3, 5), stream="x", lanes=6):
        ((drawn,),) = Discriminator([2], board=10).masks(
            {stream: torch.ones(len(seeds), lanes, 10, 10)},
            seeds=torch.tensor(seeds),
            steps=torch.tensor(steps),
        )
        return drawn.unflatten(1, (len(seeds), 2)).transpose(0, 1)  # [R, N, C, H, W]

    usual = draw()
    assert torch.equal(draw(seeds=[8], steps=[5])[0], usual[1])
    assert torch.equal(draw(lanes=9)[:, :6], usual)
    assert not torch.equal(usual[0, 0], usual[0, 1])
    assert not torch.equal(usual[0, 0, 0], usual[0, 0, 1])
    for other in (draw(seeds=[9, 10]), draw(steps=[4, 6]), draw(stream="y")):
        assert not torch.equal(other[0], usual[0])
        assert not torch.equal(other[1], usual[1])


def test_the_generators_weight_rises_as_configured():
    configs = [
        tiny(
            adv_weight=2.0, adv_ramp=0.5, adv_steps=10
        ),  # half of 10 updates: from 0 by .4 each to 2 after the fifth
        tiny(adv_weight=0.034, adv_ramp=1.0, adv_steps=20),  # all of 20
        tiny(adv_weight=3.0, adv_ramp=0.0, adv_steps=10),  # never less
    ]
    ramp = Ramp(configs, CPU)
    for steps, wanted in {
        (0, 0, 0): [0.0, 0.0, 3.0],
        (1, 10, 1): [0.4, 0.017, 3.0],
        (5, 20, 5): [2.0, 0.034, 3.0],
        (9, 19, 9): [2.0, 0.034 * 0.95, 3.0],
        (500, 500, 500): [2.0, 0.034, 3.0],
    }.items():
        assert ramp.weight(torch.tensor(steps)).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("max_steps", [10, 80])
def test_a_joint_generators_weight_rises_over_its_share_of_the_adversarys_steps(max_steps):
    # Half of 40 adversarial steps are 20, whether the network's training ends before (10) or goes on (80).
    settings = {"gan": "joint", "adv_steps": 40, "max_steps": max_steps}
    rising, there, absent = (
        experiment_of(tiny(**settings, adv_weight=weight, adv_ramp=ramp))
        for weight, ramp in [(0.8, 0.5), (0.8, 0.0), (0.0, 0.0)]
    )
    parameters, data = there.initial_parameters(), there.initial_data()

    def losses(step):
        return [
            e.forward(parameters, data, torch.tensor([step])).loss.item() for e in (rising, there, absent)
        ]

    for step, share in {0: 0.0, 1: 0.05, 9: 0.45, 20: 1.0, 39: 1.0}.items():
        risen, whole, without = losses(step)
        assert whole - without > 0.1  # .8 * log 2 or so
        assert (risen - without) / (whole - without) == pytest.approx(share, abs=1e-5)


def test_the_new_decoders_rate_follows_the_models_schedule_over_its_own_updates():
    config = tiny(gan="posthoc", schedule="linear", warmup=0.5, adv_steps=8, adv_lr=0.3, disc_lr=0.2)
    (_, decoder), (_, judge) = experiment_of(config).next_stage().optimizers()
    assert (decoder.lr.item(), judge.lr.item()) == (pytest.approx(0.3), pytest.approx(0.2))
    # Half of 8 updates are 4: the first takes a quarter of the peak, the fourth all of it; then it falls by 1/4 each.
    for step, share in {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.5, 8: 0.0}.items():
        assert decoder.schedule.factor(torch.tensor([step])).item() == share
        assert judge.schedule.factor(torch.tensor([step])).item() == 1.0


# --- what reaches what ---


def gradient(experiment):
    """The first step's gradient by parameter's name."""
    parameters = experiment.initial_parameters().requires_grad_()
    forward = experiment.forward(parameters, experiment.initial_data(), torch.tensor([3]))
    (found,) = torch.autograd.grad(forward.loss.sum(), parameters)
    return {name: value[0] for name, value in experiment.layout.unpack(found).items()}


@pytest.mark.parametrize("changes", [{}, {"loss": "l2"}, {"rnn": False, "model_t": 3}])
def test_the_joint_generator_reaches_the_network_and_the_discriminators_loss_does_not(changes):
    none = gradient(experiment_of(tiny(gan="none", **changes)))
    without, once, twice = (
        gradient(experiment_of(tiny(gan="joint", adv_weight=weight, adv_ramp=0.0, **changes)))
        for weight in (0.0, 1.0, 2.0)
    )
    for name in none:
        # At weight 0 nothing is left of the adversary but the discriminator's loss.
        torch.testing.assert_close(without[name], none[name], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(
            twice[name] - none[name], 2 * (once[name] - none[name]), rtol=1e-3, atol=1e-6
        )
        # The last timestep's own step network lies behind the intermediate states.
        assert name.startswith("step3") or (once[name] - none[name]).abs().max() > 1e-5, name
    judged = [name for name in once if name.startswith("discriminator")]
    assert judged
    assert all(once[name].any() and torch.equal(once[name], without[name]) for name in judged)


POSTHOC = [tiny(gan="posthoc"), tiny_count(gan="posthoc")]


@pytest.mark.parametrize("config", POSTHOC)
def test_the_posthoc_adversary_reaches_no_network(config):
    experiment = adversarial(config)
    found = gradient(experiment)
    for name, value in found.items():
        assert bool(value.any()) == (name not in experiment_of(config).layout.shapes), name


@pytest.mark.parametrize("config", [*POSTHOC, tiny(gan="joint")])
def test_real_boards_are_first_states_of_another_batch_of_the_same_chains(config):
    experiment = adversarial(replace(config, reset=1e-9))
    data = experiment.initial_data()
    assert data.shape == (1, 2 * config.batch, config.board, config.board)
    fresh = adversarial(replace(config, reset=1.0)).initial_data()[0]
    assert len({board.numpy().tobytes() for board in fresh}) == 2 * config.batch  # 16 boards, none twice
    forward = experiment.forward(experiment.initial_parameters(), data, torch.tensor([0]))
    assert torch.equal(experiment.next_data(forward.carry, torch.tensor([1])), rules.step(data))


def first_states(experiment, steps):
    """First states of the stage's first batches `[steps, L, H, W]`, as training goes through them."""
    parameters, data, found = experiment.initial_parameters(), experiment.initial_data(), []
    for step in range(1, steps + 1):
        found.append(data[0])
        forward = experiment.forward(parameters, data, torch.tensor([step - 1]))
        data = experiment.next_data(forward.carry, torch.tensor([step]))
    return torch.stack(found)


@pytest.mark.parametrize("config", POSTHOC)
@pytest.mark.parametrize("reset", [0.1, 1.0])
def test_the_adversarial_stage_has_boards_of_its_own(config, reset):
    config = replace(config, reset=reset)
    trained = first_states(experiment_of(config), 12)
    own, real = first_states(adversarial(config), 3).split(config.batch, dim=1)
    batches = [*trained, *own, *real]
    assert len({batch.numpy().tobytes() for batch in batches}) == 12 + 3 + 3
    if reset == 1.0:  # every board is fresh, and no two of 144 boards of 36 random cells are equal
        boards_of = {board.numpy().tobytes() for batch in batches for board in batch}
        assert len(boards_of) == (12 + 3 + 3) * config.batch


@pytest.mark.parametrize("config", POSTHOC)
def test_real_boards_are_the_discriminators_alone(config):
    experiment = adversarial(config)
    parameters, data = experiment.initial_parameters(), experiment.initial_data()
    other = data.clone()
    other[:, config.batch :] ^= True
    usual, changed = (experiment.forward(parameters, each, STEPS[:1]) for each in (data, other))
    values, others = usual.traced(), changed.traced()
    assert any(name.startswith("adv_state") for name in values)
    judge, others_judge = (traced.pop("adv_discriminator_loss").item() for traced in (values, others))
    assert judge != others_judge
    assert values == others  # the generator's loss, and the similarity of every decoded board
    assert usual.loss.item() - judge == pytest.approx(changed.loss.item() - others_judge, abs=1e-5)
