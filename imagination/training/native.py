"""The compiled kernels: `kernels.c`, built by GCC where a process first needs them.

There are kernels only on a CPU with AVX-512 and where GCC is found. Elsewhere `library` is None, and PyTorch's own
operations do the same work. The built file stays in the user's cache folder, so a machine builds it once.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LANES = 16
"""Boards side by side in a vector."""

SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = [
    *["-std=gnu11", "-O3", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"],
    *["-ffp-contract=fast", "-shared", "-fPIC"],
]
_BUILD_LIMIT_S = 120

_POINTER, _LONG, _WORD = ctypes.c_void_p, ctypes.c_long, ctypes.c_uint32
_FLOAT, _INT = ctypes.c_float, ctypes.c_int
_ARGUMENTS = {
    "convolve": [*[_POINTER] * 4, _FLOAT, _POINTER, *[_LONG] * 7, _INT],
    "weights": [*[_POINTER] * 4, *[_LONG] * 7],
    "stack_forward": [*[_POINTER] * 7, *[_LONG] * 5],
    "stack_backward": [*[_POINTER] * 8, _INT, _POINTER, *[_LONG] * 5],
    "lstm_forward": [*[_POINTER] * 3, _FLOAT, *[_POINTER] * 3, *[_LONG] * 2],
    "lstm_backward": [*[_POINTER] * 7, *[_LONG] * 2],
    "philox": [*[_POINTER] * 2, _WORD, *[_LONG] * 3, _POINTER],
    "dropout": [*[_POINTER] * 2, _WORD, *[_LONG] * 7, _WORD, _FLOAT, _POINTER],
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels; None where this machine cannot have them. The log says why."""
    compiler = os.environ.get("IMAGINE_CC", "gcc")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not compiler:
        return None
    try:
        return _declared(_load(compiler))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.warning("training is slower than it could be: no compiled kernels (%s)", _reason(error))
        return None


def usable(x: Tensor) -> bool:
    """Whether the convolutions take this tensor, in the precision and with the threads of now."""
    return (
        has_kernels(x.device)
        and x.dtype == torch.float32
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
    )


def has_kernels(device: torch.device) -> bool:
    """Whether there are kernels for this device."""
    return device.type == "cpu" and library() is not None


