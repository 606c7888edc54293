"""Random numbers by Triton: those of `philox.py`, to the bit, many in one launch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_SIZE = 256
"""Counters, cells or factors of a program."""


def words(seeds: Tensor, steps: Tensor, *, stream: int, lanes: int, count: int) -> Tensor:
    """`philox.words`, for a stream with this number."""
    from imagination.training import triton_kernels as kernels

    found = torch.empty((len(seeds), lanes, count), dtype=torch.int64, device=seeds.device)
    grid = (-(-lanes * -(-count // 4) // _SIZE), len(seeds))
    kernels.words[grid](seeds, steps, found, stream, lanes, count, SIZE=_SIZE)
    return found


def renewed(
    boards: Tensor, chances: Tensor, seeds: Tensor, steps: Tensor, *, whether: int, what: int
) -> Tensor:
    """The boards, some of them replaced by fair random bits: bool `[R, L, H, W]`.

    Args:
        boards: bool `[R, L, H, W]`.
        chances: float64 `[R]`, of each board to be replaced.
        seeds: int64 `[R]`.
        steps: int64 `[R]`.
        whether: number of the stream that decides which boards are replaced.
        what: number of the stream of the bits.
    """
    from imagination.training import triton_kernels as kernels

    runs, lanes, high, wide = boards.shape
    given = boards.contiguous()
    found = torch.empty_like(given)
    grid = (-(-lanes * high * wide // _SIZE), runs)
    kernels.renewed[grid](
        given.view(torch.uint8),
        seeds,
        steps,
        chances,
        found.view(torch.uint8),
        whether,
        what,
        lanes,
        high * wide,
        SIZE=_SIZE,
    )
    return found


@dataclass(frozen=True)
class Mask:
    """The dropout factors of one layer for one set of boards.

    Attributes:
        stream: number of the stream.
        lanes: number of boards, N.
        side: h and w of the layer's output.
        channels: C.
    """

    stream: int
    lanes: int
    side: int
    channels: int

    @property
    def size(self) -> int:
        """Factors of a run."""
        return self.lanes * self.side**2 * self.channels


def dropout(
    seeds: Tensor, steps: Tensor, masks: Sequence[Mask], *, dropped: int, kept: float
) -> list[Tensor]:
    """Dropout factors of several layers in one launch, each float32 `[R, N, h, w, C]`, 0 or `kept`.

    Args:
        seeds: int64 `[R]`.
        steps: int64 `[R]`.
        masks: what to draw.
        dropped: 16 random bits below it mean 0.
        kept: the other factor.
    """
    from imagination.training import triton_kernels as kernels

    runs, sizes = len(seeds), [mask.size for mask in masks]
    found = torch.empty(runs * sum(sizes), device=seeds.device)
    table, programs = _table(tuple(masks), seeds.device)
    kernels.dropout[programs, runs](
        seeds, steps, found, table, runs, dropped, kept, DRAWS=len(masks), SIZE=_SIZE
    )
    parts = found.split([runs * size for size in sizes])
    forms = [(runs, mask.lanes, mask.side, mask.side, mask.channels) for mask in masks]
    return [part.reshape(form) for part, form in zip(parts, forms, strict=True)]


@lru_cache(maxsize=32)
def _table(masks: tuple[Mask, ...], device: torch.device) -> tuple[Tensor, int]:
    """The kernel's table of these masks, and its number of programs for a run."""
    rows, program, before = [], 0, 0
    for mask in masks:
        rows.append([program, mask.stream, mask.lanes, mask.side**2, mask.channels, before])
        program, before = program + -(-mask.size // _SIZE), before + mask.size
    return torch.tensor(rows, device=device), program
