"""The counting task: its losses, gate and evaluation against plain numpy."""

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from training_helpers import CPU, experiment_of, random, tiny_count, train, watched

from imagination.life import rules, sampler
from imagination.life.baselines import baseline_correlations

START = torch.tensor([0])


def first_batch(config):
    """The experiment, its fresh parameters, the first states, and the true sequence `[m, B, H, W]`."""
    experiment = experiment_of(config)
    data = experiment.initial_data()
    return experiment, experiment.initial_parameters(), data, rules.states(data[0], config.gol).numpy()


# --- training ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gol": 1, "model_t": 3, "count_weight": 2.5},
        {"gol": 3, "model_t": 2, "lstm_layers": 1, "count_layers": 2, "dec_layers": 2, "enc_layers": 2},
    ],
)
def test_the_loss_is_what_double_precision_computes(changes):
    config = tiny_count(**changes)
    experiment, parameters, data, states = first_batch(config)
    named = reference.plain(experiment.layout.unpack(parameters))
    hidden = reference.count_hidden(config, named, states[0])
    # The counts of s_1 at h_0 and of s_m at h_T, in shares of the board's 36 cells; the board of s_1 at h_0.
    living = [states[at].sum((1, 2)) / 36 for at in (0, -1)]
    counts = [reference.count(config, named, hidden[at]) for at in (0, -1)]
    errors = [((count - share) ** 2).mean() for count, share in zip(counts, living, strict=True)]
    output = reference.stack(named, "decoder", hidden[0], config.dec_layers, linear_end=True)[:, 0]
    board = ((reference.sigmoid(output) - states[0]) ** 2).mean()
    forward = experiment.forward(parameters, data, START)
    assert forward.loss.tolist() == pytest.approx([config.count_weight * sum(errors) + board], rel=1e-4)
    right = np.round(counts[1] * 36) == states[-1].sum((1, 2))
    assert forward.accuracy.tolist() == [right.mean()]


@pytest.mark.parametrize(("says", "counted"), [(0.49, 0), (3.51, 4), (4.49, 4), (4.51, 5)])
def test_a_count_is_right_if_it_is_after_rounding(says, counted):
    config = tiny_count(batch=64)
    experiment, parameters, data, states = first_batch(config)
    named = experiment.layout.unpack(parameters)
    # Without weights the head says its bias of every board.
    named["count.linear.weight"].zero_()
    named["count.linear.bias"][:] = says / 36
    share = (states[-1].sum((1, 2)) == counted).mean()
    assert share > 0
    assert experiment.forward(parameters, data, START).accuracy.item() == share


def test_the_board_decoder_learns_from_the_first_state_alone():
    experiment, parameters, data, states = first_batch(tiny_count())
    outputs = [random(1, 8, 6, 6, seed=seed) for seed in range(2)]
    sequence = torch.from_numpy(states)[:, None]
    usual = experiment.supervised(outputs, sequence)
    others = sequence.clone()
    others[1:] ^= True
    assert torch.equal(usual, experiment.supervised([outputs[0], -outputs[1]], others))
    assert not torch.equal(usual, experiment.supervised([-outputs[0], outputs[1]], sequence))
    # Nor does counting change it: its gradient is that of its own loss, whatever the counts weigh.
    found = []
    for weight in (1.0, 100.0):
        made = experiment_of(tiny_count(count_weight=weight))
        leaf = parameters.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(made.forward(leaf, data, START).loss.sum(), leaf)
        found.append(made.layout.unpack(gradient))
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]) == name.startswith("decoder"), name


# --- the gate ---


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"accuracy": 1e-9}, ("reached", 10)),
        ({}, ("step_limit", 40)),
        ({"give_up_at": 1, "give_up_accuracy": 0.9}, ("given_up", 10)),  # asked at the intervals' ends alone
        ({"give_up_at": 20, "give_up_accuracy": 0.9}, ("given_up", 20)),
        ({"give_up_at": 21, "give_up_accuracy": 0.9}, ("given_up", 30)),
        ({"give_up_at": 40, "give_up_accuracy": 0.9}, ("step_limit", 40)),
        ({"give_up_at": 10, "give_up_accuracy": 1e-9}, ("step_limit", 40)),  # better than that
        ({"give_up_at": 0, "give_up_accuracy": 0.9}, ("step_limit", 40)),
    ],
)
def test_the_gate_reads_the_count_accuracy_of_the_last_interval(changes, ending):
    config = tiny_count(seed=2, batch=64, **changes)
    experiment, seen = watched([config])
    (recorder,) = train([config], experiment=experiment)
    assert (recorder.outcome, recorder.metrics["steps"]) == ending
    accuracy = np.mean(seen[ending[1] - 10 : ending[1]])  # eval_every is 10
    assert 0 < accuracy < 0.9
    assert recorder.metrics["train_accuracy"] == pytest.approx(accuracy)
    assert "correlation" in recorder.metrics
    assert recorder.weights
    assert [value for _, value in recorder.traces["count"]] == seen[: ending[1] : 5]


# --- evaluation ---


def decoded_in_float64(config, weights, truth):
    """The decoded boards `[N, T + 1, H, W]` and the counts of s_m, by the network in plain numpy."""
    named = {name: value.astype(np.float64) for name, value in weights.items()}
    hidden = reference.count_hidden(config, named, truth[:, 0])
    outputs = [reference.stack(named, "decoder", h, config.dec_layers, linear_end=True)[:, 0] for h in hidden]
    return reference.sigmoid(np.stack(outputs, axis=1)), reference.count(config, named, hidden[-1])


