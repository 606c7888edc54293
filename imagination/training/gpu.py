"""What may make training on a GPU faster. It is used only where a calibration or `IMAGINE_GPU` asks for it.

`IMAGINE_GPU=triton,graphs` asks for both ways: kernels of our own, and CUDA graphs, which launch a whole step at once.
`imagine-sweep calibrate` measures the ways on a device, for launches there; `benchmarks/gpu.py` compares their parts.
Where a way cannot be used, the log says so once and training goes on without it.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from imagination.ways import TRITON, asked, words

log = logging.getLogger(__name__)

_choice: list[str | None] = [None]


@contextmanager
def chosen(ways: str) -> Iterator[None]:
    """Inside it, this process trains in these ways, one of `ways.CHOICES`, whatever `IMAGINE_GPU` says."""
    before, _choice[0] = _choice[0], ways
    try:
        yield
    finally:
        _choice[0] = before


def choice() -> str:
    """The ways that are `chosen`, else those that `IMAGINE_GPU` asks for."""
    return asked() or "" if _choice[0] is None else _choice[0]


def uses(way: str) -> bool:
    """Whether this way is asked for."""
    return way in words(choice())


def takes(x: Tensor) -> bool:
    """Whether Triton's kernels compute with this tensor. On a CPU only Triton's interpreter does, for tests."""
    if not uses(TRITON) or x.dtype not in (torch.float32, torch.bfloat16, torch.float64, torch.int64):
        return False
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return (interpreted if x.device.type == "cpu" else x.device.type == "cuda") and _works(x.device)


@lru_cache
def _works(device: torch.device) -> bool:
    """Whether Triton can build and run a kernel here that draws the right numbers."""
    from imagination.training import philox

    seed, zero = torch.tensor([7], device=device), torch.tensor([0], device=device)
    try:
        from imagination.training import draws

        drawn = draws.words(seed, zero, stream=5, lanes=1, count=4)
        wanted = philox.philox4x32((zero, zero, zero, zero + 5), (seed, zero))
        if torch.equal(drawn.flatten(), wanted.flatten()):
            return True
        reason = "it draws other random numbers"
    except Exception as error:  # an old driver, no compiler, another version: each fails in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    log.warning("training goes on without Triton's kernels: %s", reason)
    return False
