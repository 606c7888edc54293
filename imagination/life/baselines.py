"""The values that trivial decoders get, which every table shows beside its own."""

from functools import lru_cache

import torch

from imagination import metrics
from imagination.life import sampler
from imagination.life.samples import mean


@lru_cache(maxsize=32)
def trivial_metric(
    gol: int, model_t: int, *, board: int, sequences: int, device: torch.device
) -> dict[str, float | None]:
    """The interpretability metric of trivial decoders on the evaluation set of (board, gol).

    `baseline_repeat` shows s_1 at every timestep, `baseline_dead` an empty board, and `baseline_shifted` the true
    state one step ahead of the aligned one (the final state at most).
    """
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device).float()
    between, n = truth[:, 1:-1], model_t - 1
    ahead = [truth[:, min(i + 1, gol)] for i in range(1, n + 1)]
    decoders = {
        "baseline_repeat": truth[:, :1].expand(-1, n, -1, -1),
        "baseline_dead": torch.zeros_like(truth[:, :1]).expand(-1, n, -1, -1),
        "baseline_shifted": torch.stack(ahead, dim=1) if ahead else truth[:, :0],
    }
    return {name: mean(metrics.interpretability(boards, between)) for name, boards in decoders.items()}


@lru_cache(maxsize=32)
def trivial_correlation(
    gol: int, *, board: int, sequences: int, device: torch.device
) -> dict[str, float | None]:
    """The correlation of a decoder that shows s_1 at every timestep: `baseline_repeat`."""
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device)
    return {"baseline_repeat": mean(metrics.matthews(truth[:, :1].float(), truth[:, 1:])[0])}