class Stack:
    """A stack of 3x3 convolutions of every run, each followed by LeakyReLU with its slope (1: none).

    Args:
        weights: each `[R, C_out, C_in, 3, 3]`.
        biases: each `[R, C_out]`.
        slopes: one per convolution.
        residual: the result is the sum of the input and the last convolution's output.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], *, slopes: Sequence[float], residual: bool
    ) -> None:
        self._weights, self._biases = (
            list(map(Tensor.contiguous, weights)),
            list(map(Tensor.contiguous, biases)),
        )
        widths = [weights[0].shape[2], *(weight.shape[1] for weight in weights)]
        self._widths = (_LONG * len(widths))(*widths)
        self._slopes = (_FLOAT * len(slopes))(*slopes)
        self._residual = residual

    def forward(self, x: Tensor, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """The result, and the outputs of all convolutions if `keep`, for `backward`.

        Args:
            x: `[R, G, C, H + 2, W + 2, 16]`, zero on the border.
            keep: see above.
        """
        depth = len(self._weights)
        outputs: list[Tensor | None] = [None] * depth
        for layer in range(depth):
            if keep or (layer == depth - 1 and not self._residual):
                outputs[layer] = x.new_empty((*x.shape[:2], self._widths[layer + 1], *x.shape[3:]))
        total = torch.empty_like(x) if self._residual else None
        arrays = (_array(self._weights), _array(self._biases), self._slopes, _array(outputs))
        _done(
            _kernels().stack_forward(_pointer(x), *arrays, _pointer(total), self._widths, depth, *_sizes(x))
        )
        result = total if self._residual else outputs[-1]
        assert result is not None
        return result, [output for output in outputs if output is not None] if keep else []

    def backward(
        self, x: Tensor, outputs: Sequence[Tensor], gradient: Tensor, *, reaches_x: bool
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """The gradients of x (if `reaches_x`), of the weights and of the biases, from that of the result."""
        of_x = torch.empty_like(x) if reaches_x else None
        of_weights, of_biases = (list(map(torch.empty_like, each)) for each in (self._weights, self._biases))
        arrays = (_array(self._weights), self._slopes, _array(outputs))
        found = (_array(of_weights), _array(of_biases), _pointer(of_x))
        _done(
            _kernels().stack_backward(
                _pointer(x),
                *arrays,
                _pointer(gradient),
                *found,
                self._residual,
                self._widths,
                len(self._weights),
                *_sizes(x),
            )
        )
        return of_x, of_weights, of_biases


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    runs, groups, _, high, wide = _form(x)
    return runs, groups, high, wide


def _array(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (_POINTER * len(tensors))(*map(_pointer, tensors))


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    assert tensor.dtype == torch.float32
    return tensor.data_ptr()


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for a group of boards")


def convolve(x: Tensor, weight: Tensor, bias: Tensor, *, slope: float = 1.0, stride: int = 1) -> Tensor:
    """A 3x3 convolution of every run, and LeakyReLU with this slope: `[R, G, C_in, H + 2, W + 2, 16]` and so on.

    Args:
        x: activations with a border of zeros, `Blocks.values`.
        weight: `[R, C_out, C_in, 3, 3]`.
        bias: `[R, C_out]`.
        slope: 1 for no LeakyReLU.
        stride: of the kernel.
    """
    runs, groups, channels, high, wide = _form(x)
    out = weight.shape[1]
    sides = (-(-high // stride) + 2, -(-wide // stride) + 2)
    y = x.new_empty((runs, groups, out, *sides, LANES))
    sizes = (runs, groups, channels, out, high, wide, stride)
    _done(_kernels().convolve(*map(_pointer, (x, weight, bias)), None, slope, y.data_ptr(), *sizes, 0))
    return y


def input_gradient(
    gradient: Tensor, weight: Tensor, *, sign: Tensor | None = None, slope: float = 1.0
) -> Tensor:
    """The gradient of the input of a convolution with stride 1, from that of its output.

    Args:
        gradient: `[R, G, C_out, H + 2, W + 2, 16]`, zero on the border.
        weight: `[R, C_out, C_in, 3, 3]`.
        sign: the input, if LeakyReLU made it; the gradient is then that before LeakyReLU.
        slope: of that LeakyReLU.
    """
    runs, groups, out, high, wide = _form(gradient)
    channels = weight.shape[2]
    found = gradient.new_empty((*gradient.shape[:2], channels, *gradient.shape[3:]))
    sizes = (runs, groups, out, channels, high, wide, 1)
    signed = None if sign is None else sign.data_ptr()
    pointers = (*map(_pointer, (gradient, weight)), None, signed)
    _done(_kernels().convolve(*pointers, slope, found.data_ptr(), *sizes, 1))
    return found


def weight_gradients(x: Tensor, gradient: Tensor, *, stride: int) -> tuple[Tensor, Tensor]:
    """The gradients of a convolution's weight and bias, from its input and the gradient of its output."""
    runs, groups, channels, high, wide = _form(x)
    out = gradient.shape[2]
    weight, bias = x.new_empty((runs, out, channels, 3, 3)), x.new_empty((runs, out))
    sizes = (runs, groups, channels, out, high, wide, stride)
    _kernels().weights(*map(_pointer, (x, gradient, weight, bias)), *sizes)
    return weight, bias


