"""The rules of Life, against figures known by heart and a plain re-computation."""

import numpy as np
import pytest
import torch

from imagination.life import rules


def board(*rows: str) -> torch.Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


def test_a_blinker_turns():
    upright = board(".....", "..#..", "..#..", "..#..", ".....")
    lying = board(".....", ".....", ".###.", ".....", ".....")
    assert torch.equal(rules.step(upright), lying)
    assert torch.equal(rules.step(lying), upright)


def test_a_glider_is_one_cell_further_down_right_after_four_steps():
    glider = board(".#....", "..#...", "###...", "......", "......", "......")
    sequence = rules.states(glider, 4)
    assert torch.equal(sequence[1], board("......", "#.#...", ".##...", ".#....", "......", "......"))
    assert torch.equal(sequence[4], board("......", "..#...", "...#..", ".###..", "......", "......"))


def test_a_block_in_the_corner_stays():
    # Each of its cells has the three others as neighbours and nothing from beyond the border.
    block = board("##..", "##..", "....", "....")
    assert torch.equal(rules.step(block), block)


def test_the_board_is_no_torus():
    # A lying blinker on the bottom row: on a torus its upper arm would appear on row 2 and its lower one on row 0.
    # Here the cell above the centre comes alive, and of the row itself only the centre (two neighbours) stays.
    blinker = board(".....", ".....", ".....", ".###.")
    assert torch.equal(rules.step(blinker), board(".....", ".....", "..#..", "..#.."))
    # Three cells on the left edge and their mirror column: nothing wraps around.
    edge = board("#...", "#...", "#...")
    assert torch.equal(rules.step(edge), board("....", "##..", "...."))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_shape_and_dtype_are_kept_and_leading_axes_are_independent(dtype):
    boards = (torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)
    stepped = rules.step(boards)
    assert stepped.shape == boards.shape
    assert stepped.dtype == dtype
    assert torch.equal(stepped[1, 2], rules.step(boards[1, 2]))


def test_against_a_count_of_neighbours_cell_by_cell():
    boards = torch.rand(20, 9, 8, generator=torch.Generator().manual_seed(2)) < 0.5
    expected = np.zeros((20, 9, 8), dtype=bool)
    cells = boards.numpy()
    for n, y, x in np.ndindex(20, 9, 8):
        neighbours = [
            cells[n, y + dy, x + dx]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy, dx) != (0, 0) and 0 <= y + dy < 9 and 0 <= x + dx < 8
        ]
        expected[n, y, x] = sum(neighbours) == 3 or (cells[n, y, x] and sum(neighbours) == 2)
    assert np.array_equal(rules.step(boards).numpy(), expected)
