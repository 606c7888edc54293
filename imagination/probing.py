"""What linear probes of a frozen network share: its activations, and least squares in closed form."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties to choose from, in units of the features' mean variance times their number of samples."""

CHECKED = 0.1
"""Share of the learned samples on which a probe's penalty is chosen."""


@dataclass(frozen=True)
class Linear:
    """A linear map from features `[N, D]` to outputs `[N, K]`.

    Attributes:
        mean: the features' mean `[D]`, which is taken off.
        weights: `[D, K]`.
        bias: `[K]`.
    """

    mean: Tensor
    weights: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """The outputs."""
        return (features - self.mean) @ self.weights + self.bias


class Ridge:
    """Least squares with a penalty on these features `[N, D]`. One factorisation serves any number of targets."""

    def __init__(self, features: Tensor) -> None:
        self._mean = features.mean(0)
        self._centred = features - self._mean
        gram = self._centred.T @ self._centred
        unit = torch.eye(len(gram), device=gram.device) * gram.diagonal().mean().clamp(min=1e-12)
        self._factors = [torch.linalg.cholesky(gram + penalty * unit) for penalty in PENALTIES]

    def fit(self, targets: Tensor, *, score: Callable[[Linear], float]) -> Linear:
        """The map to these targets `[N, K]` with the penalty whose map has the highest score."""
        bias = targets.mean(0)
        products = self._centred.T @ (targets - bias)
        maps = (Linear(self._mean, torch.cholesky_solve(products, factor), bias) for factor in self._factors)
        return max(maps, key=score)


class Deal:
    """Samples `[N, D]` that are dealt, in whole groups, to fitting, to choosing the penalty, and to the test.

    Attributes:
        fit, check, test: indices of the samples.
    """

    def __init__(self, features: Tensor, groups: Tensor, *, share: float, seed: int) -> None:
        self.features, self._seed = features, seed
        self.fit, self.check, self.test = split(
            groups, seed=seed, shares=((1 - CHECKED) * share, CHECKED * share)
        )

    @cached_property
    def _ridge(self) -> Ridge:
        return Ridge(self.features[self.fit])

    def classifier(self, right: Tensor, classes: int, *, shuffled: bool = False) -> Linear:
        """The probe of these classes, int64 `[N, ...]`, by least squares on a one-hot code of them.

        Args:
            right: the classes.
            classes: how many there are.
            shuffled: whether it learns them in a random order, so that it can know nothing.
        """
        if shuffled:
            learned = torch.cat([self.fit, self.check])
            order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(self._seed))
            right = right.clone()
            right[learned] = right[learned[order]]
        targets = F.one_hot(right[self.fit], classes).flatten(1).float().to(self.features.device)
        features, wanted = self.features[self.check], right[self.check]

        def score(probe: Linear) -> float:
            return (self.scores(probe, features, wanted).argmax(-1) == wanted).double().mean().item()

        return self._ridge.fit(targets, score=score)

    def scores(self, probe: Linear, features: Tensor, like: Tensor) -> Tensor:
        """A classifier's scores on the CPU, of the shape of these classes and one more axis."""
        return probe(features).reshape(*like.shape, -1).cpu()


def frozen(batches: Iterable[Tensor]) -> Tensor:
    """The activations `[N, D]` of a frozen network, from those of its batches, each `[B, ...]`."""
    with torch.no_grad():
        return torch.cat([batch.flatten(1) for batch in batches])


def split(groups: Tensor, *, seed: int, shares: tuple[float, ...]) -> list[Tensor]:
    """The indices of the samples of these shares of the groups, and last of the remaining groups.

    Samples of one group, such as the positions of a game, are alike, so they stay together.

    Args:
        groups: the group's number of each sample, int64 `[N]`.
        seed: deals the groups.
        shares: shares of all groups, together below 1. Every part gets at least one group if there are enough.
    """
    numbers = groups.unique()
    order = numbers[
        torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).to(numbers.device)
    ]
    parts = []
    for share in shares:
        taken = max(1, round(share * len(numbers)))
        parts.append(order[:taken])
        order = order[taken:]
    return [torch.isin(groups, part).nonzero()[:, 0] for part in (*parts, order)]


def reciprocal_rank(scores: Tensor, right: int) -> float:
    """1 divided by the rank of the right candidate among all scores `[C]`."""
    return 1 / (1 + int((scores > scores[right]).sum()))
