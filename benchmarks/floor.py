"""The useful operations of a step of the state task, and the core's float32 rate.

Without Winograd's algorithm a step takes at least the operations divided by the rate.
"""

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from imagination.life.config import LifeStateConfig

_CHAINS, _LANES, _TIMES = 12, 16, 20_000_000
_SOURCE = """
#include <immintrin.h>
float fused(long times) {
    __m512 sums[%d], factor = _mm512_set1_ps(.5f), one = _mm512_set1_ps(1.f);
    for (int i = 0; i < %d; i++) sums[i] = one;
    for (long t = 0; t < times; t++)
        for (int i = 0; i < %d; i++) sums[i] = _mm512_fmadd_ps(sums[i], factor, one);
    for (int i = 1; i < %d; i++) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return _mm512_reduce_add_ps(sums[0]);
}
""".replace("%d", str(_CHAINS))


def operations(config: LifeStateConfig) -> int:
    """Useful floating-point operations of a run's step with 3x3 kernels, forward and backward.

    A convolution has 18 per pixel and pair of channels; both gradients have as many again. The encoder's input needs no
    gradient. The decoder has one layer and is called at h_0 and h_T.
    """
    inner = config.model_t * config.step_layers * config.channels**2
    return 18 * config.batch * config.board**2 * (3 * inner + 2 * config.channels + 2 * 3 * config.channels)


def product_rate() -> float:
    """FLOP/s of torch's float32 matrix product on the threads of now."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return max(2 * 1024**3 / _seconds(lambda: a @ b) for _ in range(5))


def core_rate() -> float | None:
    """FLOP/s of a core's fused multiply-adds on vectors of 16 floats in registers; None without AVX-512 or GCC."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "fused.c"), Path(folder, "fused.so")
        source.write_text(_SOURCE)
        compiler = os.environ.get("IMAGINE_CC") or "gcc"
        try:
            flags = ["-O3", "-mavx512f", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(source), "-o", str(built)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        fused = ctypes.CDLL(str(built)).fused
        fused.argtypes, fused.restype = [ctypes.c_long], ctypes.c_float
        return max(2 * _LANES * _CHAINS * _TIMES / _seconds(lambda: fused(_TIMES)) for _ in range(5))


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
