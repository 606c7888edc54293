"""Sharing a SQLite store with a group, on purpose: its members may then launch into it, and their results are believed.

What is shared is recorded in the store. Every process that writes the store lets the group write what it creates,
whatever the umask says; the folders give their group to it.
"""

import grp
import os
import stat
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
        Files(path).make_kinds()
        store.close()  # to open and close a file of SQLite's would drop the locks of this process
        if store.file is not None:
            for path in filter(Path.exists, _database(store.file)):
                _give(path, 0o060, number)
            path = store.file.parent
            _give(path, 0o2070, number)
        _give_all(store.folder, number)
    except OSError as error:
        raise StoreError(
            f"cannot share {path} with {group}: {error.strerror}; only its owner can, with an own group: "
            f"{', '.join(_own())}"
        ) from None
    with store._writing() as connection:
        connection.execute(update(tables.store).values(shared_with=group))


def _give_all(folder: Path, group: int) -> None:
    """Share a store's folder: new files in a folder of it get its group."""
    for name, inner, files, descriptor in os.fwalk(folder):
        top = Path(name)
        of_one = top.parent == folder and top.name in _OF_ONE_USER
        # 3: only its maker may replace an entry
        _give(".", 0o3070 if of_one or top == folder else 0o2070, group, within=descriptor)
        for each in files:
            _give(each, 0o040, group, within=descriptor)  # files there are written anew and renamed
        if of_one:
            inner.clear()


def _give(path: Path | str, mode: int, group: int, *, within: int | None = None) -> None:
    """Give a file or a folder to the group, and add these permissions.

    A store that is shared already may have members who put links in the way, so links are left alone.
    """
    if _lacks(os.stat(path, dir_fd=within, follow_symlinks=False), mode, group):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=within)
        try:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, (os.fstat(descriptor).st_mode | mode) & ~stat.S_IWOTH)
        finally:
            os.close(descriptor)


def _lacks(about: os.stat_result, mode: int, group: int) -> bool:
    """Whether a file or a folder is to be changed; one that a member made may be right, and cannot be."""
    if stat.S_ISLNK(about.st_mode):
        return False
    return about.st_gid != group or about.st_mode & (mode | stat.S_IWOTH) != mode


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
