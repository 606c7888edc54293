"""The adversarial stage of a run: its border, packs, stopping, divergence, and what it leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import CPU, MemoryRecorder, after, at_the_border, experiment_of, tiny, tiny_count, train

from imagination import metrics
from imagination.life import networks, sampler
from imagination.runner import CheckpointError, Run
from imagination.training.loop import Trainer

pytestmark = pytest.mark.slow

STAGES = {
    "gan": "posthoc",
    "max_steps": 10,
    "eval_every": 5,
    "adv_steps": 6,
    "trace_every": 4,
    "adv_layers": 2,
}
STATE, COUNT = tiny(**STAGES), tiny_count(**STAGES)
BOTH = pytest.mark.parametrize("config", [STATE, COUNT], ids=["state", "count"])
PLAIN, ADVERSARIAL = (  # the metrics of either decoder
    {"life_state": f"metric_{name}", "life_count": f"correlation_{name}"} for name in ("plain", "adv")
)


# --- the border ---


@BOTH
def test_the_adversary_begins_with_the_trained_network_and_parameters_of_its_own(config):
    (checkpoint,) = at_the_border([config])
    (without,) = train([replace(config, gan="none")])
    layout = experiment_of(config).next_stage().layout
    named = layout.unpack(torch.from_numpy(checkpoint["parameters"])[None])
    fresh = layout.unpack(layout.glorot_uniform(torch.tensor([config.seed])))
    judges = 3 if config is STATE else config.disc_layers
    parts = [f"adversary.{layer}" for layer in range(config.adv_depth)]
    parts += [f"discriminator.{layer}" for layer in [*range(judges), "linear"]]
    assert set(named) - set(without.weights) == {f"{p}.{kind}" for p in parts for kind in ("weight", "bias")}
    for name, value in named.items():
        assert np.array_equal(value[0], without.weights[name] if name in without.weights else fresh[name][0])
    assert not checkpoint["mean"].any()
    assert not checkpoint["variance"].any()
    assert (int(checkpoint["step"]), int(checkpoint["earlier"])) == (0, 10)


@BOTH
@pytest.mark.parametrize(("accuracy", "ending"), [(1e-9, ("reached", 5)), (1.0, ("step_limit", 10))])
def test_how_the_networks_training_ended_is_what_is_recorded(config, accuracy, ending):
    configs = [replace(config, batch=64, accuracy=accuracy, gan=gan) for gan in ("posthoc", "none")]
    with_adversary, without = (train([each])[0] for each in configs)
    assert (with_adversary.outcome, with_adversary.metrics["steps"]) == ending
    assert without.outcome == with_adversary.outcome
    # Nothing of the network or of its own decoder has changed by a bit.
    own = {"train_accuracy", "steps", "eval_accuracy", "autoencoder_accuracy", "baseline_repeat"}
    for name in (*own, PLAIN[config.experiment]):
        assert with_adversary.metrics[name] == without.metrics[name]
    for name, weight in without.weights.items():
        assert np.array_equal(weight, with_adversary.weights[name])
    assert set(with_adversary.traces) - set(without.traces) == {
        *(f"adv_state{state}" for state in (1, 2, 3)),
        "adv_generator_loss",
        "adv_discriminator_loss",
    }
    for name, points in without.traces.items():
        assert points == with_adversary.traces[name]
    assert [step for step, _ in with_adversary.traces["adv_state1"]] == [0, 4]  # of 6 steps, counted from 0


@BOTH
@pytest.mark.parametrize(
    ("accuracy", "steps", "adversarial"), [(1e-9, [0, 4], [5, 9]), (1.0, [0, 4, 8], [10, 14])]
)
def test_progress_counts_on_from_where_the_networks_training_ended(config, accuracy, steps, adversarial):
    # Traces of the second stage count from its own beginning, at 0 and 4; who watches sees one run go on.
    watched = replace(config, batch=64, accuracy=accuracy)
    recorders = train(
        [watched, replace(watched, seed=2, adv_steps=4)]
    )  # the second has left before its step 4
    for recorder, last in zip(recorders, (adversarial, adversarial[:1]), strict=True):
        assert [step for step, _ in recorder.progressed] == steps + last
        shown = [any(name.startswith("adv_state") for name in values) for _, values in recorder.progressed]
        assert shown == [False] * len(steps) + [True] * len(last)
    assert watched.total_steps == 10 + 6 > adversarial[-1]


def test_a_run_given_up_has_no_adversary():
    (recorder,) = train([replace(COUNT, give_up_at=5, give_up_accuracy=0.5)])
    assert (recorder.outcome, recorder.metrics["steps"]) == ("given_up", 5)
    assert recorder.metrics["correlation_adv"] is None
    assert recorder.metrics["correlation_plain"] is not None


@BOTH
def test_a_diverged_run_has_none_and_its_neighbour_has(config):
    ruined, fine = train([replace(config, lr=1e38, clip_by="none"), replace(config, seed=1)])
    assert ruined.outcome == "diverged"
    assert ruined.error is None
    assert not any(name.startswith("adv") for name in ruined.traces)
    assert set(ruined.weights) == set(experiment_of(config).layout.shapes)
    assert set(ruined.metrics) == {"train_accuracy", "steps"}
    assert fine.outcome == "step_limit"
    assert fine.metrics[ADVERSARIAL[config.experiment]] is not None


@BOTH
def test_each_run_keeps_its_place_whichever_ends_its_stage_first(config):
    # The second ends both stages before the first; each must still train its own network, at its own rates.
    configs = [replace(config, seed=1), replace(config, seed=2, max_steps=5, adv_steps=2, adv_lr=0.5)]
    for ours, each in zip(train(configs), configs, strict=True):
        (alone,) = train([each])
        assert {name: len(points) for name, points in ours.traces.items()} == {
            name: len(points) for name, points in alone.traces.items()
        }
        for name, value in alone.weights.items():
            np.testing.assert_allclose(ours.weights[name], value, rtol=1e-3, atol=1e-3)


# --- stopping and resuming ---


class Sessions:
    """A pack that is stopped and taken up again until every run has ended, as a worker does it."""

    def __init__(self, configs):
        self.recorders = [MemoryRecorder() for _ in configs]
        self._runs = list(zip(configs, self.recorders, strict=True))
        self.stages = []

    def train(self, *, steps):
        """Stop after so many questions, again and again; an ended run is not taken up."""
        while open_runs := [(c, r) for c, r in self._runs if r.outcome is None]:
            checkpoints = [r.checkpoints[-1] if r.checkpoints else None for _, r in open_runs]
            self.stages.append([-1 if c is None else int(c["stage"]) for c in checkpoints])
            assert len(self.stages) < 100, "these sessions do not get any further"
            runs = [Run(c, r, k) for (c, r), k in zip(open_runs, checkpoints, strict=True)]
            Trainer(experiment_of(*(c for c, _ in open_runs)), runs).train(stop=after(steps))


@BOTH
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("steps", [1, 4])
def test_stopped_and_resumed_is_as_if_undisturbed_to_the_bit(config, runs, steps):
    # Stopped before every step (or every fourth), between the stages and in every evaluation, while both runs are in
    # one stage or in two, and after one has left.
    configs = [replace(config, seed=1, adv_steps=14), replace(config, seed=2, max_steps=5, adv_steps=9)][
        -runs:
    ]
    undisturbed, sessions = train(configs), Sessions(configs)
    sessions.train(steps=steps)
    if runs == 2:
        assert [0, 1] in sessions.stages
        assert [1, 1] in sessions.stages
        assert [1] in sessions.stages
    for once, again in zip(undisturbed, sessions.recorders, strict=True):
        assert (again.outcome, again.metrics, again.traces) == (once.outcome, once.metrics, once.traces)
        assert again.progressed == once.progressed
        assert set(again.weights) == set(once.weights)
        for name, weight in once.weights.items():
            assert np.array_equal(weight, again.weights[name])


def test_a_run_stopped_in_its_last_evaluation_only_evaluates_again():
    (undisturbed,) = train([STATE])
    (stopped,) = train([STATE], stop=after(10 + 6))  # the next question comes from the evaluation
    assert stopped.outcome is None
    last = stopped.checkpoints[-1]
    assert (int(last["stage"]), int(last["step"])) == (1, 6)
    (resumed,) = train([STATE], checkpoints=[last])
    assert resumed.metrics == undisturbed.metrics
    assert not resumed.traces


@pytest.mark.parametrize(
    "other", [tiny(), replace(STATE, adv_layers=3)], ids=["no such stage", "another decoder"]
)
def test_a_checkpoint_of_another_kind_is_refused(other):
    (checkpoint,) = at_the_border([STATE])
    with pytest.raises(CheckpointError) as refused:
        train([other, other], checkpoints=[None, checkpoint])
    assert refused.value.index == 1


# --- what is left behind ---


@BOTH
def test_the_value_of_a_run_is_the_larger_of_both_decoders(config):
    (recorder,) = train([config])
    found = recorder.metrics
    named = {name: torch.from_numpy(value)[None] for name, value in recorder.weights.items()}
    side = config.eval_board if config.experiment == "life_state" else config.board
    truth = sampler.evaluation_states(2, board=side, sequences=40, device=CPU)
    hidden = experiment_of(config).network.hidden_states(named, truth[None, :, 0])
    expected = {}
    for key, name, depth in (
        ("plain", "decoder", config.dec_layers),
        ("adv", "adversary", config.adv_depth),
    ):
        decoded = torch.stack([networks.decode(named, h, name=name, depth=depth)[0] for h in hidden], dim=1)
        boards = decoded.sigmoid()
        sample = recorder.samples["plain" if key == "plain" else "adversarial"]
        np.testing.assert_allclose(sample["decoded"][:4], boards[:4].numpy(), atol=1e-3)
        np.testing.assert_array_equal(sample["index"][:4], range(4))
        if config.experiment == "life_state":
            expected[key] = metrics.interpretability(boards[:, 1:-1], truth[:, 1:-1]).mean().item()
        else:
            expected[key] = metrics.matthews(boards, truth[:, 1:]).amax(0).mean().item()
    assert found[PLAIN[config.experiment]] == pytest.approx(expected["plain"])
    assert found[ADVERSARIAL[config.experiment]] == pytest.approx(expected["adv"])
    whole = "metric" if config.experiment == "life_state" else "correlation"
    assert found[whole] == pytest.approx(max(expected.values()))
    assert expected["plain"] != expected["adv"]
    both = [recorder.samples[name]["index"].tolist() for name in ("plain", "adversarial")]
    assert both[0] == both[1]


@BOTH
@pytest.mark.parametrize("runaway", [{"adv_lr": 1e38}, {"disc_lr": 1e38, "adv_ramp": 0.0}])
def test_of_an_adversary_that_runs_away_nothing_is_shown(config, runaway):
    (recorder,) = train([replace(config, clip_by="none", **runaway)])
    (without,) = train([replace(config, clip_by="none", gan="none")])
    assert recorder.outcome == "step_limit"
    assert recorder.error is None
    assert not np.isfinite(recorder.weights["adversary.0.weight"]).all()
    assert recorder.metrics == without.metrics
    assert recorder.metrics[ADVERSARIAL[config.experiment]] is None
    assert list(recorder.samples) == ["plain"]
    # Its losses end where they are no numbers any more, for which a store has no place.
    points = recorder.traces["adv_generator_loss"]
    assert points[0][0] == 0
    assert len(points) < 2
    assert np.isfinite(points).all()


@BOTH
@pytest.mark.parametrize("name", ["adversary.0.bias", "adversary.1.weight", "adversary.1.bias"])
def test_one_number_that_ran_away_is_enough(config, name):
    (recorder,) = train([config])
    named = {key: torch.from_numpy(value)[None].clone() for key, value in recorder.weights.items()}
    named[name].view(-1)[0] = float("nan")
    (found,) = experiment_of(config).evaluate(named)
    assert found.metrics[ADVERSARIAL[config.experiment]] is None
    assert list(found.samples) == ["plain"]


def test_a_joint_runs_decoder_is_the_adversarial_one():
    (recorder,) = train([tiny(gan="joint")])
    found = recorder.metrics
    assert found["metric_plain"] is None
    assert found["metric"] == found["metric_adv"] is not None
    assert list(recorder.samples) == ["adversarial"]
    assert list(recorder.traces) == ["state1", "state2", "state3"]
    assert "adversary.0.weight" not in recorder.weights
    assert "discriminator.linear.weight" in recorder.weights


def test_the_new_decoder_learns_its_targets_from_the_frozen_states():
    # The network itself has hardly been trained: its h_0 still contains s_1, and a decoder can learn to read it.
    config = replace(STATE, batch=32, adv_steps=150, adv_lr=0.02, adv_weight=0.01, trace_every=10)
    (recorder,) = train([replace(config, max_steps=10, eval_every=10)])
    first, last = (recorder.traces["adv_state1"][place][1] for place in (0, -1))
    assert first < 0.9
    assert last > 0.97
