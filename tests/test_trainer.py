"""The trainer: one step in double precision, packs, stopping, resuming, divergence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_helpers import (
    CPU,
    TINY,
    after,
    at_the_border,
    experiment_of,
    parameters_after,
    tiny,
    tiny_count,
    train,
    watched,
)

from imagination import registry
from imagination.life import networks, rules
from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.schema import rebuild
from imagination.training.state import TrainState

MUON, JOINT = {"optimizer": "muon"}, {"gan": "joint", "adv_weight": 0.5, "adv_ramp": 0.0}
POSTHOC = {"gan": "posthoc", "eval_every": 5, "trace_every": 4, "adv_layers": 2, "adv_steps": 6}
KINDS = {
    "adam": tiny(),
    "muon": tiny(**MUON, rnn=False, enc_layers=2),
    "wide muon": tiny(**MUON, channels=16),
    "joint": tiny(**JOINT),
    "joint muon": tiny(**JOINT | MUON),
    "posthoc": tiny(**POSTHOC, max_steps=10),
    "count": tiny_count(),
    "count muon": tiny_count(**MUON, count_layers=2),
    "count posthoc": tiny_count(**POSTHOC, max_steps=10),
}
EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
OF_STATE, OF_COUNT = ({"ae": False}, {"loss": "l2"}), ({"count_weight": 3.0}, {})


def beginnings(configs):
    """Every run's checkpoint before its first step, or its adversary's first step."""
    if configs[0].gan == "posthoc":
        return at_the_border(configs)
    return [r.checkpoints[-1] for r in train(configs, stop=after(0))]


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
@pytest.mark.usefixtures("kernels")
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


@EACH
@pytest.mark.usefixtures("kernels")
def test_packed_and_alone_agree_over_the_first_steps(kind):
    # Everything that may differ inside a pack does.
    second, third = OF_STATE if kind.experiment == "life_state" else OF_COUNT
    configs = [
        replace(kind, seed=1, disc_lr=3e-3, adv_lr=1e-3, clip_by="none"),
        replace(kind, seed=2, lr=1e-3, muon_lr=0.05, reset=0.5, adv_ramp=0.5, schedule="constant", **second),
        replace(
            kind, seed=3, clip_by="value", clip=0.1, schedule="exponential", decay=0.5, warmup=0.0, **third
        ),
    ]
    if kind.gan == "posthoc":  # the networks end at different steps, too
        configs[1:] = [replace(configs[1], max_steps=5), replace(configs[2], max_steps=7, adv_steps=9)]
    else:
        configs[2] = replace(configs[2], adv_weight=0.1)
    start = beginnings(configs)
    packed = parameters_after(configs, 5, checkpoints=start)
    for index, config in enumerate(configs):
        alone = parameters_after([config], 5, checkpoints=start[index : index + 1])[0]
        rtol, atol = (1e-3, 1e-4) if config.optimizer == "muon" else (1e-4, 1e-5)
        torch.testing.assert_close(packed[index], alone, rtol=rtol, atol=atol)
        assert (alone - torch.from_numpy(start[index]["parameters"])).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "small"])
@pytest.mark.usefixtures("kernels")
def test_packed_and_alone_agree_over_fifty_steps_of_a_preset(preset):
    config = rebuild(LifeStateConfig, registry.preset("life_state", preset))
    configs = [replace(config, seed=seed) for seed in range(3)]
    packed = parameters_after(configs, 50)
    for run, config in zip(packed, configs, strict=True):
        alone = parameters_after([config], 50)[0]
        apart = torch.linalg.vector_norm(run - alone) / torch.linalg.vector_norm(alone)
        assert apart < 1e-4


@EACH
@pytest.mark.usefixtures("kernels")
def test_no_run_influences_another_to_the_bit(kind):
    configs = [replace(kind, seed=1), replace(kind, seed=2)]
    start = beginnings(configs)
    usual = parameters_after(configs, 5, checkpoints=start)
    other_boards = {**start[0], "data": ~start[0]["data"]}
    perturbed = parameters_after(configs, 5, checkpoints=[other_boards, start[1]])
    assert not torch.equal(usual[0], perturbed[0])
    assert torch.equal(usual[1], perturbed[1])
    # A run that diverges (an absurd rate gives NaN) does not change its neighbour either.
    absurd = dict.fromkeys(("lr", "muon_lr", "adv_lr", "disc_lr"), 1e38)
    diverging = replace(configs[0], clip_by="none", **absurd)
    ruined = parameters_after([diverging, configs[1]], 5, checkpoints=start)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stops"),
    [({}, (1,)), ({}, (7, 23)), ({}, (10, 10, 35)), (MUON, (1, 23)), (JOINT, (7, 35))],
    ids=["once", "twice", "at an interval's end", "muon", "joint"],
)
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.usefixtures("kernels")
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
    experiment, seen = watched([tiny(accuracy=gate)])
    recorder = train(experiment.configs, experiment=experiment)[0]
    assert (recorder.outcome, recorder.metrics["steps"]) == ending
    assert recorder.metrics["train_accuracy"] == pytest.approx(np.mean(seen[-10:]))  # eval_every is 10


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
    config = tiny(max_steps=max_steps, eval_every=min(10, max_steps), trace_every=1)
    experiment, seen = watched([config])
    recorder = train([config], experiment=experiment)[0]
    assert (recorder.outcome, recorder.metrics["steps"]) == ("step_limit", max_steps)
    assert recorder.metrics["train_accuracy"] == pytest.approx(np.mean(seen[-batches:]))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_stopped_in_its_evaluation_only_evaluates_again(runs):
    configs = [tiny(seed=seed) for seed in range(runs)]
    undisturbed = train(configs)
    # 40 steps ask 40 times; the next question comes from the evaluation of the first run.
    stopped = train(configs, stop=after(40))
    assert all(r.outcome is None and int(r.checkpoints[-1]["step"]) == 40 for r in stopped)
    experiment, seen = watched(configs)
    resumed = train(configs, checkpoints=[r.checkpoints[-1] for r in stopped], experiment=experiment)
    assert not seen
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
        alive = networks.decode(named, h, name="decoder", depth=1)[0] > 0  # a probability above .5
        share = (alive == states[index, 0]).double().mean().item()
        assert recorder.traces[f"state{index + 1}"][0][1] == pytest.approx(share)


@pytest.mark.parametrize(
    ("gol", "model_t", "states"),
    [
        (2, 3, [1, 2, 3, 4]),  # both intermediate states are compared with s_2, the last with s_3
        (3, 2, [1, 2, 3]),
        (1, 3, [1, 4]),  # there is no true intermediate state
        (3, 1, [1, 2]),
    ],
)
def test_the_trace_of_unequal_timesteps(gol, model_t, states):
    traces = train([tiny(gol=gol, model_t=model_t)])[0].traces
    assert list(traces) == [f"state{number}" for number in states]


def test_a_diverged_run_ends_with_its_outcome_and_without_metrics():
    recorder = train([tiny(lr=1e38, clip_by="none")])[0]
    assert recorder.outcome == "diverged"
    assert recorder.error is None
    assert "metric" not in recorder.metrics
    assert recorder.metrics["steps"] == 10


class AsOnAGpu(LifeState):
    """All runs that end together are one lot."""

    def lots(self):
        return [range(len(self.configs))]


@pytest.mark.parametrize("kind", [LifeState, AsOnAGpu])
def test_a_run_whose_evaluation_goes_wrong_fails_alone(kind, caplog):
    lots = []

    class Broken(kind):
        def evaluate(self, parameters, **options):
            lots.append([config.seed for config in self.configs])
            if 1 in lots[-1]:
                raise RuntimeError("boom")
            return super().evaluate(parameters, **options)

    configs = [tiny(seed=seed) for seed in (1, 2, 3, 4)]
    broken, *fine = train(configs, experiment=Broken(configs, CPU))
    assert str(broken.error) == "boom"
    assert broken.outcome is None
    assert [(one.outcome, one.error) for one in fine] == [("step_limit", None)] * 3
    if kind is LifeState:  # on a CPU each run is a lot
        assert lots == [[1], [2], [3], [4]]
    else:
        assert lots == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4]]
        assert [text.partition(" ")[0] for text in caplog.messages] == ["4", "2"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [(tiny, {"eval_board": 12}), (tiny, {"eval_sequences": 70}), (tiny_count, {"eval_sequences": 70})],
)
def test_runs_of_a_pack_have_evaluation_sets_of_their_own(kind, changes, first):
    configs = [kind(seed=1), kind(seed=2, **changes)]
    found = train(configs[first:] + configs[:first])
    for one, config in zip(found, configs[first:] + configs[:first], strict=True):
        (alone,) = train([config])
        assert one.metrics == pytest.approx(alone.metrics, abs=0.02)
        assert one.metrics["baseline_repeat"] == alone.metrics["baseline_repeat"]
        assert {name: each["decoded"].shape for name, each in one.samples.items()} == {
            name: each["decoded"].shape for name, each in alone.samples.items()
        }


def test_lots_have_one_evaluation_set_and_a_bounded_size():
    def lots(*configs, device):
        return LifeState(configs, torch.device(device)).lots()

    mixed = [tiny(eval_board=8), tiny(eval_board=9), tiny(eval_board=8, eval_sequences=9), tiny(eval_board=9)]
    assert lots(*mixed, device="meta") == [[0], [1, 3], [2]]
    assert lots(*mixed, device="cpu") == [[0], [1], [3], [2]]
    assert [len(lot) for lot in lots(*[tiny()] * 40, device="meta")] == [16, 16, 8]


def test_a_stop_between_two_lots_loses_no_evaluation():
    configs = [tiny(seed=seed) for seed in range(3)]
    # 40 steps ask 40 times, and each evaluation of 40 sequences once.
    found = train(configs, stop=after(42))
    assert [one.outcome for one in found] == ["step_limit", "step_limit", None]


@pytest.mark.parametrize("kind", [tiny, tiny_count])
@pytest.mark.usefixtures("kernels")
def test_runs_that_end_together_are_evaluated_as_each_alone(kind):
    # The second run's adversarial decoder ran away, so this run shows its own decoder only.
    configs = [kind(seed=seed, gan="posthoc", adv_steps=1) for seed in range(3)]
    together = train(configs)
    experiment = experiment_of(*configs).next_stage()
    stacked = {
        name: torch.stack([torch.from_numpy(each.weights[name]) for each in together])
        for name in together[0].weights
    }
    stacked["adversary.0.weight"][1] = torch.nan
    found = experiment.evaluate(stacked)
    for run, each in enumerate(found):
        weights = {name: value[run : run + 1] for name, value in stacked.items()}
        (alone,) = experiment.select([run]).evaluate(weights)
        assert each.metrics == pytest.approx(alone.metrics, abs=1e-6)
        assert list(each.samples) == list(alone.samples)
        if run != 1:
            assert each.metrics == {name: together[run].metrics[name] for name in each.metrics}
    assert [len(each.samples) for each in found] == [2, 1, 2]


@pytest.mark.parametrize(
    "config",
    [
        tiny(channels=8, batch=32, max_steps=300, eval_every=100, gol=1, model_t=1, lr=5e-3),
        tiny_count(gol=1, model_t=1, batch=32, max_steps=150, eval_every=150, lr=1e-2),
    ],
    ids=["state", "count"],
)
@pytest.mark.usefixtures("kernels")
def test_training_lowers_the_loss(config):
    experiment = experiment_of(config)
    (recorder,) = train([config])
    weights = [torch.from_numpy(recorder.weights[name]).reshape(1, -1) for name in experiment.layout.shapes]
    before, now = (
        experiment.forward(parameters, experiment.initial_data(), torch.tensor([0])).loss.item()
        for parameters in (experiment.initial_parameters(), torch.cat(weights, dim=1))
    )
    assert now < 0.5 * before
