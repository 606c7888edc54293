"""One writer at a time for a SQLite file on a network file system, where SQLite's own locks cannot be trusted.

The lock is a file beside the database. It names its holder: host, pid and start time. A dead holder's lock is taken
over, and so is that of a holder that stalls; should that one wake up, it commits nothing.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from results_db.contract import StoreError
from results_db.process import is_alive, process_name
from results_db.store.mounts import on_network

WAL = "wal"
"""The journal mode with a write-ahead log, which only works on a disk of one machine."""

STALE_AFTER_S = 120.0
"""A holder renews its lock before this: that of an older lock on another machine has died or stalls."""

_RENEW_EVERY_S = 30.0

_LOOK_EVERY_S = 0.02


def lock_file(database: Path | None, journal: str | None = None) -> Path | None:
    """The lock file for writers of this SQLite file; None where the database's own locks suffice.

    The process that creates a store chooses, without a `journal`. The file's journal mode records the choice, for all
    machines: a store that its creator found on a disk of one machine has a write-ahead log (`wal`).
    """
    if database is None or (journal == WAL if journal else not on_network(database)):
        return None
    return database.with_name(f"{database.name}.lock")


@contextmanager
def only_writer(path: Path | None, *, timeout_s: float) -> Iterator[Callable[[], None]]:
    """Hold the lock of `lock_file`; no lock if that is None.

    What it gives is called before a commit: it raises StoreError if another process took the lock over.

    Raises:
        StoreError: a live process still holds the lock after `timeout_s`, or the folder cannot be written.
    """
    if path is None:
        yield lambda: None
        return
    mine = json.dumps(
        {"host": socket.gethostname(), "process": process_name(os.getpid()), "key": secrets.token_hex(4)}
    )
    # The lock is written under another name and then linked, because exclusive creation is not atomic on old NFS.
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        own.write_text(mine)
        try:
            _acquire(path, own, deadline=time.monotonic() + timeout_s)
        finally:
            own.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror}") from error

    def check() -> None:
        if _content(path) != mine:
            raise StoreError(f"another process took {path} over, because this one stood still; try again")

    done = threading.Event()
    threading.Thread(target=_renew, args=(path, mine, done), daemon=True).start()
    try:
        yield check
    finally:
        done.set()
        if _content(path) == mine:
            path.unlink(missing_ok=True)


def _renew(path: Path, mine: str, done: threading.Event) -> None:
    while not done.wait(_RENEW_EVERY_S):
        with suppress(OSError):
            if _content(path) == mine:
                os.utime(path)


def _acquire(path: Path, own: Path, *, deadline: float) -> None:
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
    """Whether the holder's process is gone. For a process on another machine, only the lock's age is known."""
    try:
        named = json.loads(holder)
        if named["host"] == socket.gethostname():
            return not is_alive(named["process"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # not written by `only_writer`
    try:
        os.utime(own)  # the current time, by the file server's clock
        return own.stat().st_mtime - path.stat().st_mtime > STALE_AFTER_S
    except FileNotFoundError:
        return False


def _break(path: Path, holder: str) -> None:
    """Remove a dead holder's lock, but not the lock of a process that took it over in the meantime."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process removed it
    if _content(aside) != holder:  # another process took the lock over: put it back
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
