"""Counter-based random numbers: the published test vectors, and the independence that packs rely on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagination.training import native, philox

WORD = st.integers(0, 2**32 - 1)


def words_of(counter, key):
    tensors = [torch.tensor(word, dtype=torch.int64) for word in (*counter, *key)]
    return philox.philox4x32(tuple(tensors[:4]), tuple(tensors[4:])).tolist()


def test_known_answers():
    # The vectors of Random123 (kat_vectors, philox4x32 10), from the authors of the method.
    assert words_of((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert words_of((ones,) * 4, (ones,) * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_against_unbounded_integers(counter, key):
    # Python's integers never wrap, so a slip in the signed 64-bit products would show.
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    assert words_of(counter, key) == c


def test_a_runs_numbers_do_not_depend_on_its_pack():
    seeds = torch.tensor([3, 2**62 + 5, 7])
    steps = torch.tensor([10, 2**31, 12])
    together = philox.words(seeds, steps, stream="x", lanes=6, count=9)
    alone = philox.words(seeds[1:2], steps[1:2], stream="x", lanes=6, count=9)
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize(("lanes", "count"), [(1, 1), (16, 8), (37, 13)])
def test_the_compiled_words_are_the_same_to_the_bit(lanes, count, monkeypatch):
    seeds, steps = torch.tensor([3, 2**62 + 5, 2**63 - 1]), torch.tensor([0, 2**31, 2**32 - 1])
    usual = philox.words(seeds, steps, stream="x", lanes=lanes, count=count)
    monkeypatch.setattr(native, "library", lambda: None)
    assert torch.equal(philox.words(seeds, steps, stream="x", lanes=lanes, count=count), usual)


def test_more_lanes_or_words_leave_the_first_ones_as_they_are():
    seed, step = torch.tensor([3]), torch.tensor([10])
    few = philox.words(seed, step, stream="x", lanes=2, count=3)
    many = philox.words(seed, step, stream="x", lanes=5, count=30)
    assert torch.equal(many[:, :2, :3], few)


def test_seed_step_stream_and_lane_each_change_the_numbers():
    def draw(seed=1, step=1, stream="x"):
        return philox.words(torch.tensor([seed]), torch.tensor([step]), stream=stream, lanes=2, count=4)

    base = draw()
    assert not torch.equal(base[:, 0], base[:, 1])
    upper_half = draw(seed=1 + 2**32)
    for other in (draw(seed=2), upper_half, draw(step=2), draw(stream="y")):
        assert not (base == other).any()


def test_bits_and_uniform_numbers_have_their_distribution():
    seed, step = torch.tensor([5]), torch.tensor([0])
    bits = philox.bits(seed, step, stream="x", lanes=1000, count=100).double()
    # 100,000 fair bits: the standard deviation of the mean is .5 / sqrt(100,000) = .0016.
    assert abs(bits.mean() - 0.5) < 4 * 0.0016
    uniform = philox.uniform(seed, step, stream="x", lanes=1000, count=100)
    assert uniform.min() > 0
    assert uniform.max() < 1
    # Mean 1/2 with deviation .2887 / sqrt(100,000) = .0009; variance 1/12.
    assert abs(uniform.mean() - 0.5) < 4 * 0.0009
    assert abs(uniform.var() - 1 / 12) < 0.002
