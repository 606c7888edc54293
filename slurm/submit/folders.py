"""Where the jobs of a launch write their logs and find a copy of the code. Only their user may write there."""

import re
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import JobPaths

from imagination.schema import ConfigError
from results_db.text import one_line
from results_db.trust import check_own, check_path
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
    try:
        _check_own_path(JobPaths.get_first_id_independent_folder(given))
    except OSError as error:
        problem = f"launcher.submitit_folder: {one_line(error)}, or give another folder"
        raise ConfigError(problem, key="submitit_folder") from None


def _check_own_path(folder: Path) -> None:
    """Check that only this user can write this folder, which may not exist yet, and replace it or one above.

    Raises:
        OSError: others can.
    """
    if folder.exists():
        check_own(folder, shown=folder)
    check_path(folder)


def _has_pattern(text: str) -> bool:
    return "%" in text or "\\" in text


def make_given_folder(resources: Resources, job_ids: Sequence[str] = ()) -> None:
    """Make the folder that the user gave, or those of these jobs and tasks, because Slurm does not.

    Raises:
        OSError: it cannot be made, or others can write it.
    """
    if given := given_folder(resources):
        folders = [JobPaths(given, job_id=job_id).folder for job_id in job_ids]
        for folder in folders or [JobPaths.get_first_id_independent_folder(given)]:
            for one in (*reversed(folder.parents), folder):
                if not one.exists():
                    one.mkdir(mode=0o755, exist_ok=True)  # another launch may make it
            _check_own_path(folder)


def _check_snapshot_folder(files: Path) -> None:
    """Check that nobody else can put other code where the jobs find its copy.

    A job checks the folder of its dispatch before it reads its work, but Python finds the code by its path.
    """
    try:
        check_path(files / "jobs")
    except OSError as error:
        raise ConfigError(
            f"--snapshot: jobs would take code from {files}/jobs: {one_line(error)}, or name another store with --db"
        ) from None
