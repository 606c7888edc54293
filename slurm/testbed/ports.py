"""Finds free ports for a testbed."""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slurm.testbed.settings import TestbedError

BLOCK = 64
"""Ports of one testbed. A block is taken if any of its ports is, so a testbed keeps the ports of its dead daemons."""

_BLOCKS = range(21_000 // BLOCK, 32_000 // BLOCK)  # below the ports that systems give to outgoing connections


@contextmanager
def held() -> Iterator[None]:
    """Keep this user's other processes from starting a testbed, which could take the ports found free here."""
    with (Path(tempfile.gettempdir()) / f"slurm-testbed-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_block() -> int:
    """The first port of a free block.

    Raises:
        TestbedError: every block is taken.
    """
    # The order is random, so testbeds of several users seldom try the same block.
    for block in random.sample(_BLOCKS, len(_BLOCKS)):
        if _is_free(block * BLOCK):
            return block * BLOCK
    raise TestbedError(
        f"no {BLOCK} free ports in a row between {_BLOCKS[0] * BLOCK} and {(_BLOCKS[-1] + 1) * BLOCK}; "
        "stop the programs that listen there"
    )


def _is_free(first: int) -> bool:
    with ExitStack() as stack:
        for port in range(first, first + BLOCK):
            listener = stack.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
