"""Whole adversarial updates, through the trainer, against plain numpy in float64."""

from dataclasses import replace

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from adversary_helpers import adversarial, boards, logits
from training_helpers import after, experiment_of, random, tiny, tiny_count, train

from imagination.life import rules
from imagination.training.state import TrainState

pytestmark = pytest.mark.slow

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
    "max_steps": 20,
    "clip": 0.05,
    "adv_lr": 0.01,
    "lr": 0.02,
    "disc_lr": 0.003,
    "seed": 5,
}
RISEN = 0.8 * 3 / 5  # half of the ten adversarial updates are five, whatever `max_steps` says


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
        """Decoded states that have no target, timestep by timestep; of the counting task the last has none either."""
        end = None if self.config.experiment == "life_count" else -1
        return np.concatenate(self._boards(named)[1:end])

    def generator(self, named):
        """The loss of the decoder, and of whatever else is trained with it."""
        first, *_, last = self._boards(named)
        judged = logits(named, self.fake(named), seed=5, step=STEP, stream="fake")
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


# A gol other than model_t changes what is decoded (model_t - 1 states) and what is predicted (s_m), apart.
LONGER, SHORTER = {"gol": 2, "model_t": 3}, {"gol": 3, "model_t": 2}
UPDATES = {
    "posthoc": tiny(**TINIEST, gan="posthoc", clip_by="norm"),
    "posthoc 2/3": tiny(**TINIEST | LONGER, gan="posthoc", clip_by="norm"),
    "posthoc 3/2": tiny(**TINIEST | SHORTER, gan="posthoc", clip_by="norm"),
    "l2 without ae": tiny(
        **TINIEST, gan="posthoc", clip_by="norm", ae=False, loss="l2", adv_layers=1, rnn=False
    ),
    "by value": tiny(**TINIEST | {"clip": 0.005}, gan="posthoc", clip_by="value", step_layers=1),
    "count": tiny_count(**TINIEST, gan="posthoc", clip_by="norm"),
    "count 2/3": tiny_count(**TINIEST | LONGER, gan="posthoc", clip_by="norm"),
    "count 3/2": tiny_count(**TINIEST | SHORTER, gan="posthoc", clip_by="norm"),
    "joint": tiny(**TINIEST, gan="joint", clip_by="norm", step_layers=1),
    "joint 2/3": tiny(**TINIEST | LONGER, gan="joint", clip_by="norm", step_layers=1),
    "joint 3/2": tiny(**TINIEST | SHORTER, gan="joint", clip_by="norm", step_layers=1),
    "joint l2 without ae": tiny(**TINIEST, gan="joint", clip_by="norm", step_layers=1, loss="l2", ae=False),
}


@pytest.mark.parametrize("config", UPDATES.values(), ids=UPDATES)
@pytest.mark.usefixtures("kernels")
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
