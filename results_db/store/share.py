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
from results_db.store.address import locate
from results_db.store.sql import SqlStore

_OF_ONE_USER = ("jobs", "logs")
"""Folders whose entries stay their makers' alone: jobs execute what they find in theirs, and write their logs there."""

_SHOWN = 3


def share(store: SqlStore, group: str) -> None:
    """Share a store with a group of users.

    Raises:
        StoreError: it does not exist, the group is unknown, this user may not change the files, or the group could then
            also write something else.
    """
    if not store.exists:
        raise StoreError(f"{store.display_url} does not exist; a launch creates it")
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(f"no group '{group}' on this machine; your groups: {', '.join(_own())}") from None
    if store.file is not None:
        _check_alone(store.file, store.folder)
    path = store.folder
    try:
        Files(path).share(store.uuid, number)
        for path, mode in _shared(store.file, store.folder):
            about = path.stat()
            wanted = (about.st_mode | mode) & ~stat.S_IWOTH
            if (about.st_gid, about.st_mode) != (number, wanted):  # else a member made it
                os.chown(path, -1, number)
                path.chmod(wanted)
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
        yield from ((path, 0o060) for path in _database(file) if path.exists())
    for name, inner, files in os.walk(folder):
        top = Path(name)
        of_one = top.parent == folder and top.name in _OF_ONE_USER
        yield top, 0o3070 if of_one or top == folder else 0o2070  # 3: only its maker may replace an entry
        for path in (top / each for each in files):
            if not path.is_symlink():
                yield path, 0o040  # files there are written anew and renamed
        if of_one:
            inner.clear()


def _database(file: Path) -> list[Path]:
    return [file, *(file.with_name(file.name + end) for end in ("-wal", "-shm", "-journal", ".lock"))]


def _check_alone(file: Path, folder: Path) -> None:
    """Check that the database's folder holds nothing but stores."""
    found = set(file.parent.iterdir()) - {folder, *_database(file)}
    stores = [locate(str(path)) for path in found if path.suffix == ".db" and path.is_file()]
    found = found.difference(*({store.folder, *_database(store.file)} for store in stores if store.file))
    if strange := sorted(path.name for path in found):
        more = ", ..." if len(strange) > _SHOWN else ""
        raise StoreError(
            f"the group could write all of {file.parent}, which holds more than stores "
            f"({', '.join(strange[:_SHOWN])}{more}); move {file.name} and {folder.name} into a folder of their own "
            "while no run is active, and share that store"
        )


def _own() -> list[str]:
    return sorted(one.gr_name for one in grp.getgrall() if one.gr_gid in {os.getegid(), *os.getgroups()})
