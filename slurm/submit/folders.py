"""Where the jobs of a launch write their logs and find a copy of the code. Only their user may write there."""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import JobPaths

from imagination.schema import ConfigError
from jobs.dispatched import check_own
from results_db.text import one_line
from slurm.submit.launchers import Resources

_SUBMITITS = re.compile("%[jtAa]")


def given_folder(resources: Resources) -> Path | None:
    """The folder that the user gave, with submitit's %-patterns; None: each dispatch has its own."""
    given = resources.submitit_folder
    return None if given is None else Path(given).expanduser().absolute()


def check_folders(files: Path, resources: Resources, *, snapshot: bool) -> None:
    """Check the paths of a launch, before anything is done.

    Args:
        files: `Store.folder`.
        resources: what the jobs ask for.
        snapshot: whether the jobs take a copy of the code.

    Raises:
        ConfigError: Slurm would write logs elsewhere, or others can write where the jobs write or find code.
    """
    _check_log_folder(files, resources)
    if snapshot:
        _check_snapshot_folder(files)


def _check_log_folder(files: Path, resources: Resources) -> None:
    """Check that Slurm takes the logs' path as it is, and that others cannot write there."""
    given = given_folder(resources)
    if given is None:
        if _has_pattern(str(files)):
            raise ConfigError(
                f"{files}: Slurm would read the '%' or backslash in this path as a pattern for its logs; "
                "name a store without them with --db"
            )
        return
    if _has_pattern(_SUBMITITS.sub("", str(given))):
        raise ConfigError(
            f"launcher.submitit_folder: '{given}' has a '%' or backslash that Slurm would read as a pattern; "
            "only %j, %t, %A and %a are allowed",
            key="submitit_folder",
        )
    folder = JobPaths.get_first_id_independent_folder(given)
    try:
        if folder.exists():
            check_own(folder, shown=folder)
    except OSError as error:
        problem = f"launcher.submitit_folder: {one_line(error)}, or give another folder"
        raise ConfigError(problem, key="submitit_folder") from None


def _has_pattern(text: str) -> bool:
    return "%" in text or "\\" in text


def make_given_folder(resources: Resources, job_ids: Sequence[str] = ()) -> None:
    """Make the folder that the user gave, or those of these jobs and tasks, because Slurm does not.

    Raises:
        OSError: it cannot be made.
    """
    if given := given_folder(resources):
        folders = [JobPaths(given, job_id=job_id).folder for job_id in job_ids]
        for folder in folders or [JobPaths.get_first_id_independent_folder(given)]:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)


def _check_snapshot_folder(files: Path) -> None:
    """Check that nobody else can put other code where the jobs find its copy.

    A job checks the folder of its dispatch before it reads its work, but Python finds the code by its path.
    """
    for folder in (files / "jobs", *(files / "jobs").parents):
        if folder.exists() and not _is_safe(folder.stat()):
            raise ConfigError(
                f"--snapshot: other users can replace what is in {folder}, so jobs must not take code from there; "
                "name a store in a folder of your own with --db"
            )


def _is_safe(about: os.stat_result) -> bool:
    """Whether only this user and root can replace this user's entries in a folder."""
    others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX
    return about.st_uid in (os.geteuid(), 0) and not others_write
