"""Discriminator and generator, and whole adversarial updates, against plain numpy in float64."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from training_helpers import CPU, after, experiment_of, tiny, tiny_count, train

from imagination.life import rules
from imagination.training import philox
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.layers import ParameterLayout
from imagination.training.state import TrainState

SEEDS, STEPS = torch.tensor([7, 8]), torch.tensor([3, 5])


def random(*shape, seed=0, draw=torch.randn):
    return draw(*shape, generator=torch.Generator().manual_seed(seed))


boards = partial(random, draw=torch.rand)


# --- the parts ---


def mask(shape, *, seed, step, stream):
    """Dropout factors of one run `[N, C, H, W]`: two of 16 bits per random word, low half first; 30% are dropped."""
    count = math.prod(shape[1:])
    words = philox.words(
        torch.tensor([seed]),
        torch.tensor([step]),
        stream=f"dropout.{stream}",
        lanes=shape[0],
        count=-(-count // 2),
    )[0].numpy()
    halves = np.stack([words % 2**16, words // 2**16], axis=-1).reshape(shape[0], -1)[:, :count]
    return (halves >= round(0.3 * 2**16)).reshape(shape) / 0.7


def logits(named, x, *, seed, step, stream):
    """The discriminator of the protocol: stride-2 convolutions, LeakyReLU and dropout, flatten, one linear output."""
    x = x[:, None]
    for layer in range(sum(name.startswith("discriminator") for name in named) // 2 - 1):
        weight, bias = (named[f"discriminator.{layer}.{part}"] for part in ("weight", "bias"))
        x = reference.leaky(reference.convolution(x, weight, bias, stride=2))
        x = x * mask(x.shape, seed=seed, step=step, stream=f"{stream}.{layer}")
    return reference.linear(named, "discriminator.linear", x)


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
    masks = made.masks(x, seeds=SEEDS[:runs], steps=STEPS[:runs], stream="fake")
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
    assert to_fake.any() and not any(gradient.any() for gradient in to_discriminator)
    to_fake, *to_discriminator = gradients(own)
    assert not to_fake.any() and all(gradient.any() for gradient in to_discriminator)


def test_dropout_leaves_out_three_in_ten_and_scales_the_rest():
    made = Discriminator([8], board=10)
    (found,) = made.masks(torch.ones(2, 50, 10, 10), seeds=SEEDS, steps=STEPS, stream="x")
    assert found.shape == (50, 2 * 8, 5, 5)
    assert sorted(found.unique().tolist()) == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    for run in (found[:, :8], found[:, 8:]):  # 10,000 draws: their standard deviation is .0046
        assert (run == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
        assert run.double().mean().item() == pytest.approx(1.0, abs=0.03)


def test_dropout_is_a_function_of_seed_step_stream_and_board_not_of_the_pack():
    def draw(seeds=(7, 8), steps=(3, 5), stream="x", lanes=6):
        (drawn,) = Discriminator([2], board=10).masks(
            torch.ones(len(seeds), lanes, 10, 10),
            seeds=torch.tensor(seeds),
            steps=torch.tensor(steps),
            stream=stream,
        )
        return drawn.unflatten(1, (len(seeds), 2)).transpose(0, 1)  # [R, N, C, H, W]

    usual = draw()
    assert torch.equal(draw(seeds=[8], steps=[5])[0], usual[1])
    assert torch.equal(draw(lanes=9)[:, :6], usual)
    assert not torch.equal(usual[0, 0], usual[0, 1]) and not torch.equal(usual[0, 0, 0], usual[0, 0, 1])
    for other in (draw(seeds=[9, 10]), draw(steps=[4, 6]), draw(stream="y")):
        assert not torch.equal(other[0], usual[0]) and not torch.equal(other[1], usual[1])


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


def test_the_new_decoders_rate_follows_the_models_schedule_over_its_own_updates():
    config = tiny(gan="posthoc", schedule="linear", warmup=0.5, adv_steps=8, adv_lr=0.3, disc_lr=0.2)
    (_, decoder), (_, judge) = experiment_of(config).next_stage().optimizers()
    assert (decoder.lr.item(), judge.lr.item()) == (pytest.approx(0.3), pytest.approx(0.2))
    # Half of 8 updates are 4: the first takes a quarter of the peak, the fourth all of it; then it falls by 1/4 each.
    for step, share in {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.5, 8: 0.0}.items():
        assert decoder.schedule.factor(torch.tensor([step])).item() == share
        assert judge.schedule.factor(torch.tensor([step])).item() == 1.0


# --- one update, through the trainer ---

STEP = 3  # the update after three others, so that Adam's moments and the ramp matter
TINIEST = {
    "channels": 2,
    "board": 5,
    "batch": 3,
    "gol": 3,
    "model_t": 3,
    "warmup": 0.0,
    "schedule": "constant",
    "adv_weight": 0.8,
    "adv_ramp": 0.5,
    "adv_steps": 10,
    "max_steps": 10,
    "clip": 0.05,
    "adv_lr": 0.01,
    "lr": 0.02,
    "disc_lr": 0.003,
    "seed": 5,
}
RISEN = 0.8 * 3 / 5  # half of the ten updates are five


def adversarial(config):
    """The experiment in which this config's discriminator trains."""
    return experiment_of(config).next_stage() or experiment_of(config)