def lstm_forward(
    gates: Sequence[Tensor], before: Tensor | None, *, forget_bias: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an LSTM's cells: the new h and c, and the gates' activations for `lstm_backward`.

    Args:
        gates: one or two tensors `[R, G, 4 C, H + 2, W + 2, 16]`; their sum are the gates before their activations.
        before: c before, `[R, G, C, H + 2, W + 2, 16]`; None for zeros.
        forget_bias: see `layers.lstm_step`.
    """
    runs, groups, width, high, wide, _ = gates[0].shape
    activations = torch.empty_like(gates[0])
    c, h = gates[0].new_empty((2, runs, groups, width // 4, high, wide, LANES))
    first, more = gates if len(gates) == 2 else (gates[0], None)
    found = map(_pointer, (activations, c, h))
    sizes = _cells(c)
    _done(_kernels().lstm_forward(*map(_pointer, (first, more, before)), forget_bias, *found, *sizes))
    return h, c, activations


def lstm_backward(
    activations: Tensor, before: Tensor | None, c: Tensor, *, of_h: Tensor, of_c: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the gates and of c before, from those of the new h and c."""
    of_gates = torch.empty_like(activations)
    of_before = None if before is None else torch.empty_like(before)
    given = (activations, before, c, of_c.contiguous(), of_h.contiguous())
    _done(_kernels().lstm_backward(*map(_pointer, (*given, of_gates, of_before)), *_cells(c)))
    return of_gates, of_before


def _cells(c: Tensor) -> tuple[int, int]:
    """The number of groups of boards, and of vectors in each."""
    groups = c.shape[0] * c.shape[1]
    return groups, c.numel() // groups // LANES


def philox(seeds: Tensor, steps: Tensor, *, stream: int, lanes: int, count: int) -> Tensor:
    """`philox.words`, for a stream with this number."""
    runs = seeds.shape[0]
    words = torch.empty((runs, lanes, count), dtype=torch.int64)
    numbers = _numbers(seeds, steps)
    _kernels().philox(*(n.data_ptr() for n in numbers), stream, runs, lanes, count, words.data_ptr())
    return words


def dropout(
    factors: Tensor, seeds: Tensor, steps: Tensor, *, stream: int, groups: range, dropped: int, kept: float
) -> None:
    """Fills these groups of `factors` `[R, G, C, H + 2, W + 2, 16]` with dropout factors, 0 or `kept`.

    Args:
        factors: contiguous.
        seeds: int64 `[R]`.
        steps: int64 `[R]`.
        stream: number of the stream of random words.
        groups: of boards; the first is the stream's first lane.
        dropped: 16 random bits below it mean 0.
        kept: the other factor.
    """
    runs, total, channels, high, wide = _form(factors)
    numbers = _numbers(seeds, steps)
    sizes = (runs, len(groups), groups.start, total, channels, high, wide)
    _kernels().dropout(*(n.data_ptr() for n in numbers), stream, *sizes, dropped, kept, _pointer(factors))


def _numbers(*tensors: Tensor) -> list[Tensor]:
    assert all(tensor.dtype == torch.int64 for tensor in tensors)
    return [tensor.contiguous() for tensor in tensors]


def _form(x: Tensor) -> tuple[int, int, int, int, int]:
    """Runs, groups, channels, and the sides of the boards."""
    runs, groups, channels, high, wide, _ = x.shape
    return runs, groups, channels, high - 2, wide - 2


def _kernels() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return loaded


def _load(compiler: str) -> ctypes.CDLL:
    """The library from the cache, or built now and put there.

    From the cache no process is started: Slurm's signals would end it, and this start would train without kernels.
    """
    program = shutil.which(compiler)
    if program is None:
        raise FileNotFoundError(f"{compiler} is not installed")
    about = Path(program).stat()
    version = f"{program} {about.st_size} {about.st_mtime_ns}"
    named = hashlib.sha256("\0".join([SOURCE.read_text(), *_FLAGS, version]).encode()).hexdigest()
    kept = _cache() / f"kernels-{named[:16]}.so"
    if _is_ours(kept.parent) and _is_ours(kept):
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, kept.name)
        command = [program, *_FLAGS, "-o", str(built), str(SOURCE)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_BUILD_LIMIT_S)
        with suppress(OSError):
            _keep(built, kept)
        return ctypes.CDLL(str(built))


def _keep(built: Path, kept: Path) -> None:
    """Puts the built file into the cache at once, because other processes may do the same now."""
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = kept.with_suffix(f".{os.getpid()}")
    shutil.copyfile(built, part)
    part.chmod(0o700)
    part.replace(kept)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "imagine-sweep")


def _is_ours(path: Path) -> bool:
    """Whether this exists and no other user can write to it."""
    with suppress(OSError):
        found = path.stat()
        return found.st_uid == os.getuid() and not found.st_mode & 0o022
    return False


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().splitlines()[0] if str(said).strip() else type(error).__name__
