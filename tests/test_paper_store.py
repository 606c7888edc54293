"""The store that comes with the project: its weights give its numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import results_db
from imagination.life.sampler import evaluation_states

pytestmark = pytest.mark.slow

STORE = Path(__file__).parents[1] / "examples" / "paper.db"
WEIGHTS = {path.name.partition(".")[0]: path for path in STORE.with_suffix(".files").glob("weights/*")}


def life(path):
    """Whether this is a network that is written down here: of the state task, with a decoder of its own."""
    names = load_file(path).keys()
    return "decoder.0.weight" in names and not any("lstm" in name for name in names)


LIFE = sorted(
    (run_id for run_id, path in WEIGHTS.items() if life(path)), key=lambda one: WEIGHTS[one].stat().st_size
)
"""Run ids, the smallest network first."""


def convolutions(x, weights, name, *, linear_end=False):
    """The convolutions `name.0`, `name.1`, ... with LeakyReLU of slope .3."""
    depth = sum(each.startswith(f"{name}.") and each.endswith(".weight") for each in weights)
    assert depth, name
    for layer in range(depth):
        x = F.conv2d(x, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"], padding="same")
        x = x if linear_end and layer == depth - 1 else F.leaky_relu(x, 0.3)
    return x


def boards(weights, first, *, decoder, timesteps):
    """The decoded boards of h_0 to h_T from first states `[N, H, W]`, after the paper: bool `[N, T + 1, H, W]`."""
    hidden = [convolutions(first[:, None].float(), weights, "encoder")]
    for t in range(timesteps):
        name = "step" if "step.0.weight" in weights else f"step{t + 1}"
        hidden.append(hidden[-1] + convolutions(hidden[-1], weights, name))
    decoded = [convolutions(h, weights, decoder, linear_end=True)[:, 0] > 0 for h in hidden]
    return torch.stack(decoded, dim=1).numpy()


def interpretability(imagined, between):
    """Equation 1 of the paper for one sequence, word by word: boards `[n, H, W]` and `[m - 2, H, W]`."""
    score = 0.0
    for state in between:
        matches = sum((board == state).mean() >= 0.95 for board in imagined)
        score += 1 + 0.5 * (matches - 1) if matches else 0
    return score / min(len(imagined), len(between))


def test_two_weights_of_each_row_are_there():
    assert len(WEIGHTS) >= 18
    assert sum(path.stat().st_size for path in WEIGHTS.values()) < 15e6
    assert STORE.stat().st_size < 20e6


def recomputed(run_id, count):
    """By metric: the stored value, and the scores of the first sequences of the evaluation set."""
    with results_db.open(str(STORE)) as store:
        run = store.run(run_id)
    config, stored, weights = run["config"], run["metrics"], load_file(WEIGHTS[run_id])
    states = evaluation_states(config["gol"], board=20, sequences=10_000, device=torch.device("cpu"))[:count]
    truth, scores = states.numpy(), {}
    for name, metric in (("decoder", "metric_plain"), ("adversary", "metric_adv")):
        if f"{name}.0.weight" in weights:
            parts = states[:, 0].split(500)
            found = [boards(weights, part, decoder=name, timesteps=config["model_t"]) for part in parts]
            pairs = zip(np.concatenate(found)[:, 1:-1], truth[:, 1:-1], strict=True)
            scores[metric] = (stored[metric], [interpretability(*each) for each in pairs])
    assert {metric for metric in ("metric_plain", "metric_adv") if stored.get(metric) is not None} == set(
        scores
    )
    return scores


@pytest.mark.parametrize("run_id", LIFE[:1])
def test_the_weights_give_the_stored_metric(run_id):
    """Of the smallest network, over the whole evaluation set."""
    for stored, scores in recomputed(run_id, 10_000).values():
        assert np.mean(scores) == pytest.approx(stored, abs=2e-3)


@pytest.mark.parametrize("run_id", LIFE[1:])
def test_a_sample_of_the_evaluation_set_agrees_with_the_stored_metric(run_id):
    """Within four standard errors of 300 sequences; a score lies in [0, 1.5], so that is at least .01."""
    for stored, scores in recomputed(run_id, 300).values():
        assert np.mean(scores) == pytest.approx(stored, abs=0.01 + 4 * np.std(scores) / np.sqrt(300))