def begun(experiment):
    """A checkpoint in the middle of the experiment's stage: everything in it is random."""
    state = TrainState.initial(experiment)
    state.parameters += 0.1 * random(*state.parameters.shape)
    state.mean[:] = 0.01 * random(*state.mean.shape, seed=1)
    state.variance[:] = 1e-6 * (0.5 + boards(*state.mean.shape, seed=2))
    state.data[:] = boards(*state.data.shape, seed=3) < 0.5
    state.step[:] = STEP
    return state.arrays(0)


class Reference:
    """One run's batch: its losses as functions of the parameters by name, in float64."""

    def __init__(self, config, checkpoint, *, decoder, depth):
        data = torch.from_numpy(checkpoint["data"])
        self.config, self._decoder, self._depth = config, decoder, depth
        self._sequence = rules.states(data[: config.batch], config.gol).double().numpy()
        self._real = data[config.batch :].double().numpy()

    def _boards(self, named):
        """Decoded h_0 .. h_T."""
        is_count = self.config.experiment == "life_count"
        hidden_states = reference.count_hidden if is_count else reference.state_hidden
        decoded = []
        for hidden in hidden_states(self.config, named, self._sequence[0]):
            output = reference.stack(named, self._decoder, hidden, self._depth, linear_end=True)[:, 0]
            decoded.append(output if getattr(self.config, "loss", "") == "l2" else reference.sigmoid(output))
        return decoded

    def _supervised(self, first, last):
        """The protocol's targets: s_1 at h_0 and s_m at h_T; for the counting task s_1 alone."""
        if self.config.experiment == "life_count":
            return ((first - self._sequence[0]) ** 2).mean()
        pairs = [(last, self._sequence[-1])] + [(first, self._sequence[0])] * self.config.ae
        return np.mean([self._loss(*pair) for pair in pairs])

    def _loss(self, board, truth):
        if self.config.loss == "l2":
            return ((board - truth) ** 2).mean()
        return -(truth * np.log(board) + (1 - truth) * np.log(1 - board)).mean()

    def fake(self, named):
        """Decoded intermediate states, timestep by timestep."""
        return np.concatenate(self._boards(named)[1:-1])

    def generator(self, named):
        """The loss of the decoder, and of whatever else is trained with it."""
        first, *between, last = self._boards(named)
        judged = logits(named, np.concatenate(between), seed=5, step=STEP, stream="fake")
        return self._supervised(first, last) + RISEN * reference.softplus(-judged).mean()

    def discriminator(self, named, fake):
        """The discriminator's loss for these decoded boards."""
        judged = logits(named, fake, seed=5, step=STEP, stream="fake")
        known = logits(named, self._real, seed=5, step=STEP, stream="real")
        return reference.softplus(-known).mean() + reference.softplus(judged).mean()


def clipped(gradient, config):
    """By value or by the norm of all that is passed."""
    if config.clip_by == "value":
        assert np.abs(gradient).max() > config.clip  # or the test would show nothing
        return gradient.clip(-config.clip, config.clip)
    norm = np.linalg.norm(gradient)
    assert norm > config.clip
    return gradient * config.clip / norm


def updated(columns, gradient, checkpoint, *, lr):
    """Adam's parameters, mean and variance of these columns."""
    value, *moments = (
        checkpoint[name][columns].astype(np.float64) for name in ("parameters", "mean", "variance")
    )
    return reference.adam(value, gradient, *moments, lr=lr, step=STEP)


