"""The rules of Conway's Game of Life on a board whose surroundings are dead (no torus)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def step(boards: Tensor) -> Tensor:
    """The next state of every board.

    A living cell with two or three living neighbours lives on; a dead cell with exactly three comes alive. Cells
    outside the board are dead.

    Args:
        boards: bool or 0/1 `[..., H, W]`.

    Returns:
        The next states, of the same shape and dtype.
    """
    cells = boards.to(torch.uint8)
    padded = F.pad(cells, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    block = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # living cells in the 3x3 block, centre included
    alive = (block == 3) | ((block == 4) & (cells == 1))
    return alive.to(boards.dtype)


def states(first: Tensor, gol: int) -> Tensor:
    """The sequence s_1 .. s_m that begins with `first`, m = gol + 1.

    Args:
        first: bool or 0/1 `[..., H, W]`.
        gol: how many timesteps.

    Returns:
        `[m, ..., H, W]`, the dtype of `first`.
    """
    sequence = [first]
    for _ in range(gol):
        sequence.append(step(sequence[-1]))
    return torch.stack(sequence)
