"""Values drawn per seed: reproducible, within bounds, and spread as their distribution says."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.sample import Distribution

CELL = {"gol": 3, "lr": 0.002}
seeds = st.integers(0, 2**62)


def test_a_draw_by_hand() -> None:
    # The recipe, followed here without the code: SHA-256 of the cell's canonical JSON, the key and the seed,
    # as one number; its upper 53 bits are the share of the way from the low to the high end.
    number = int.from_bytes(hashlib.sha256(b'{"gol":3,"lr":0.002}\nlr\n5').digest(), "big")
    share = (number >> (256 - 53)) / 2**53
    drawn = Distribution("uniform", [2.0, 4.0]).draw(CELL, "lr", 5)
    assert drawn == float(f"{2 + 2 * share:.6g}")
    drawn = Distribution("loguniform", [0.01, 1.0]).draw(CELL, "lr", 5)
    assert drawn == float(f"{10 ** (-2 + 2 * share):.6g}")
    assert Distribution("choice", ["a", "b", "c"]).draw(CELL, "lr", 5) == "abc"[number % 3]
    assert Distribution("randint", [10, 16]).draw(CELL, "lr", 5) == 10 + number % 7


@given(seeds)
def test_draws_stay_within_their_ends(seed: int) -> None:
    assert 0.1 <= float(Distribution("uniform", [0.1, 0.1000001]).draw(CELL, "lr", seed)) <= 0.1000001
    assert 5e-4 <= float(Distribution("loguniform", [5e-4, 2e-3]).draw(CELL, "lr", seed)) <= 2e-3
    assert Distribution("randint", [3, 5]).draw(CELL, "gol", seed) in (3, 4, 5)


def test_both_ends_of_randint_and_every_choice_are_drawn() -> None:
    assert {Distribution("randint", [3, 5]).draw(CELL, "gol", seed) for seed in range(60)} == {3, 4, 5}
    assert {Distribution("choice", [True, False]).draw(CELL, "ae", seed) for seed in range(60)} == {
        True,
        False,
    }


def test_draws_depend_on_cell_key_and_seed() -> None:
    uniform = Distribution("uniform", [0.0, 1.0])
    draws = [
        uniform.draw(CELL, "lr", 1),
        uniform.draw(CELL, "lr", 2),
        uniform.draw(CELL, "clip", 1),
        uniform.draw({**CELL, "gol": 4}, "lr", 1),
    ]
    assert len(set(draws)) == 4


@pytest.mark.parametrize(
    ("kind", "ends", "median"), [("uniform", [0.0, 1.0], 0.5), ("loguniform", [1e-4, 1.0], 1e-2)]
)
def test_half_of_the_draws_lie_below_the_median(kind: str, ends: list[float], median: float) -> None:
    draws = [float(Distribution(kind, ends).draw(CELL, "lr", seed)) for seed in range(2000)]
    below = sum(draw < median for draw in draws)
    assert abs(below - 1000) < 5 * math.sqrt(2000 / 4)  # five standard deviations of a fair coin
