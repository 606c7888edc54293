"""Least squares in closed form, the deal of groups, and ranks."""

import numpy as np
import pytest
import torch

from imagination import probing


def test_ridge_is_the_minimum_of_its_objective() -> None:
    rng = np.random.default_rng(0)
    features, targets = (
        rng.standard_normal((50, 6)) * [1, 2, 3, 4, 5, 6] + 3,
        rng.standard_normal((50, 2)) - 1,
    )
    asked = []

    def third(probe: probing.Linear) -> float:
        asked.append(probe)
        return float(len(asked) == 3)

    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    found = probing.Ridge(x).fit(y, score=third)
    # The normal equations, with the third penalty in units of the mean diagonal.
    centred = features - features.mean(0)
    gram = centred.T @ centred
    penalty = probing.PENALTIES[2] * np.trace(gram) / 6
    weights = np.linalg.solve(gram + penalty * np.eye(6), centred.T @ (targets - targets.mean(0)))
    assert np.allclose(found.weights, weights)
    assert np.allclose(found(x), centred @ weights + targets.mean(0))
    assert len(asked) == len(probing.PENALTIES)


def test_features_that_never_change_do_no_harm() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 1.0
    y = x[:, :1] * 2
    probe = probing.Ridge(x).fit(y, score=lambda one: -(one(x) - y).square().mean().item())
    assert torch.allclose(probe(x), y, atol=0.05)


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
