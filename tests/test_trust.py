"""Whose folders are trusted; `test_readers.py` and `test_slurm_users.py` have the users that are not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from user_helpers import USERS, need_root

from results_db.trust import check_own, check_path


@pytest.mark.parametrize(
    ("group", "mode", "own", "kept"),
    [
        (
            0,
            0o770,
            True,
            True,
        ),  # root's own group, as umask 002 leaves it for a user with a group of the same name
        (USERS, 0o770, False, False),
        (USERS, 0o1770, False, True),
        (54321, 0o770, False, False),  # a group without a name
        (0, 0o777, False, False),
        (USERS, 0o755, True, True),
    ],
)
def test_a_group_of_one_user_is_that_user(
    tmp_path: Path, group: int, mode: int, own: bool, kept: bool
) -> None:
    need_root()
    folder = tmp_path / "a"
    folder.mkdir()
    os.chown(folder, -1, group)
    folder.chmod(mode)

    assert passes(lambda: check_own(folder, shown=folder)) is own
    assert passes(lambda: check_path(folder)) is kept


def passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except PermissionError:
        return False
    return True
