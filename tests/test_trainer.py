"""The trainer: one step in double precision, packs, stopping, resuming, divergence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_helpers import CPU, TINY, after, tiny, train

from imagination.life import networks, rules
from imagination.life.state import LifeState
from imagination.training.state import TrainState

START = torch.tensor([0])

MUON, JOINT = {"optimizer": "muon"}, {"gan": "joint", "adv_weight": 0.5, "adv_ramp": 0.0}
KINDS = pytest.mark.parametrize("kind", [{}, MUON, JOINT], ids=["adam", "muon", "joint"])


class Watched(LifeState):
    """Notes the first run's training accuracy in every step."""

    def __init__(self, configs, device=CPU, seen=None):
        super().__init__(configs, device)
        self.seen = [] if seen is None else seen

    def select(self, kept):
        return Watched([self.configs[index] for index in kept], seen=self.seen)

    def forward(self, parameters, data, steps):
        forward = super().forward(parameters, data, steps)
        self.seen.append(forward.accuracy[0].item())
        return forward


def parameters_after(configs, steps, **options):
    """`[R, P]` parameters after so many steps."""
    recorders = train(configs, stop=after(steps), **options)
    return torch.stack([torch.from_numpy(r.checkpoints[-1]["parameters"]) for r in recorders])


def one_step_in_float64(config):
    """The parameters after one update, by torch's own layers, losses, clipping and Adam, in double precision."""
    experiment = LifeState([config], CPU)
    named = experiment.layout.unpack(experiment.initial_parameters().double())
    leaves = {name: value[0].clone().requires_grad_() for name, value in named.items()}
    states = rules.states(experiment.initial_data()[0], config.gol).double()

    def stack(name, x, count, *, linear_end=False):
        for layer in range(count):
            x = F.conv2d(x, leaves[f"{name}.{layer}.weight"], leaves[f"{name}.{layer}.bias"], padding="same")
            x = x if linear_end and layer == count - 1 else F.leaky_relu(x, 0.3)
        return x

    def decode(h):
        return stack("decoder", h, config.dec_layers, linear_end=True)[:, 0]

    h = first = stack("encoder", states[0][:, None], config.enc_layers)
    for t in range(1, config.model_t + 1):
        h = h + stack("step" if config.rnn else f"step{t}", h, config.step_layers)
    loss_of = F.mse_loss if config.loss == "l2" else F.binary_cross_entropy_with_logits
    terms = [loss_of(decode(h), states[-1])]
    if config.ae:
        terms.append(loss_of(decode(first), states[0]))
    (sum(terms) / len(terms)).backward()
    if config.clip_by == "value":
        torch.nn.utils.clip_grad_value_(leaves.values(), config.clip)
    else:
        torch.nn.utils.clip_grad_norm_(leaves.values(), config.clip)
    torch.optim.Adam(leaves.values(), lr=config.lr, eps=1e-7).step()
    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves.values()])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ae": False},
        {"rnn": False, "gol": 1, "model_t": 3},
        {"loss": "l2", "clip_by": "value", "clip": 0.01, "gol": 3},
        {"clip": 1e-3, "enc_layers": 2, "dec_layers": 2},
    ],
)
def test_a_training_step_is_what_double_precision_computes(changes):
    config = tiny(warmup=0.0, **changes)
    ours = parameters_after([config], 1)[0].double()
    before = LifeState([config], CPU).initial_parameters()[0].double()
    expected = one_step_in_float64(config)
    # Adam's first update moves every weight by about lr, whatever the gradient's size, so a tiny gradient whose
    # sign rounding decides may differ; it must be rare, and nothing else may.
    assert (expected - before).abs().max() > 0.9 * config.lr
    different = (ours - expected).abs() > 0.01 * config.lr
    assert different.double().mean() < 0.005
    assert torch.linalg.vector_norm(ours - expected) < 0.05 * torch.linalg.vector_norm(expected - before)


@KINDS
def test_packed_and_alone_agree_over_the_first_steps(kind):
    # Everything that may differ inside a pack does.
    configs = [
        tiny(**kind, seed=1, disc_lr=3e-3),
        tiny(**kind | {"adv_ramp": 0.5}, seed=2, ae=False, lr=1e-3, muon_lr=0.05, reset=0.5),
        tiny(
            **kind | {"adv_weight": 0.1},
            seed=3,
            loss="l2",
            clip_by="value",
            clip=0.1,
            schedule="constant",
            warmup=0.0,
        ),
    ]
    packed = parameters_after(configs, 5)
    for index, config in enumerate(configs):
        torch.testing.assert_close(packed[index], parameters_after([config], 5)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 16])
