"""Sharing a SQLite store with a group, on purpose: its members may then launch into it, and their results are believed.

What is shared is recorded in the store. Every process that writes the store lets the group write what it creates,
whatever the umask says; the folders give their group to it.
"""

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import update

from results_db.contract import StoreError
from results_db.files import Files
from results_db.store import tables
from results_db.store.sql import SqlStore

_FOLDERS = (
    "",
    "weights",
    "checkpoints",
    "spool",
    "spool/alive",
    "spool/damaged",
    "logs",
    "discarded",
)
"""The folders beside the database that the group may write. Those of dispatches, whose files are executed, are not."""

_KEPT = ("", "logs")
"""Those in which nobody may delete or rename what others made: jobs write their logs and find their orders there."""


def share(store: SqlStore, group: str) -> None:
    """Share a store with a group of users.

    Raises:
        StoreError: it does not exist, the group is unknown, or this user may not change the files.
    """
    if not store.exists:
        raise StoreError(f"{store.display_url} does not exist; a launch creates it")
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(f"no group '{group}' on this machine; your groups: {', '.join(_own())}") from None
    path = store.folder
    try:
        path.mkdir(parents=True, exist_ok=True)
        for path, mode in _shared(store.file, store.folder):
            os.chown(path, -1, number)
            path.chmod((path.stat().st_mode | mode) & ~stat.S_IWOTH)
        Files(store.folder).share(store.uuid, number)
    except OSError as error:
        raise StoreError(
            f"cannot share {path} with {group}: {error.strerror}; only its owner can, with an own group: "
            f"{', '.join(_own())}"
        ) from None
    with store._writing() as connection:
        connection.execute(update(tables.store).values(shared_with=group))


def _shared(file: Path | None, folder: Path) -> Iterator[tuple[Path, int]]:
    """The paths to share, and what their modes need: new files in a folder get its group."""
    if file is not None:
        yield file.parent, 0o2070
        for path in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm", "-journal"))):
            if path.exists():
                yield path, 0o060
    for inner in _FOLDERS:
        if (folder / inner).is_dir():
            yield folder / inner, 0o3070 if inner in _KEPT else 0o2070
            for path in (folder / inner).iterdir():
                if path.is_file():
                    yield path, 0o060


def _own() -> list[str]:
    return sorted(one.gr_name for one in grp.getgrall() if one.gr_gid in {os.getegid(), *os.getgroups()})
