"""The chain sampler: draws first states that are a random number of Life steps old.

With probability `reset` the first state of a sequence is a fresh board at density .5; otherwise it is the second
state of the sequence before it. Every sequence of a batch belongs to a chain of its own. Chains start in their
stationary distribution (a first state's age is geometric), so the first batch has the same distribution as any other.
"""

from functools import lru_cache

import torch
from torch import Tensor

from imagination.life import rules
from imagination.training import draws, gpu, philox

_MAX_AGE = 1000
"""Largest age of a chain's first state, in Life steps. The limit matters only for `reset` far below .01."""

_FRESH, _RESET = "sampler.fresh", "sampler.reset"  # streams of random numbers

EVALUATION_SEED = 2**62 + 2405_06409
EVALUATION_RESET = 0.1


def fresh(seeds: Tensor, steps: Tensor, *, batch: int, board: int) -> Tensor:
    """Fresh boards at density .5, bool `[R, B, H, W]`, from each run's seed and step (`[R]`)."""
    cells = philox.bits(seeds, steps, stream=_FRESH, lanes=batch, count=board * board)
    return cells.reshape(seeds.shape[0], batch, board, board)


def start(seeds: Tensor, reset: Tensor, *, batch: int, board: int, step: int = 0) -> Tensor:
    """First states of the first batch: bool `[R, B, H, W]`, their ages geometric and at most 1,000.

    Args:
        seeds: int64 `[R]`.
        reset: float `[R]`, the probability of a fresh board, in (0, 1].
        batch: sequences, B.
        board: side of the board, H = W.
        step: the step of the first batch.
    """
    first = torch.full_like(seeds, step)
    boards = fresh(seeds, first, batch=batch, board=board)
    survival = torch.log1p(-reset.double())[:, None]  # -inf for reset 1: every age is 0
    draw = philox.uniform(seeds, first, stream="sampler.age", lanes=batch)[..., 0]
    age = (draw.log() / survival).floor().clamp(max=_MAX_AGE)  # P(age >= k) = (1 - reset)^k
    for elapsed in range(int(age.max())):
        older = age > elapsed  # few boards are old
        boards[older] = rules.step(boards[older])
    return boards


def advance(second: Tensor, seeds: Tensor, reset: Tensor, steps: Tensor) -> Tensor:
    """First states of the next batch, bool `[R, B, H, W]`.

    Args:
        second: bool `[R, B, H, W]`, the second states of this batch.
        seeds: int64 `[R]`.
        reset: float `[R]`.
        steps: int64 `[R]`, the step of the next batch, from 1.
    """
    if gpu.takes(seeds):
        whether, what = philox.number(_RESET), philox.number(_FRESH)
        return draws.renewed(second, reset.double(), seeds, steps, whether=whether, what=what)
    _, batch, board, _ = second.shape
    draw = philox.uniform(seeds, steps, stream=_RESET, lanes=batch)[..., 0]
    begins_anew = draw < reset.double()[:, None]
    return torch.where(begins_anew[..., None, None], fresh(seeds, steps, batch=batch, board=board), second)


@lru_cache(maxsize=8)
def evaluation_states(gol: int, *, board: int, sequences: int, device: torch.device) -> Tensor:
    """The evaluation set of (board, gol), the same for all runs: chain-sampled sequences, bool `[N, gol + 1, H, W]`."""
    seed = torch.tensor([EVALUATION_SEED], device=device)
    reset = torch.tensor([EVALUATION_RESET], device=device)
    first = start(seed, reset, batch=sequences, board=board)[0]
    return rules.states(first, gol).transpose(0, 1).contiguous()