def coefficients(alive, truth):
    """Matthews' coefficient of every state with every true state, pooled, clipped: numpy's correlation."""
    found = np.zeros((alive.shape[1], truth.shape[1]))
    for i, j in np.ndindex(found.shape):
        pair = alive[:, i].ravel(), truth[:, j].ravel()
        found[i, j] = max(0, np.corrcoef(*pair)[0, 1]) if all(np.std(each) for each in pair) else 0
    return found


@pytest.mark.parametrize(("gol", "model_t"), [(2, 2), (3, 3), (3, 2), (1, 3)])
def test_metrics_are_what_double_precision_computes(gol, model_t):
    config = tiny_count(gol=gol, model_t=model_t, seed=3, batch=64)
    (recorder,) = train([config])
    truth = sampler.evaluation_states(gol, board=6, sequences=40, device=CPU).numpy()
    boards, counts = decoded_in_float64(config, recorder.weights, truth)
    table = coefficients(boards > 0.5, truth[:, 1:])
    # s_1 counts as no target; the final state does; h_0 may be chosen.
    published = table.max(axis=0).mean()
    assert published > 0.02
    found = recorder.metrics
    assert found["correlation"] == found["correlation_plain"] == pytest.approx(published)
    assert found["correlation_adv"] is None
    if gol == model_t:  # h_i for s_{i+1}
        aligned = np.mean([table[i, i - 1] for i in range(1, gol + 1)])
        assert found["correlation_aligned"] == pytest.approx(aligned)
    else:
        assert found["correlation_aligned"] is None
    repeat = coefficients(truth[:, :1], truth[:, 1:]).mean()
    assert found["baseline_repeat"] == pytest.approx(repeat)
    right = np.round(counts * 36) == truth[:, -1].sum((1, 2))
    assert found["eval_accuracy"] == pytest.approx(right.mean())
    same = (boards[:, 0] > 0.5) == truth[:, 0]
    assert found["autoencoder_accuracy"] == pytest.approx(same.mean())
    assert "metric" not in found


def test_samples_are_ranked_by_the_correlation_of_their_sequence():
    config = tiny_count(gol=2, model_t=3, seed=3)
    (recorder,) = train([config])
    truth = sampler.evaluation_states(2, board=6, sequences=40, device=CPU).numpy()
    alive = decoded_in_float64(config, recorder.weights, truth)[0] > 0.5
    # Of a sequence: for each true state the best over the model's, averaged over those with a living cell.
    living = truth[:, 1:].any((2, 3))
    every = [coefficients(alive[n : n + 1], truth[n : n + 1, 1:]).max(0) for n in range(40)]
    means = [best[has].mean() if has.any() else np.nan for best, has in zip(every, living, strict=True)]
    scores, defined = np.array(means), sorted(mean for mean in means if not np.isnan(mean))
    assert len(defined) < 40  # boards that die out have no score, and are no pictures of a run's worst
    sample = recorder.samples["plain"]
    assert sample["decoded"].shape == (7, 4, 6, 6)
    assert sample["truth"].shape == (7, 3, 6, 6)
    np.testing.assert_allclose(sample["score"], [scores[n] for n in sample["index"]], atol=1e-9)
    best, median, worst = sample["score"][4:]
    assert best == pytest.approx(defined[-1])
    assert worst == pytest.approx(defined[0])
    assert median == pytest.approx(defined[len(defined) // 2])


def test_repeating_the_first_state_has_the_correlation_that_was_published_for_it():
    # Chain sampler, 10x10: .49 / .34 / .27 / .24 for s_2 .. s_5; rounded, and measured with other boards.
    truth = sampler.evaluation_states(4, board=10, sequences=4000, device=CPU).numpy()
    assert coefficients(truth[:, :1], truth[:, 1:])[0] == pytest.approx([0.49, 0.34, 0.27, 0.24], abs=0.015)
    ours = baseline_correlations(4, 4, board=10, sequences=4000, device=CPU)["baseline_repeat"]
    assert ours == pytest.approx((0.49 + 0.34 + 0.27 + 0.24) / 4, abs=0.015)


def test_a_perfect_decoder_has_no_ceiling_below_1_unless_it_leaves_states_out():
    for gol, model_t in [(2, 2), (2, 4), (3, 3)]:
        ours = baseline_correlations(gol, model_t, board=6, sequences=200, device=CPU)
        assert ours["baseline_perfect"] == pytest.approx(1)
    # 3/2: h_0, h_1, h_2 show s_1, s_2, s_4, so s_3 has the best correlation with one of these.
    truth = sampler.evaluation_states(3, board=6, sequences=200, device=CPU).numpy()
    best = max(coefficients(truth[:, [0, 1, 3]], truth[:, 2:3])[:, 0])
    ours = baseline_correlations(3, 2, board=6, sequences=200, device=CPU)
    assert ours["baseline_perfect"] == pytest.approx((1 + best + 1) / 3)


def test_the_trace_has_every_states_similarity_and_the_count():
    (recorder,) = train([tiny_count(gol=3, model_t=3)])
    assert list(recorder.traces) == ["count", "state1", "state2", "state3", "state4"]
    (unequal,) = train([tiny_count(gol=1, model_t=2)])
    assert list(unequal.traces) == ["count", "state1", "state3"]  # no true state between