@KINDS
def test_no_run_influences_another_to_the_bit(channels, kind):
    class Perturbed(LifeState):
        def initial_data(self):
            data = super().initial_data()
            for row, config in zip(data, self.configs, strict=True):
                row ^= config.seed == 1
            return data

    configs = [tiny(**kind, seed=seed, channels=channels) for seed in (1, 2)]
    usual = parameters_after(configs, 9)
    perturbed = parameters_after(configs, 9, experiment=Perturbed(configs, CPU))
    assert not torch.equal(usual[0], perturbed[0])
    assert torch.equal(usual[1], perturbed[1])
    # A run that blows up (an absurd rate gives NaN) leaves its neighbour alone, too.
    ruined = parameters_after([replace(configs[0], lr=1e38, muon_lr=1e38, disc_lr=1e38), configs[1]], 9)
    assert not ruined[0].isfinite().all()
    assert torch.equal(usual[1], ruined[1])


def test_a_run_that_ends_leaves_the_pack_and_the_other_goes_on_as_before():
    configs = [tiny(seed=1, max_steps=10), tiny(seed=2)]
    short, long = train(configs)
    assert (short.outcome, short.metrics["steps"]) == ("step_limit", 10)
    assert (long.outcome, long.metrics["steps"]) == ("step_limit", 40)
    alone = train([configs[1]])[0]
    assert [step for step, _ in long.traces["state3"]] == [step for step, _ in alone.traces["state3"]]
    for name, value in long.weights.items():
        np.testing.assert_allclose(value, alone.weights[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "stops"),
    [({}, (1,)), ({}, (7, 23)), ({}, (10, 10, 35)), (MUON, (1, 23)), (JOINT, (7, 35))],
    ids=["once", "twice", "at an interval's end", "muon", "joint"],
)
@pytest.mark.parametrize("runs", [1, 2])
def test_stopped_and_resumed_is_as_if_undisturbed_to_the_bit(stops, runs, kind):
    configs = [tiny(**kind, seed=seed) for seed in range(runs)]
    undisturbed = train(configs)
    checkpoints, traces = None, [{} for _ in configs]
    done = 0
    for stop in [*stops, 1000]:
        recorders = train(configs, checkpoints=checkpoints, stop=after(max(stop - done, 0)))
        for recorder, trace in zip(recorders, traces, strict=True):
            for name, points in recorder.traces.items():
                trace.setdefault(name, []).extend(points)
        checkpoints = [r.checkpoints[-1] if r.checkpoints else None for r in recorders]
        done = max(stop, done)
    for once, again, trace in zip(undisturbed, recorders, traces, strict=True):
        assert again.metrics == once.metrics
        assert again.outcome == once.outcome
        assert trace == once.traces
        for name, weight in once.weights.items():
            assert np.array_equal(weight, again.weights[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_resumed_is_as_undisturbed_on_a_gpu():
    from jobs.worker import choose_device

    configs = [tiny(seed=seed) for seed in range(3)]
    experiments = [LifeState(configs, choose_device("cuda")) for _ in range(3)]
    undisturbed = train(configs, experiment=experiments[0])
    stopped = train(configs, experiment=experiments[1], stop=after(17))
    checkpoints = [r.checkpoints[-1] for r in stopped]
    resumed = train(configs, experiment=experiments[2], checkpoints=checkpoints)
    assert [r.metrics for r in resumed] == [r.metrics for r in undisturbed]


def test_checkpoints_come_by_the_clock_and_hold_the_whole_state():
    recorder = train([TINY], checkpoint_every_s=0)[0]
    # Before every step but the first, which has only begun, and when training is over.
    assert [int(c["step"]) for c in recorder.checkpoints] == [*range(40), 40]
    state = TrainState.initial(LifeState([TINY], CPU))
    state.restore(0, recorder.checkpoints[7])
    restored = state.arrays(0)
    assert all(np.array_equal(restored[name], value) for name, value in recorder.checkpoints[7].items())


@pytest.mark.parametrize(("gate", "ending"), [(0.0001, ("reached", 10)), (1.0, ("step_limit", 40))])
def test_the_stopping_rule_reads_the_mean_accuracy_of_the_last_interval(gate, ending):
    watched = Watched([tiny(accuracy=gate)])
    recorder = train(watched.configs, experiment=watched)[0]
    assert (recorder.outcome, recorder.metrics["steps"]) == ending
    assert recorder.metrics["train_accuracy"] == pytest.approx(
        np.mean(watched.seen[-10:])
    )  # eval_every is 10


@pytest.mark.parametrize(
    ("max_steps", "batches"),
    [
        (13, 13),  # 10 to 13 would be an interval of 3, so the interval from 0 goes on to the end
        (29, 19),  # 0-10, then 10-29
        (30, 10),
        (7, 7),  # shorter than an interval: all there is
        (1, 1),
    ],
)
def test_the_last_interval_is_never_a_short_one(max_steps, batches):
    watched = Watched([tiny(max_steps=max_steps, eval_every=min(10, max_steps), trace_every=1)])
    recorder = train(watched.configs, experiment=watched)[0]
    assert (recorder.outcome, recorder.metrics["steps"]) == ("step_limit", max_steps)
    assert recorder.metrics["train_accuracy"] == pytest.approx(np.mean(watched.seen[-batches:]))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_stopped_in_its_evaluation_only_evaluates_again(runs):
    configs = [tiny(seed=seed) for seed in range(runs)]
    undisturbed = train(configs)
    # 40 steps ask 40 times; the next question comes from the evaluation of the first run.
    stopped = train(configs, stop=after(40))
    assert all(r.outcome is None and int(r.checkpoints[-1]["step"]) == 40 for r in stopped)
    watched = Watched(configs)
    resumed = train(configs, checkpoints=[r.checkpoints[-1] for r in stopped], experiment=watched)
    assert not watched.seen
    assert [r.metrics for r in resumed] == [r.metrics for r in undisturbed]


def test_the_trace_has_every_state_at_every_trace_step_before_the_update():
    config = tiny(gol=3, model_t=3)
    recorder = train([config])[0]
    assert list(recorder.traces) == ["state1", "state2", "state3", "state4"]
    for points in recorder.traces.values():
        assert [step for step, _ in points] == list(range(0, 40, 5))
    # Step 0 is the untrained network on the first batch.
    experiment = LifeState([config], CPU)
    named = experiment.layout.unpack(experiment.initial_parameters())
    states = rules.states(experiment.initial_data(), 3)
    hidden = experiment.network.hidden_states(named, states[0])
    for index, h in enumerate(hidden):
        alive = (
            networks.decode(named, h, name="decoder", depth=1)[0] > 0
        )  # a logit above 0 is a probability above .5
        share = (alive == states[index, 0]).double().mean().item()
        assert recorder.traces[f"state{index + 1}"][0][1] == pytest.approx(share)


@pytest.mark.parametrize(
    ("gol", "model_t", "names"),
    [
        (
            2,
            3,
            ["state1", "state2", "state3", "state4"],
        ),  # both intermediate ones with s_2, the last with s_3
        (3, 2, ["state1", "state2", "state3"]),
        (1, 3, ["state1", "state4"]),  # no true intermediate state: nothing to compare with
        (3, 1, ["state1", "state2"]),
    ],
)
def test_the_trace_of_unequal_timesteps(gol, model_t, names):
    assert list(train([tiny(gol=gol, model_t=model_t)])[0].traces) == names


def test_a_diverged_run_ends_with_its_outcome_and_without_metrics():
    recorder = train([tiny(lr=1e38, clip_by="none")])[0]
    assert recorder.outcome == "diverged"
    assert recorder.error is None
    assert "metric" not in recorder.metrics
    assert recorder.metrics["steps"] == 10


def test_a_run_whose_evaluation_goes_wrong_fails_alone():
    class Broken(LifeState):
        def select(self, kept):
            return Broken([self.configs[index] for index in kept], self.device)

        def evaluate(self, parameters, **options):
            if self.configs[0].seed == 1:
                raise RuntimeError("boom")
            return super().evaluate(parameters, **options)

    configs = [tiny(seed=1), tiny(seed=2)]
    broken, fine = train(configs, experiment=Broken(configs, CPU))
    assert str(broken.error) == "boom"
    assert broken.outcome is None
    assert fine.outcome == "step_limit"
    assert fine.error is None


def test_training_lowers_the_loss():
    config = tiny(channels=8, batch=32, max_steps=300, eval_every=100, gol=1, model_t=1, lr=5e-3)
    experiment = LifeState([config], CPU)
    before = experiment.forward(experiment.initial_parameters(), experiment.initial_data(), START).loss.item()
    recorder = train([config])[0]
    weights = [torch.from_numpy(recorder.weights[name]).reshape(1, -1) for name in experiment.layout.shapes]
    after_training = experiment.forward(
        torch.cat(weights, dim=1), experiment.initial_data(), START
    ).loss.item()
    assert after_training < 0.5 * before
