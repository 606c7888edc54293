"""The metrics of trivial decoders, which every table shows for comparison."""

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

    `baseline_repeat` shows s_1 at every timestep and `baseline_dead` an empty board. `baseline_shifted` shows the true
    state one step after the aligned one, but never a state after the final one.
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
    """The correlation of `baseline_repeat`, a decoder that shows s_1 at every timestep."""
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device)
    return {"baseline_repeat": mean(metrics.matthews(truth[:, :1].float(), truth[:, 1:])[0])}
