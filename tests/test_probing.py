"""Least squares in closed form, the deal of groups, and ranks."""

import numpy as np
import pytest
import torch

from imagination import probing


def fitted(x, *targets, check=None):
    """The maps from features `[N, D]` to each target `[N, K]`; all samples fit them, and by default check them."""
    every = torch.arange(len(x))
    reads = [lambda part, y=y: y[part] for y in targets]
    return probing.ridge(lambda part: x[part], reads, fit=every, check=every if check is None else check)


def normal_equations(x, y, penalty):
    """The weights and biases, with a penalty in units of the mean diagonal."""
    centred = x - x.mean(0)
    gram = centred.T @ centred
    unit = np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), centred.T @ (y - y.mean(0)))


def test_ridge_is_the_minimum_of_its_objective(monkeypatch) -> None:
    monkeypatch.setattr(probing, "AT_ONCE", 7)  # the batches are of 7 and, last, of 1 sample
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6)) * [1, 2, 3, 4, 5, 6] + 3
    y = rng.standard_normal((50, 2)) - 1
    # On the samples that fit it, the map with the smallest penalty has the least error.
    (found,) = fitted(torch.from_numpy(x).float(), torch.from_numpy(y))
    weights = normal_equations(x, y, probing.PENALTIES[0])
    assert np.allclose(found.weights, weights, atol=1e-5)
    predicted = (x - x.mean(0)) @ weights + y.mean(0)
    assert np.allclose(found(torch.from_numpy(x).float()), predicted, atol=1e-4)


def test_the_penalty_has_the_least_error_on_other_samples() -> None:
    """40 samples with 30 features, of which one matters: neither the smallest nor the largest penalty is best."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 30))
    y = 1.5 * x[:, :1] + rng.standard_normal((400, 1))
    every = torch.arange(400)
    reads = [torch.from_numpy(part).float().__getitem__ for part in (x, y)]
    (found,) = probing.ridge(reads[0], [reads[1]], fit=every[:40], check=every[40:])
    maps = [normal_equations(x[:40], y[:40], penalty) for penalty in probing.PENALTIES]
    predicted = [(x[40:] - x[:40].mean(0)) @ weights + y[:40].mean() for weights in maps]
    errors = [np.square(one - y[40:]).mean() for one in predicted]
    best = int(np.argmin(errors))
    assert 0 < best < len(errors) - 1
    assert np.allclose(found.weights, maps[best], atol=1e-5)


def test_large_means_and_small_differences_are_no_trouble() -> None:
    """Two features of mean 1000 that differ by a thousandth of their size: float32 sums of squares would lose that."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((5000, 1))
    x = (1000 + np.hstack([base, base + 0.03 * rng.standard_normal((5000, 1))])).astype(np.float32)
    y = x[:, :1].astype(np.float64) - x[:, 1:]
    (found,) = fitted(torch.from_numpy(x), torch.from_numpy(y))
    weights = normal_equations(x.astype(np.float64), y, probing.PENALTIES[0])
    assert np.allclose(found.weights, weights, rtol=1e-3, atol=1e-5)


def test_what_else_is_asked_changes_no_map() -> None:
    x, *ys = (torch.randn(40, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    together = fitted(x, *ys)
    for found, y in zip(together, ys, strict=True):
        (alone,) = fitted(x, y)
        assert torch.equal(found.weights, alone.weights)


def test_features_that_never_change_do_no_harm() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 1.0
    y = x[:, :1] * 2
    (probe,) = fitted(x, y)
    assert torch.allclose(probe(x), y, atol=0.1)


def test_a_question_about_what_changes() -> None:
    right, before = torch.tensor([[0, 2], [1, 1]]), torch.tensor([[0, 1], [2, 1]])
    question = probing.Question(right, 3, before=before)
    # The first sample's second choice goes from class 1 to 2, the second sample's first one from class 2 to 1.
    wanted = [[[0, 0, 0], [0, -1, 1]], [[0, 1, -1], [0, 0, 0]]]
    which = torch.tensor([0, 1])
    assert question.targets(which).reshape(2, 2, 3).tolist() == wanted
    nothing = probing.Linear(torch.zeros(1), torch.zeros(1, 6), torch.zeros(6))
    features = torch.zeros(2, 1)
    assert question.scores(nothing, features.__getitem__, which).argmax(-1).tolist() == before.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_keeps_groups_whole(seed) -> None:
    groups = torch.arange(10).repeat_interleave(3)
    parts = probing.split(groups, seed=seed, shares=(0.5, 0.2))
    assert [len(part) for part in parts] == [15, 6, 9]
    assert torch.cat(parts).sort().values.tolist() == list(range(30))
    owners = [set(groups[part].tolist()) for part in parts]
    assert [owners[one] & owners[two] for one, two in ((0, 1), (0, 2), (1, 2))] == [set()] * 3
    again = probing.split(groups, seed=seed, shares=(0.5, 0.2))
    assert all(torch.equal(*pair) for pair in zip(parts, again, strict=True))


def test_the_reciprocal_rank() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5])
    assert [probing.reciprocal_rank(scores, right) for right in range(3)] == [1 / 3, 1, 1 / 2]


def test_equal_scores_share_their_ranks_and_nan_is_last() -> None:
    equal = torch.tensor([0.5, 0.5, 0.1, 0.5])
    assert probing.reciprocal_rank(equal, 0) == 1 / 2  # the ranks 1, 2 and 3
    assert probing.reciprocal_rank(equal, 2) == 1 / 4
    scores = torch.tensor([torch.nan, 0.1, torch.nan])
    assert [probing.reciprocal_rank(scores, right) for right in range(3)] == [1 / 3, 1, 1 / 3]
