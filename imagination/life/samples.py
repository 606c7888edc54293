"""The samples of an evaluation, and means as plain numbers."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from imagination.recorder import Arrays

_FIRST = 4


def samples(
    boards: Mapping[str, Tensor], truth: Tensor, scores: Mapping[str, Tensor], *, best: str
) -> dict[str, Arrays]:
    """The first four sequences, then the best, the median and the worst; every decoder shows the same ones.

    Args:
        boards: per decoder, float `[N, T + 1, H, W]`.
        truth: `[N, m, H, W]`.
        scores: per decoder, `[N]`.
        best: the decoder whose scores rank the sequences.
    """
    order = scores[best].argsort(stable=True)  # sequences without a score come last
    defined = max(int((~scores[best].isnan()).sum()), 1)
    ranked = [int(order[defined - 1]), int(order[defined // 2]), int(order[0])]
    chosen = torch.tensor(list(range(min(_FIRST, len(truth)))) + ranked, device=truth.device)
    return {
        name: {
            "decoded": decoded[chosen].half().cpu().numpy(),
            "truth": truth[chosen].byte().cpu().numpy(),
            "score": scores[name][chosen].cpu().numpy().astype(np.float64),
            "index": chosen.cpu().numpy(),
        }
        for name, decoded in boards.items()
    }


def mean(values: Tensor) -> float | None:
    """The mean as a number, None for NaN."""
    return number(values.mean().item())


def number(value: float) -> float | None:
    """The number, None for NaN."""
    return None if math.isnan(value) else value
