"""The rules of Conway's Game of Life. Cells outside the board are dead (no torus)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def step(boards: Tensor) -> Tensor:
    """The next state of every board, bool or 0/1 `[..., H, W]`, in the same shape and dtype.

    A living cell with two or three living neighbours stays alive; a dead cell with exactly three comes alive.
    """
    cells = boards.to(torch.uint8)
    padded = F.pad(cells, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    block = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # living cells in the 3x3 block, centre included
    alive = (block == 3) | ((block == 4) & (cells == 1))
    return alive.to(boards.dtype)


def states(first: Tensor, gol: int) -> Tensor:
    """The sequence s_1 .. s_m, m = gol + 1, of `first`, bool or 0/1 `[..., H, W]`: `[m, ..., H, W]`."""
    sequence = [first]
    for _ in range(gol):
        sequence.append(step(sequence[-1]))
    return torch.stack(sequence)
