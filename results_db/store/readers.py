"""Reading a SQLite file without leaving anything behind: a colleague's command must never lock the owner out.

A reader of a file with a write-ahead log shares the file `-shm` with the writers, and SQLite creates it if it is
missing. It then belongs to the reader, and the owner cannot write any more. So a reader of another user's store
creates nothing: it uses a `-shm` that is there, and where no log is there, it reads the file as one that nobody writes.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from results_db.contract import StoreError
from results_db.trust import is_anothers

_ALONE = "alone"
"""Where a connection that shares nothing with writers keeps what its file was like."""

_FORMATS = slice(18, 20)
"""The bytes of a SQLite file that say how it is written and read: 2 with a write-ahead log."""


def may_write(file: Path, *, shared: bool) -> bool:
    """Whether this user may write the file: the owner, root, or a user with whom it is shared."""
    return os.access(file, os.W_OK) and (shared or os.geteuid() == 0 or not is_anothers(file))


def only_reads(file: Path, *, read_only: bool) -> bool:
    """Whether to connect with `connect`: this user cannot write the file, or need not and does not own it."""
    return file.exists() and (not os.access(file, os.W_OK) or (read_only and is_anothers(file)))


def has_log(file: Path) -> bool:
    """Whether the file is written by way of a write-ahead log.

    Call this before connecting: when a process closes a file, it loses all its locks on it.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(20)[_FORMATS] == b"\2\2"
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}") from None


def connect(file: Path, *, has_log: bool) -> sqlite3.Connection:
    """A connection that writes nothing, not even beside the file."""
    how = "" if not has_log else "&readonly_shm=1" if _log(file).exists() else "&immutable=1"
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro{how}", uri=True, check_same_thread=False)


def note(file: Path, _connection: Any, record: Any) -> None:
    """Remember, for `check`, what the file was like when it was opened."""
    record.info[_ALONE] = None if _log(file).exists() else _looks(file)


def check(file: Path, info: dict[str, Any], *, shown: str) -> None:
    """Check, after a transaction, that nobody wrote the file while it was read as one that nobody writes.

    Raises:
        StoreError: somebody did.
    """
    if info.get(_ALONE) and info[_ALONE] != _looks(file):
        raise StoreError(f"{shown} was written while it was read; try again")


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _looks(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
