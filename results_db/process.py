"""Names of processes that are never used again."""

import os
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_name(pid: int) -> str:
    """`pid:start`. Unlike a bare pid, it never names a later process, or a process of another boot.

    On Linux `start` counts from the boot, so a change of the system's time does not move it.

    Raises:
        ProcessLookupError: no process has this pid, or it is a zombie.
    """
    if not _BOOT_ID.exists():  # not Linux
        try:
            return f"{pid}:{psutil.Process(pid).create_time():.2f}"
        except psutil.NoSuchProcess:
            raise ProcessLookupError(f"no process {pid}") from None
    try:
        # The name, in parentheses, may contain anything. After it, the state is field 3, the start time field 22.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    if state == "Z":
        raise ProcessLookupError(f"process {pid} is dead")
    return f"{pid}:{_BOOT_ID.read_text().strip()}/{fields[18]}"


def is_alive(process: str) -> bool:
    """Whether the process with this `process_name` still runs on this host, or may: others' may be hidden."""
    pid = process.partition(":")[0]
    try:
        return process_name(int(pid)) == process
    except ProcessLookupError:
        return _is_hidden(int(pid))
    except PermissionError:
        return True
    except ValueError:
        return False


def _is_hidden(pid: int) -> bool:
    """Whether it is another user's process in a /proc that shows users only their own (`hidepid`)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()  # else it is dead, and its parent has not noticed
    except (OSError, OverflowError):
        pass
    return False
