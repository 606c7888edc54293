"""Values drawn per seed: reproducible, within bounds, and spread as their distribution says."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.sample import Distribution

seeds = st.integers(0, 2**62)


def test_a_draw_by_hand() -> None:
    # The recipe, followed here without the code: SHA-256 of the key and the seed, as a share of 2^256, is the share
    # of the way from the low to the high end; a uniform value needs its upper 53 bits alone.
    number = int.from_bytes(hashlib.sha256(b"lr\n5").digest(), "big")
    share = (number >> (256 - 53)) / 2**53
    drawn = Distribution("uniform", [2.0, 4.0]).draw("lr", 5)
    assert drawn == float(f"{2 + 2 * share:.6g}")
    drawn = Distribution("loguniform", [0.01, 1.0]).draw("lr", 5)
    assert drawn == float(f"{10 ** (-2 + 2 * share):.6g}")
    assert Distribution("choice", ["a", "b", "c"]).draw("lr", 5) == "abc"[math.floor(3 * share)]
    assert Distribution("randint", [10, 16]).draw("lr", 5) == 10 + math.floor(7 * share)


@given(seeds)
def test_draws_stay_within_their_ends(seed: int) -> None:
    assert 0.1 <= float(Distribution("uniform", [0.1, 0.1000001]).draw("lr", seed)) <= 0.1000001
    assert 5e-4 <= float(Distribution("loguniform", [5e-4, 2e-3]).draw("lr", seed)) <= 2e-3
    assert Distribution("randint", [3, 5]).draw("gol", seed) in (3, 4, 5)


def test_both_ends_of_randint_and_every_choice_are_drawn() -> None:
    assert {Distribution("randint", [3, 5]).draw("gol", seed) for seed in range(60)} == {3, 4, 5}
    assert {Distribution("choice", [True, False]).draw("ae", seed) for seed in range(60)} == {
        True,
        False,
    }


def test_draws_depend_on_key_and_seed() -> None:
    uniform = Distribution("uniform", [0.0, 1.0])
    assert len({uniform.draw("lr", 1), uniform.draw("lr", 2), uniform.draw("clip", 1)}) == 3


@given(seeds)
def test_draws_from_two_ranges_have_the_same_rank(seed: int) -> None:
    # 2 values for each of the first range's: the share of the way is equal, so the upper half stays the upper half.
    narrow = Distribution("randint", [0, 3]).draw("channels", seed)
    wide = Distribution("randint", [0, 7]).draw("channels", seed)
    assert int(wide) // 2 == narrow


@pytest.mark.parametrize(
    ("kind", "ends", "median"), [("uniform", [0.0, 1.0], 0.5), ("loguniform", [1e-4, 1.0], 1e-2)]
)
def test_half_of_the_draws_lie_below_the_median(kind: str, ends: list[float], median: float) -> None:
    draws = [float(Distribution(kind, ends).draw("lr", seed)) for seed in range(2000)]
    below = sum(draw < median for draw in draws)
    assert abs(below - 1000) < 5 * math.sqrt(2000 / 4)  # five standard deviations of a fair coin
