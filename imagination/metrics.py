"""The paper's interpretability metric (section 2.3, Eq. 1) and its data-set variant, correlation, pixel accuracy.

Decoded boards are floats; a pixel above .5 is alive.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

SIMILARITY = 0.95
"""Two boards match if at least this share of their pixels is equal (Eq. 1)."""


def interpretability(
    decoded: Tensor, truth: Tensor, *, threshold: float = 0.5, similarity: float = SIMILARITY
) -> Tensor:
    """Eq. 1 for every sequence: the share of true intermediate states that generated boards match.

    For each true state, the first matching board scores 1 and every further one .5. One generated board may match
    several true states. The sum is divided by min(n, m - 2), so it can exceed 1.

    Args:
        decoded: float `[N, n, H, W]`, the decoded intermediate hidden states.
        truth: 0/1 `[N, m - 2, H, W]`, the true intermediate states (without s_1 and s_m).
        threshold: a decoded pixel above it is alive.
        similarity: see `SIMILARITY`.

    Returns:
        float64 `[N]`; NaN where there is no intermediate state (n or m - 2 is 0).

    Raises:
        ValueError: the shapes do not fit.
    """
    matching = _matches(decoded, truth, threshold, similarity)
    divisor = min(matching.shape[1:])
    if divisor == 0:
        return matching.new_full(matching.shape[:1], math.nan, dtype=torch.float64)
    per_state = 0.5 * matching.sum(1).double() + 0.5 * matching.any(1).double()
    return per_state.sum(1) / divisor


def interpretability_dataset(
    decoded: Tensor, truth: Tensor, *, threshold: float = 0.5, similarity: float = SIMILARITY
) -> float:
    """The variant of the authors' code, which gives the weights 1 and .5 once for the whole data set.

    For each true state, the generated state with the best match rate counts 1 and the others .5. Arguments and divisor
    as in `interpretability`; NaN if there is no intermediate state.
    """
    matching = _matches(decoded, truth, threshold, similarity)
    divisor = min(matching.shape[1:])
    if divisor == 0:
        return math.nan
    rates = matching.double().mean(0)  # [n, m - 2]
    per_state = 0.5 * rates.sum(0) + 0.5 * rates.max(0).values
    return float(per_state.sum() / divisor)


def matthews(decoded: Tensor, truth: Tensor) -> Tensor:
    """Matthews' correlation coefficient of every decoded state with every true state, pooled over all boards.

    From the counts of true and false, positive and negative pixels:
    (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)), clipped at 0 as in the authors' code; 0 where the
    denominator is 0 (a state that is all dead or all alive).

    Args:
        decoded: float `[N, n, H, W]`.
        truth: 0/1 `[N, k, H, W]`.

    Returns:
        float64 `[n, k]`, each in [0, 1].

    Raises:
        ValueError: the shapes do not fit.
    """
    hits, positive, wanted = (counts.sum(0) for counts in _counts(decoded, truth))
    return _coefficient(hits, positive, wanted, pixels=decoded.shape[0] * decoded.shape[2] * decoded.shape[3])


def matthews_per_board(decoded: Tensor, truth: Tensor) -> Tensor:
    """`matthews` of each board separately: float64 `[N, n, k]`, NaN where the true board is all dead or all alive."""
    hits, positive, wanted = _counts(decoded, truth)
    pixels = decoded.shape[2] * decoded.shape[3]
    found = _coefficient(hits, positive, wanted, pixels=pixels)
    return found.masked_fill((wanted == 0) | (wanted == pixels), math.nan)


def _counts(decoded: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Living pixels per board, float64: in both `[N, n, k]`, decoded `[N, n, 1]`, and true `[N, 1, k]`."""
    _check_frames(decoded, truth)
    # Sums of 0/1, exact in float32 up to 2^24 pixels a board.
    alive = (decoded > 0.5).float().flatten(2)
    true = truth.bool().float().flatten(2)
    hits = torch.bmm(alive, true.transpose(1, 2))
    return hits.double(), alive.sum(2).double()[:, :, None], true.sum(2).double()[:, None]


def _coefficient(hits: Tensor, positive: Tensor, wanted: Tensor, *, pixels: int) -> Tensor:
    """Matthews' coefficient, clipped at 0, from the numbers of living pixels in both, decoded, and true boards."""
    # TP TN - FP FN = hits * pixels - positive * wanted
    above = hits * pixels - positive * wanted
    below = (positive * wanted * (pixels - positive) * (pixels - wanted)).sqrt()
    return torch.where(below > 0, above / below, torch.zeros_like(above)).clamp(min=0)


def pixel_accuracy(decoded: Tensor, truth: Tensor) -> Tensor:
    """Share of equal pixels per board, float64 `[...]`, of decoded and 0/1 boards `[..., H, W]`."""
    return ((decoded > 0.5) == truth.bool()).double().mean((-2, -1))


def _matches(decoded: Tensor, truth: Tensor, threshold: float, similarity: float) -> Tensor:
    """Bool `[N, n, m - 2]`: whether generated board i matches true state j."""
    _check_frames(decoded, truth)
    alive, true = decoded > threshold, truth.bool()
    height, width = decoded.shape[-2:]
    # Exact, from the decimal as written: .55 of 100 is 55, not 55.00000000000001.
    needed = math.ceil(Fraction(str(similarity)) * height * width)
    columns = [(alive == true[:, j : j + 1]).sum((-2, -1)) >= needed for j in range(truth.shape[1])]
    if not columns:
        return alive.new_zeros((*alive.shape[:2], 0))
    return torch.stack(columns, dim=2)


def _check_frames(decoded: Tensor, truth: Tensor) -> None:
    frames = [(boards.shape[0], *boards.shape[2:]) for boards in (decoded, truth)]
    if decoded.ndim != 4 or truth.ndim != 4 or frames[0] != frames[1]:
        raise ValueError(
            f"decoded {tuple(decoded.shape)} and truth {tuple(truth.shape)} must be [N, n, H, W] and "
            "[N, k, H, W] with equal N, H and W"
        )