def assert_updated(found, before, columns, expected, *, lr):
    """The columns of the checkpoint `found` are what was expected, up to rounding."""
    moved = expected[0] - before["parameters"][columns]
    assert np.abs(moved).max() > 0.1 * lr
    np.testing.assert_allclose(
        found["parameters"][columns] - before["parameters"][columns], moved, atol=1e-3 * lr
    )
    for name, wanted in zip(("mean", "variance"), expected[1:], strict=True):
        np.testing.assert_allclose(found[name][columns], wanted, rtol=1e-4, atol=1e-6)


UPDATES = [
    tiny(**TINIEST, gan="posthoc", clip_by="norm"),
    tiny(**TINIEST, gan="posthoc", clip_by="norm", ae=False, loss="l2", adv_layers=1, rnn=False),
    replace(tiny(**TINIEST, gan="posthoc", clip_by="value", step_layers=1), clip=0.005),
    tiny_count(**TINIEST, gan="posthoc", clip_by="norm"),
    tiny(**TINIEST, gan="joint", clip_by="norm", step_layers=1),
    tiny(**TINIEST, gan="joint", clip_by="norm", step_layers=1, loss="l2", ae=False),
]


@pytest.mark.parametrize(
    "config", UPDATES, ids=["posthoc", "l2 without ae", "by value", "count", "joint", "joint l2 without ae"]
)
def test_an_adversarial_update_is_what_double_precision_computes(config):
    posthoc = config.gan == "posthoc"
    experiment = adversarial(config)
    layout, before = experiment.layout, begun(experiment)
    (recorder,) = train([config], checkpoints=[before], stop=after(1))
    found = recorder.checkpoints[-1]
    assert (int(found["stage"]), int(found["step"])) == (int(posthoc), STEP + 1)

    named = reference.plain(layout.unpack(torch.from_numpy(before["parameters"])[None]))
    name, depth = ("adversary", config.adv_depth) if posthoc else ("decoder", config.dec_layers)
    ours = Reference(config, before, decoder=name, depth=depth)
    judges = [each for each in named if each.startswith("discriminator")]
    network = list(experiment_of(replace(config, gan="none")).layout.shapes)
    generates = [each for each in named if each.startswith("adversary")] if posthoc else network

    # The generator's side: the whole gradient, because its norm is what is clipped.
    gradient = np.concatenate(
        [reference.derivative(lambda: ours.generator(named), named[n]) for n in generates]
    )
    lr, columns = (config.adv_lr if posthoc else config.lr), layout.columns(generates)
    expected = updated(columns, clipped(gradient, config), before, lr=lr)
    assert_updated(found, before, columns, expected, lr=lr)

    # The discriminator's side, not clipped; decoded boards are given. Some entries of every parameter will do.
    fake = ours.fake(named)
    for each in judges:
        entries = np.random.default_rng(0).permutation(named[each].size)[:12]
        gradient = reference.derivative(lambda: ours.discriminator(named, fake), named[each], entries=entries)
        columns = layout.columns([each]).start + entries
        expected = updated(columns, gradient, before, lr=config.disc_lr)
        assert_updated(found, before, columns, expected, lr=config.disc_lr)

    if posthoc:  # the network has not moved by a bit
        for each in ("parameters", "mean", "variance"):
            assert np.array_equal(found[each][layout.columns(network)], before[each][layout.columns(network)])


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
    assert judged and all(once[name].any() and torch.equal(once[name], without[name]) for name in judged)


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
    assert torch.equal(experiment.next_data(forward, torch.tensor([1])), rules.step(data))


@pytest.mark.parametrize("config", POSTHOC)
def test_real_boards_are_the_discriminators_alone(config):
    experiment = adversarial(config)
    parameters, data = experiment.initial_parameters(), experiment.initial_data()
    other = data.clone()
    other[:, config.batch :] ^= True
    usual, changed = (experiment.forward(parameters, each, STEPS[:1]) for each in (data, other))
    assert torch.equal(usual.generator, changed.generator)
    assert torch.equal(usual.outputs, changed.outputs)
    assert usual.discriminator.item() != changed.discriminator.item()
    assert (usual.loss - usual.discriminator).item() == pytest.approx(
        (changed.loss - changed.discriminator).item(), abs=1e-5
    )
