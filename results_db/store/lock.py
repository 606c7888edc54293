"""One writer at a time for a SQLite file on a network file system, whose own locks cannot be trusted there.

The lock is a file beside the database that says who holds it: host, pid and start time. One whose holder is dead is
taken over.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from results_db.contract import StoreError
from results_db.process import is_alive, process_name
from results_db.store import engine
from results_db.store.mounts import on_network

STALE_AFTER_S = 120.0
"""No transaction takes that long: a lock of this age was left by a process of another machine that died."""

_LOOK_EVERY_S = 0.02


def lock_file(database: Path | None) -> Path | None:
    """The lock that writers of this SQLite file take; None where the database's own locks do."""
    if database is None or not on_network(database):
        return None
    return database.with_name(f"{database.name}.lock")


@contextmanager
def only_writer(path: Path | None) -> Iterator[None]:
    """Hold the lock at `path`, which `lock_file` gave; without one there is nothing to hold.

    Raises:
        StoreError: somebody alive holds it for too long, or the folder cannot be written.
    """
    if path is None:
        yield
        return
    mine = json.dumps(
        {"host": socket.gethostname(), "process": process_name(os.getpid()), "key": secrets.token_hex(4)}
    )
    # A name of its own, then a link: creating a file exclusively was not atomic on every version of NFS.
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        own.write_text(mine)
        try:
            _acquire(path, own)
        finally:
            own.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror}") from error
    try:
        yield
    finally:
        if _content(path) == mine:
            path.unlink(missing_ok=True)


def _acquire(path: Path, own: Path) -> None:
    deadline = time.monotonic() + engine.BUSY_TIMEOUT_S
    while True:
        try:
            os.link(own, path)
            return
        except FileExistsError:
            pass
        holder = _content(path)
        if holder is not None and _is_dead(path, holder, own):
            _break(path, holder)
        elif time.monotonic() > deadline:
            raise StoreError(f"{path} is held by {holder}; if that process is gone, remove the file")
        else:
            time.sleep(_LOOK_EVERY_S)


def _is_dead(path: Path, holder: str, own: Path) -> bool:
    """The holder's process is gone; of another machine's process only the lock's age is known."""
    try:
        said = json.loads(holder)
        if said["host"] == socket.gethostname():
            return not is_alive(said["process"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # nobody wrote that
    try:
        os.utime(own)  # now, by the clock that times the lock, too
        return own.stat().st_mtime - path.stat().st_mtime > STALE_AFTER_S
    except FileNotFoundError:
        return False


def _break(path: Path, holder: str) -> None:
    """Remove a dead holder's lock. Of several that do so at once none removes the next holder's."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # somebody else did
    if _content(aside) != holder:  # and somebody took it meanwhile
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
