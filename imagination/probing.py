"""What linear probes of a frozen network share: least squares in closed form, the deal of groups, and ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties to choose from, in units of the features' mean variance times their number of samples."""

CHECKED = 0.1
"""Share of the learned samples on which a probe's penalty is chosen."""

AT_ONCE = 1024
"""Samples whose features are read at once."""

Read = Callable[[Tensor], Tensor]
"""Gives the values `[B, D]` of some samples, from their indices `[B]`. A sample may have several rows."""


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


def ridge(
    features: Read,
    targets: Sequence[Read],
    *,
    fit: Tensor,
    check: Tensor,
    penalties: Sequence[Sequence[float]] | None = None,
) -> list[Linear]:
    """Least squares with a penalty, one map from the features to each of the targets.

    The samples are read in batches. One factorisation per penalty serves all targets, and no target changes the map of
    another. The normal equations are summed and solved in float64.

    Args:
        features: the features `[B, D]`.
        targets: the targets, each `[B, K]`.
        fit: the indices of the samples.
        check: those of other samples: of the maps by penalty, the one with the least squared error there is taken.
        penalties: those that each target may have, in the unit of `PENALTIES`; default: these.
    """
    allowed = [PENALTIES] * len(targets) if penalties is None else penalties
    mean, gram, products, biases = _normal_equations(features, targets, fit=fit)
    unit = gram.diagonal().mean().clamp(min=1e-12)
    best: list[tuple[float, Linear] | None] = [None] * len(targets)
    for penalty in sorted({penalty for each in allowed for penalty in each}):
        penalised = gram.clone()
        penalised.diagonal().add_(penalty * unit)
        factor = torch.linalg.cholesky(penalised, out=penalised)
        for place, read in enumerate(targets):
            if penalty not in allowed[place]:
                continue
            weights = torch.cholesky_solve(products[place], factor)
            found = Linear(*(part.float() for part in (mean, weights, biases[place])))
            error, before = _error(found, features, read, check), best[place]
            if before is None or error < before[0]:
                best[place] = error, found
    return [found for _, found in filter(None, best)]


def _error(probe: Linear, features: Read, targets: Read, samples: Tensor) -> float:
    """The summed squared error."""
    parts = samples.split(AT_ONCE)
    found = ((probe(features(part)), targets(part)) for part in parts)
    return sum((ours - wanted.to(ours)).square().sum().item() for ours, wanted in found)


def _normal_equations(
    features: Read, targets: Sequence[Read], *, fit: Tensor
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The features' mean, their Gram matrix about it, its right-hand sides, and the means of the targets."""
    mean = _mean(features, fit)
    biases = [_mean(read, fit).to(mean) for read in targets]
    gram = mean.new_zeros(len(mean), len(mean))
    products = [mean.new_zeros(len(mean), len(bias)) for bias in biases]
    for part in fit.split(AT_ONCE):
        centred = (features(part) - mean).float()  # so that nothing large cancels in the products
        gram += centred.T @ centred
        for read, bias, product in zip(targets, biases, products, strict=True):
            product.add_(centred.T @ (read(part).to(mean) - bias).float())
    return mean, gram, products, biases


def _mean(read: Read, samples: Tensor) -> Tensor:
    """The mean `[K]` in float64. A sample may have several rows."""
    sums = [(len(values), values.double().sum(0)) for values in map(read, samples.split(AT_ONCE))]
    return torch.stack([each for _, each in sums]).sum(0) / sum(rows for rows, _ in sums)


class Deal:
    """Samples that are dealt, in whole groups, to fitting, to choosing the penalty, and to the test.

    Attributes:
        fit, check, test: indices of the samples.
    """

    def __init__(self, groups: Tensor, *, share: float, seed: int) -> None:
        self._seed = seed
        self.fit, self.check, self.test = split(
            groups, seed=seed, shares=((1 - CHECKED) * share, CHECKED * share)
        )

    def classifiers(self, features: Read, questions: "Sequence[Question]") -> list[Linear]:
        """A probe for each question, by least squares on its targets."""
        targets = [self._targets(question) for question in questions]
        penalties = [[question.penalty] if question.penalty else PENALTIES for question in questions]
        return ridge(features, targets, fit=self.fit, check=self.check, penalties=penalties)

    def _targets(self, question: "Question") -> Read:
        if not question.shuffled:
            return question.targets
        learned = torch.cat([self.fit, self.check])
        order = torch.arange(len(question.right))
        mixed = torch.randperm(len(learned), generator=torch.Generator().manual_seed(self._seed))
        order[learned] = learned[mixed]
        return lambda which: question.targets(order[which])


@dataclass(frozen=True, eq=False)
class Question:
    """One or several choices between classes that a probe makes for each sample.

    Attributes:
        right: the right classes, int64 `[N]` or `[N, choices]`.
        classes: how many classes there are.
        before: None, or the classes that are known from before. A probe then says only what changes.
        shuffled: whether a probe learns the targets in a random order, so that it can know nothing.
        penalty: the ridge penalty; 0: of `PENALTIES` the best one.
    """

    right: Tensor
    classes: int
    before: Tensor | None = None
    shuffled: bool = False
    penalty: float = 0.0

    def targets(self, which: Tensor) -> Tensor:
        """The one-hot code of the right classes, minus that of the classes before, `[B, K]`."""
        return (self._coded(self.right, which) - self._known(which)).flatten(1)

    def scores(self, probe: Linear, features: Read, which: Tensor) -> Tensor:
        """The probe's score of each class on the CPU, `[B, classes]` or `[B, choices, classes]`."""
        found = torch.cat([probe(features(part)).cpu() for part in which.split(AT_ONCE)])
        return found.reshape(len(which), *self.right.shape[1:], self.classes) + self._known(which)

    def _known(self, which: Tensor) -> Tensor | float:
        return 0.0 if self.before is None else self._coded(self.before, which)

    def _coded(self, classes: Tensor, which: Tensor) -> Tensor:
        return F.one_hot(classes[which], self.classes).float()


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
    """1 divided by the rank of the right candidate among all scores `[C]`, 1 for the highest.

    Equal scores share the mean of their ranks. A score that is NaN ranks last.
    """
    known = scores.nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if scores[right].isnan():
        return 1 / len(scores)
    above, equal = (int(found.sum()) for found in (known > known[right], known == known[right]))
    return 1 / (above + (equal + 1) / 2)
