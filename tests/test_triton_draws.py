"""Random numbers by Triton: the same as those of philox.py, to the bit."""

import pytest
import torch
from triton_helpers import DEVICE, by_triton

from imagination.life import sampler
from imagination.training import philox
from imagination.training.adversary import Discriminator

__all__ = ["by_triton"]

SEEDS = torch.tensor([3, 2**62 + 5, 2**63 - 1], device=DEVICE)
STEPS = torch.tensor([0, 2**31, 2**32 - 1], device=DEVICE)


@pytest.mark.parametrize(("lanes", "count"), [(1, 1), (16, 8), (37, 13)])
def test_the_words_are_the_same_to_the_bit(lanes, count, by_triton):
    wanted = philox.words(SEEDS, STEPS, stream="x", lanes=lanes, count=count)
    by_triton()
    assert torch.equal(philox.words(SEEDS, STEPS, stream="x", lanes=lanes, count=count), wanted)


@pytest.mark.parametrize(("batch", "board"), [(1, 3), (40, 10), (7, 13)])
def test_the_next_boards_are_the_same_to_the_bit(batch, board, by_triton):
    boards = sampler.fresh(SEEDS, STEPS + 1, batch=batch, board=board)
    chances = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64, device=DEVICE)
    wanted = sampler.advance(boards, SEEDS, chances, STEPS)
    by_triton()
    found = sampler.advance(boards, SEEDS, chances, STEPS)
    assert found.dtype == torch.bool
    assert torch.equal(found, wanted)
    assert not torch.equal(found[2], boards[2])  # at a chance of 1 each board is a new one


def test_the_dropout_factors_of_all_layers_are_the_same_to_the_bit(by_triton):
    made = Discriminator([4, 8, 3], board=7)
    boards = {"fake": torch.empty(3, 5, 7, 7), "real": torch.empty(3, 2, 7, 7)}
    wanted = made.masks(boards, seeds=SEEDS, steps=STEPS)
    by_triton()
    for each, plain in zip(made.masks(boards, seeds=SEEDS, steps=STEPS), wanted, strict=True):
        for found, folded in zip(each, plain, strict=True):  # [R, N, h, w, C] and [N, R*C, h, w]
            assert torch.equal(found.movedim(-1, 2), folded.unflatten(1, (3, -1)).transpose(0, 1))
