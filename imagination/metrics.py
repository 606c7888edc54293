"""The paper's interpretability metric (section 2.3, Eq. 1), its data-set variant, and aligned accuracy."""

import math
from fractions import Fraction

import torch
from torch import Tensor


def interpretability(
    decoded: Tensor, truth: Tensor, *, threshold: float = 0.5, similarity: float = 0.95
) -> Tensor:
    """Eq. 1 for every sequence: how many generated boards match a true intermediate state.

    The first generated board (in order) that matches a true state scores 1, every further one .5; one generated
    board may match several true states. The sum is divided by min(n, m - 2), so it can exceed 1.

    Args:
        decoded: float `[N, n, H, W]`, the decoded intermediate hidden states; alive above `threshold`.
        truth: 0/1 `[N, m - 2, H, W]`, the true intermediate states alone (without s_1 and s_m).
        threshold: a decoded pixel above it is alive.
        similarity: two boards match if at least this share of their pixels is equal.

    Returns:
        float64 `[N]`; NaN where there is no intermediate state (n or m - 2 is 0).

    Raises:
        ValueError: the shapes do not fit.
    """
    matching = _matches(decoded, truth, threshold=threshold, similarity=similarity)
    divisor = min(matching.shape[1:])
    if divisor == 0:
        return matching.new_full(matching.shape[:1], math.nan, dtype=torch.float64)
    per_state = 0.5 * matching.sum(1).double() + 0.5 * matching.any(1).double()
    return per_state.sum(1) / divisor


def interpretability_dataset(
    decoded: Tensor, truth: Tensor, *, threshold: float = 0.5, similarity: float = 0.95
) -> float:
    """The variant of the authors' code: the weights 1 and .5 are awarded once for the whole data set.

    For each true state the match rates of the generated states are sorted; the best counts 1, the others .5.
    Arguments and divisor as in `interpretability`; NaN where there is no intermediate state.
    """
    matching = _matches(decoded, truth, threshold=threshold, similarity=similarity)
    divisor = min(matching.shape[1:])
    if divisor == 0:
        return math.nan
    rates = matching.double().mean(0)  # [n, m - 2]
    per_state = 0.5 * rates.sum(0) + 0.5 * rates.max(0).values
    return float(per_state.sum() / divisor)


def pixel_accuracy(decoded: Tensor, truth: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Share of equal pixels per board.

    Args:
        decoded: float `[..., H, W]`; alive above `threshold`.
        truth: 0/1 `[..., H, W]`, of the same shape.

    Returns:
        float64 `[...]`.
    """
    return ((decoded > threshold) == truth.bool()).double().mean((-2, -1))


def _matches(decoded: Tensor, truth: Tensor, *, threshold: float, similarity: float) -> Tensor:
    """bool `[N, n, m - 2]`: does generated board i match true state j?"""
    if decoded.ndim != 4 or truth.ndim != 4 or _frame(decoded) != _frame(truth):
        raise ValueError(
            f"decoded {tuple(decoded.shape)} and truth {tuple(truth.shape)} must be [N, n, H, W] and "
            "[N, m-2, H, W] with equal N, H and W"
        )
    alive, true = decoded > threshold, truth.bool()
    height, width = decoded.shape[-2:]
    # Whole pixels, from the decimal that was written: .95 of 400 is 380, not 380.00000000000006.
    needed = math.ceil(Fraction(str(similarity)) * height * width)
    columns = [(alive == true[:, j : j + 1]).sum((-2, -1)) >= needed for j in range(truth.shape[1])]
    if not columns:
        return alive.new_zeros((*alive.shape[:2], 0))
    return torch.stack(columns, dim=2)


def _frame(boards: Tensor) -> tuple[int, ...]:
    return (boards.shape[0], *boards.shape[2:])
