"""Memory of a process that trains."""

import ctypes
from contextlib import suppress

_TRIM, _TOP_PAD, _MAPPED = -1, -2, -4  # of glibc's mallopt
_SETTINGS = {_MAPPED: 0, _TRIM: 2**31 - 1, _TOP_PAD: 2**26}


def keep_freed() -> None:
    """Lets this process keep the memory that it frees, for the next step.

    Otherwise glibc gives large tensors back at once, and the next step pays for new pages: up to a tenth of its time.
    Another C library has no such settings, and nothing changes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in _SETTINGS.items():
            mallopt(name, value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device ran out of memory."""
    # On the CPU torch raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
