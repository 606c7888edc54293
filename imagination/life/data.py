"""The batches of R runs: chains of boards, and what of a batch the next one and the traces need."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagination.life import rules, sampler
from imagination.life.config import LifeConfig
from imagination.training.experiment import Forward

_STEPS_OF_A_STAGE = 2**30  # more than any has, and four fit into the 32 bits of a random number's address


@dataclass(frozen=True, kw_only=True)
class LifeForward(Forward):
    """One training batch seen through the networks of R runs, with what traces and the next batch need.

    Attributes:
        sequence: s_1 .. s_m, bool `[m, R, B, H, W]`.
        second: second states of every chain, bool `[R, L, H, W]`.
    """

    sequence: Tensor
    second: Tensor


class LifeData:
    """The chains of R runs.

    Args:
        configs: one config per run.
        device: where the tensors live.
        stage: of the runs' training; each has boards of its own.
        real_boards: carry a second batch of chains, whose first states a discriminator sees as real.
    """

    def __init__(
        self,
        configs: Sequence[LifeConfig],
        device: torch.device,
        *,
        stage: int = 0,
        real_boards: bool = False,
    ) -> None:
        self._shape = configs[0]
        self._real_boards = real_boards
        self._first_step = stage * _STEPS_OF_A_STAGE
        self.seeds = torch.tensor([c.seed for c in configs], dtype=torch.int64, device=device)
        self._reset = torch.tensor([c.reset for c in configs], dtype=torch.float64, device=device)

    def initial(self) -> Tensor:
        """First states of the first batch, bool `[R, L, H, W]`; L is B, or 2 B with real boards."""
        lanes = self._shape.batch * (2 if self._real_boards else 1)
        side = self._shape.board
        return sampler.start(self.seeds, self._reset, batch=lanes, board=side, step=self._first_step)

    def unfold(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch that `data` begins: its sequences `[m, R, B, H, W]`, the real boards, all second states."""
        batch = self._shape.batch
        sequence = rules.states(data[:, :batch], self._shape.gol)
        real = data[:, batch:]
        second = torch.cat((sequence[1], rules.step(real)), dim=1) if self._real_boards else sequence[1]
        return sequence, real, second

    def next(self, second: Tensor, steps: Tensor) -> Tensor:
        """First states of the batch of each run's step (`steps`, int64 `[R]`)."""
        return sampler.advance(second, self.seeds, self._reset, steps + self._first_step)


def similarity_truths(config: LifeConfig, index: int, sequence: Tensor) -> Tensor:
    """The true states `[k, R, B, H, W]` that the decoded hidden state `index` is compared with in a trace.

    The first and the last are compared with s_1 and s_m. In between, where gol = model_t state i is compared with
    s_i. Where they differ no state is *the* right one: all true intermediate states are candidates.
    """
    if index == 0:
        return sequence[:1]
    if index == config.model_t:
        return sequence[-1:]
    if config.gol == config.model_t:
        return sequence[index : index + 1]
    return sequence[1:-1]
