"""Evaluation: the metrics of a trained network, the trivial decoders, the samples."""

import numpy as np
import pytest
import torch
from training_helpers import CPU, tiny, train

from imagination import metrics
from imagination.life import networks, sampler
from imagination.life.baselines import baseline_metrics
from imagination.life.state import LifeState


def evaluate(config, parameters=None):
    experiment = LifeState([config], CPU)
    parameters = experiment.initial_parameters() if parameters is None else parameters
    (found,) = experiment.evaluate(experiment.layout.unpack(parameters))
    return found


def test_trivial_decoders_get_what_was_published_for_them():
    # Chain sampler, 20x20, 2 / 3 / 4 timesteps; the figures are rounded to two digits and hold for 10,000
    # sequences, whose mean moves by less than .01 with the draw.
    table = {2: (0.04, 0.01, 0.04), 3: (0.05, 0.02, 0.54), 4: (0.06, 0.03, 0.72)}
    for timesteps, (repeat, dead, shifted) in table.items():
        ours = baseline_metrics(timesteps, timesteps, board=20, sequences=10_000, device=CPU)
        assert ours["baseline_repeat"] == pytest.approx(repeat, abs=0.012)
        assert ours["baseline_dead"] == pytest.approx(dead, abs=0.012)
        assert ours["baseline_shifted"] == pytest.approx(shifted, abs=0.012)


def test_a_perfect_decoder_gets_what_was_published_for_it():
    # 4.67% of the sequences hardly change, so that each of their states matches both. 3/3: such a sequence scores
    # (1.5 + 1.5) / 2, the others (1 + 1) / 2: 1.0233. 3/2: (1 + 1) / 1 and 1: 1.0467. 2/3: 1 + .5 for two boards that
    # both show s_2.
    published = {(2, 2): 1.0, (3, 3): 1.0233, (4, 4): 1.0432, (5, 5): 1.0611, (2, 3): 1.5, (3, 2): 1.047}
    for (gol, model_t), value in published.items():
        ours = baseline_metrics(gol, model_t, board=20, sequences=10_000, device=CPU)
        assert ours["baseline_perfect"] == pytest.approx(value, abs=0.004)


def test_the_shifted_decoder_stops_at_the_final_state():
    # 2/3: h_1 and h_2 would show s_3 and s_4; there is no s_4, so both show s_3 and neither is intermediate.
    truth = sampler.evaluation_states(2, board=8, sequences=60, device=CPU)
    both = truth[:, 2:3].expand(-1, 2, -1, -1).float()
    expected = metrics.interpretability(both, truth[:, 1:2]).mean().item()
    ours = baseline_metrics(2, 3, board=8, sequences=60, device=CPU)
    assert ours["baseline_shifted"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "changes", [{"gol": 1, "model_t": 1}, {"gol": 1, "model_t": 3}, {"gol": 3, "model_t": 1}]
)
def test_without_an_intermediate_state_the_metrics_are_null(changes):
    found = evaluate(tiny(**changes)).metrics
    for name in (
        "metric",
        "metric_plain",
        "metric_dataset",
        "baseline_repeat",
        "baseline_perfect",
        "aligned_accuracy",
    ):
        assert found[name] is None
    assert 0 <= found["eval_accuracy"] <= 1


def test_metrics_are_those_of_the_decoded_boards():
    config = tiny(gol=3, model_t=3, loss="l2")
    experiment = LifeState([config], CPU)
    parameters = experiment.initial_parameters()
    named = experiment.layout.unpack(parameters)
    truth = sampler.evaluation_states(3, board=8, sequences=40, device=CPU)
    hidden = experiment.network.hidden_states(named, truth[None, :, 0])
    boards = torch.stack([networks.decode(named, h, name="decoder", depth=1)[0] for h in hidden], dim=1)
    found = evaluate(config).metrics
    alive = (boards > 0.5).numpy()  # the linear output itself, for the squared error
    equal = alive == truth.numpy()
    assert found["eval_accuracy"] == pytest.approx(equal[:, -1].mean())
    assert found["autoencoder_accuracy"] == pytest.approx(equal[:, 0].mean())
    assert found["aligned_accuracy"] == pytest.approx(equal[:, 1:-1].mean())
    score = metrics.interpretability(boards[:, 1:-1], truth[:, 1:-1]).mean().item()
    assert found["metric"] == found["metric_plain"] == pytest.approx(score)
    assert found["metric_adv"] is None


def test_aligned_accuracy_exists_only_for_equal_timesteps():
    assert evaluate(tiny(gol=2, model_t=3)).metrics["aligned_accuracy"] is None


def test_samples_hold_the_first_sequences_and_the_best_median_and_worst():
    recorder = train([tiny(gol=3, model_t=2)])[0]
    sample = recorder.samples["plain"]
    assert sample["truth"].shape == (7, 4, 8, 8)
    assert sample["truth"].dtype == np.uint8
    assert sample["decoded"].shape == (7, 3, 8, 8)
    assert sample["decoded"].dtype == np.float16
    best, median, worst = sample["score"][-3:]
    assert best >= median >= worst
    assert best == sample["score"].max()
    assert worst == sample["score"].min()


def test_evaluation_does_not_depend_on_chunks(monkeypatch):
    whole = evaluate(tiny()).metrics
    monkeypatch.setattr("imagination.life.experiment._CHUNK", 7)
    assert evaluate(tiny()).metrics == pytest.approx(whole, nan_ok=True)


@pytest.mark.parametrize(("gol", "states", "slipped"), [(3, [2, 3], [2, 4]), (4, [2, 3, 4], [2, 3, 5])])
def test_the_index_slip_scores_the_final_state_as_the_last_intermediate_one(gol, states, slipped):
    # A decoder without weights whose bias is negative shows dead boards. There is one of them (model_t 2), so a
    # sequence scores 1 for each true state with at most 3 living cells: 5% of 64 pixels are 3.2.
    config = tiny(gol=gol, model_t=2, eval_sequences=400)
    parameters = torch.zeros(1, LifeState([config], CPU).layout.size)
    parameters[0, -1] = -1
    found = evaluate(config, parameters).metrics
    truth = sampler.evaluation_states(gol, board=8, sequences=400, device=CPU).numpy()
    is_dead = truth.sum((2, 3)) <= 3

    def score(numbers):
        return sum(is_dead[:, number - 1].mean() for number in numbers)

    assert found["metric"] == pytest.approx(score(states))
    assert found["metric_slip"] == pytest.approx(score(slipped))
    assert score(slipped) > score(states) > 0


@pytest.mark.parametrize(("gol", "model_t"), [(2, 2), (2, 3)])
def test_the_index_slip_exists_only_where_the_board_has_more_timesteps(gol, model_t):
    assert evaluate(tiny(gol=gol, model_t=model_t)).metrics["metric_slip"] is None
