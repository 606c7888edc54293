"""Whose files and folders are trusted: the one place that opens what another user may have put there.

A file is opened once, without following a link. Its owner is checked, and it is read, through that one descriptor, so
nobody can swap it in between.
"""

import errno
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""With an access list, the group's bits are what the list allows at most."""


class UntrustedError(PermissionError):
    """Another user may have written the file. The message is the reason."""


def open_believed(path: Path, *, owner: int, group: int | None = None) -> BufferedReader:
    """Open a file for reading if root, this user, or the store's `owner` wrote it, or a member of its `group`.

    Args:
        path: the file.
        owner: the number of the user whose store it is.
        group: the number of the group that shares the store; None if no group does.

    Raises:
        UntrustedError: another user wrote it, or it is a link or no file.
        OSError: it cannot be opened.
    """
    file = os.fdopen(_open(path), "rb")
    try:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UntrustedError("it is not believed: it is no file")
        if not is_from(about, owner=owner, group=group):
            raise UntrustedError(
                f"it is not believed: user {about.st_uid} wrote it, and the store is user {owner}'s; "
                "to share the store: imagine-results db share GROUP"
            )
    except BaseException:
        file.close()
        raise
    return file


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedError("it is not believed: it is a link") from None
        raise


def is_from(about: os.stat_result, *, owner: int, group: int | None) -> bool:
    """Whether root, this user, this owner or, if a group is given, one of its members made a file or a folder.

    Files in the folders that a group shares get its number, and only its members can make some there.
    """
    return about.st_uid in (0, os.geteuid(), owner) or about.st_gid == group


def is_anothers(path: Path) -> bool:
    """Whether another user owns this file or folder, or this user cannot tell."""
    try:
        return path.stat().st_uid != os.geteuid()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def open_own(path: Path) -> BufferedReader:
    """Open a file that nobody but this user can have put there, for reading: one whose content is executed or shown.

    Its folder, too, is checked and used by one descriptor. So another user who may rename it cannot have it checked and
    another one read.

    Raises:
        PermissionError: others can write its folder, or own it.
        OSError: it cannot be opened, or is a symbolic link.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        check_own(folder, shown=path.parent)
        return os.fdopen(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb")
    finally:
        os.close(folder)


def check_own(folder: Path | int, *, shown: Path) -> None:
    """Check that this user alone can write a folder.

    Args:
        folder: its path, or a descriptor of it.
        shown: its path, for the error.

    Raises:
        PermissionError: others can write it, or own it.
        OSError: it cannot be looked at.
    """
    about = folder.stat() if isinstance(folder, Path) else os.fstat(folder)
    if about.st_uid != os.geteuid():
        raise PermissionError(f"{shown} belongs to another user")
    if about.st_mode & _OTHERS_WRITE:
        raise PermissionError(f"other users can write {shown}; chmod go-w it")


def check_path(folder: Path) -> None:
    """Check that only this user and root can replace what this folder and those above it contain.

    Those that do not exist yet are left out.

    Raises:
        PermissionError: others can.
        OSError: one cannot be looked at.
    """
    for one in sorted({place for path in (folder, folder.resolve()) for place in (path, *path.parents)}):
        if not one.exists():
            continue
        about = one.stat()
        if about.st_uid not in (os.geteuid(), 0):
            raise PermissionError(f"{one} belongs to another user")
        if _is_open(about):
            raise PermissionError(f"other users can replace what is in {one}; chmod +t it")


def _is_open(about: os.stat_result) -> bool:
    """Whether others can replace what is in this folder. With the sticky bit only the owner of an entry can."""
    return bool(about.st_mode & _OTHERS_WRITE) and not about.st_mode & stat.S_ISVTX


def keep_entries(folder: Path) -> None:
    """Let nobody but its owner replace an entry of this folder, if it is this user's and others may write it."""
    about = folder.stat()
    if about.st_uid == os.geteuid() and _is_open(about):
        with suppress(OSError):  # a file system without permissions
            folder.chmod(stat.S_IMODE(about.st_mode) | stat.S_ISVTX)
