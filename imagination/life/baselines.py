"""The metrics of trivial decoders and of a perfect one, which every table shows for comparison."""

from functools import lru_cache

import torch

from imagination import metrics
from imagination.life import sampler
from imagination.life.samples import mean


@lru_cache(maxsize=32)
def baseline_metrics(
    gol: int, model_t: int, *, board: int, sequences: int, device: torch.device
) -> dict[str, float | None]:
    """The interpretability metric of decoders that need no network, on the evaluation set of (board, gol).

    `baseline_repeat` shows s_1 at every timestep and `baseline_dead` an empty board. `baseline_shifted` shows the true
    state one step after the aligned one, but never a state after the final one. `baseline_perfect` is the ceiling: it
    shows the aligned intermediate state, and the last of them at timesteps beyond it. It exceeds 1 where a decoded
    state matches two true ones, or two decoded states one true one.
    """
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device).float()
    between, n = truth[:, 1:-1], model_t - 1
    none = truth[:, :0]
    ahead = [truth[:, min(i + 1, gol)] for i in range(1, n + 1)]
    aligned = [truth[:, min(i, gol - 1)] for i in range(1, n + 1)] if gol > 1 else []
    decoders = {
        "baseline_repeat": truth[:, :1].expand(-1, n, -1, -1),
        "baseline_dead": torch.zeros_like(truth[:, :1]).expand(-1, n, -1, -1),
        "baseline_shifted": torch.stack(ahead, dim=1) if ahead else none,
        "baseline_perfect": torch.stack(aligned, dim=1) if aligned else none,
    }
    return {name: mean(metrics.interpretability(boards, between)) for name, boards in decoders.items()}


@lru_cache(maxsize=32)
def baseline_correlations(
    gol: int, model_t: int, *, board: int, sequences: int, device: torch.device
) -> dict[str, float | None]:
    """The correlation of decoders that need no network, on the evaluation set of (board, gol).

    `baseline_repeat` shows s_1 at every timestep. `baseline_perfect` shows the aligned state at h_0 .. h_{T-1} and the
    final one at h_T, so it is below 1 only where gol > model_t: there, it leaves states out.
    """
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device)
    shown = [min(i, gol) for i in range(model_t)] + [gol]
    decoders = {"baseline_repeat": truth[:, :1], "baseline_perfect": truth[:, shown]}
    return {
        name: mean(metrics.matthews(boards.float(), truth[:, 1:]).amax(0))
        for name, boards in decoders.items()
    }
