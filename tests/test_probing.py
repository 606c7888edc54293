"""Least squares in closed form, the deal of groups, and ranks."""

import numpy as np
import pytest
import torch

from imagination import probing


def fitted(x, *targets, scores=None):
    """The maps from features `[N, D]` to each target `[N, K]`; by default those of the smallest penalty."""
    scores = scores or [lambda found: 0.0] * len(targets)
    asked = [
        probing.Asked(lambda part, y=y: y[part], score) for y, score in zip(targets, scores, strict=True)
    ]
    return probing.ridge(lambda part: x[part], asked, fit=torch.arange(len(x)))


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
    asked = []

    def third(probe: probing.Linear) -> float:
        asked.append(probe)
        return float(len(asked) == 3)

    (found,) = fitted(torch.from_numpy(x).float(), torch.from_numpy(y), scores=[third])
    weights = normal_equations(x, y, probing.PENALTIES[2])
    assert np.allclose(found.weights, weights, atol=1e-5)
    assert np.allclose(found(torch.from_numpy(x).float()), (x - x.mean(0)) @ weights + y.mean(0), atol=1e-4)
    assert len(asked) == len(probing.PENALTIES)


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
