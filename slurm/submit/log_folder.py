"""Where the jobs of a launch write their logs. Only the user who submits them may write there."""

import re
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


def check_log_folder(files: Path, resources: Resources) -> None:
    """Check that Slurm takes the logs' path as it is, and that others cannot write there.

    Args:
        files: `Store.folder`.
        resources: what the jobs ask for.

    Raises:
        ConfigError: Slurm would write other files, or others can write there.
    """
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
