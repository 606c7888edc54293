"""Processes by a name that no later process ever has."""

from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_name(pid: int) -> str:
    """`pid:start`: unlike a bare pid it never names a later process, nor one of another boot.

    Raises:
        ProcessLookupError: there is none.
    """
    return f"{pid}:{_start(pid)}"


def is_alive(process: str) -> bool:
    """Whether the process that `process_name` named still runs on this host."""
    try:
        return process_name(int(process.partition(":")[0])) == process
    except (ProcessLookupError, ValueError):
        return False


def _start(pid: int) -> str:
    """When the process started, by a clock that nobody sets.

    Raises:
        ProcessLookupError: there is none, or it is dead and only waits to be reaped.
    """
    if not _BOOT_ID.exists():  # not Linux
        try:
            return f"{psutil.Process(pid).create_time():.2f}"
        except psutil.NoSuchProcess:
            raise ProcessLookupError(f"no process {pid}") from None
    try:
        # After the name in parentheses, which may hold anything: the state is field 3, the start time field 22.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    if state == "Z":
        raise ProcessLookupError(f"process {pid} is dead")
    return f"{_BOOT_ID.read_text().strip()}/{fields[18]}"
