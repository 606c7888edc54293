"""Counter-based random numbers: a pure function of (seed, stream, step, index), on any device.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A number
depends only on these four values. So a run's numbers stay the same when it is packed, resumed, or outlives other runs
of its pack.
"""

import zlib

import torch
from torch import Tensor

from imagination.training import draws, gpu, native

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Four 32-bit words for every counter.

    Args:
        counter: four int64 tensors that broadcast together, values in [0, 2^32).
        key: two such tensors.

    Returns:
        int64 `[..., 4]`, each word in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit words may overflow a signed 64-bit integer, but its bits are right.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _MASK, (k1 + _KEY_INCREMENTS[1]) & _MASK
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)


def words(seeds: Tensor, steps: Tensor, *, stream: str, lanes: int, count: int) -> Tensor:
    """Random 32-bit words, `count` for each of a run's lanes (the sequences of its batch).

    Args:
        seeds: int64 `[R]`, one per run, not negative.
        steps: int64 `[R]`, the training step of each run, in [0, 2^32).
        stream: what the numbers are for; streams of different names are independent.
        lanes: number of lanes, B.
        count: words per lane.

    Returns:
        int64 `[R, B, count]`, each in [0, 2^32).
    """
    if gpu.takes(seeds):
        return draws.words(seeds, steps, stream=number(stream), lanes=lanes, count=count)
    if native.has_kernels(seeds.device):
        return native.philox(seeds, steps, stream=number(stream), lanes=lanes, count=count)
    blocks = -(-count // 4)
    column = seeds.reshape(-1, 1, 1)
    step = steps.reshape(-1, 1, 1)
    lane = torch.arange(lanes, device=seeds.device).reshape(1, -1, 1)
    block = torch.arange(blocks, device=seeds.device).reshape(1, 1, -1)
    counter = (lane, block, step, torch.full_like(step, number(stream)))
    drawn = philox4x32(counter, (column & _MASK, (column >> 32) & _MASK))
    return drawn.reshape(seeds.shape[0], lanes, blocks * 4)[..., :count]


def number(stream: str) -> int:
    """The number of a stream, in [0, 2^32)."""
    return zlib.crc32(stream.encode())


def bits(seeds: Tensor, steps: Tensor, *, stream: str, lanes: int, count: int) -> Tensor:
    """Fair random bits: bool `[R, lanes, count]`. Arguments as in `words`."""
    drawn = words(seeds, steps, stream=stream, lanes=lanes, count=-(-count // 32))
    shifts = torch.arange(32, device=seeds.device)
    return ((drawn[..., None] >> shifts) & 1).flatten(-2)[..., :count].bool()


def uniform(seeds: Tensor, steps: Tensor, *, stream: str, lanes: int, count: int = 1) -> Tensor:
    """Uniform numbers in the open interval (0, 1): float64 `[R, lanes, count]`. Arguments as in `words`."""
    drawn = words(seeds, steps, stream=stream, lanes=lanes, count=count)
    return (drawn.double() + 0.5) / 2**32
