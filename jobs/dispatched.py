"""The folder of a dispatch. A job reads its work from it, and finds out there whether it is an outdated copy.

`FILES/jobs/JOB_NAME/` lies beside the store, where all nodes see it, and holds

    dispatch.json     the submitter and the store's URL (with its password, so only the user may read it)
    0.json, 1.json    each task of the array: its pack, and its runs' attempts
    0.start0, ...     one file for each time that a task began, reached its time limit, or was released
    submitit's pickles, scripts and logs
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.pack import Task

PICKLE = "job.pkl"
"""The job as submitit pickles it, the same for all tasks."""


@dataclass(frozen=True)
class Dispatch:
    """What all jobs of a dispatch have in common.

    Attributes:
        job_name: their name in Slurm.
        db: the store's URL.
        files: `Store.folder`.
        max_num_timeout: how often a task may reach its time limit; None means no limit.
        host: the host that submits.
        process: the process that submits, as `process_name` names it.
        user: the user that submits.
        logs: submitit's folder, with its %-patterns; None: the dispatch's own folder.
        hold_after: the launch is held after this many first failures with the same error; 0 means never.
        gpus: GPUs of a job; None in dispatches by versions before 0.3.
    """

    job_name: str
    db: str
    files: str
    max_num_timeout: int | None
    host: str
    process: str
    user: str
    logs: str | None
    hold_after: int
    gpus: int | None = None


class DispatchFolder:
    """The folder of a dispatch; the module's docstring lists its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, files: Path, job_name: str) -> "DispatchFolder":
        """The folder of the dispatch with this name, below `Store.folder`."""
        return cls(files / "jobs" / job_name)

    def begin(self, dispatch: Dispatch) -> None:
        """Create the folder. The tasks are written later, when their attempts are known."""
        self.path.mkdir(parents=True)
        file = self.path / "dispatch.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(dispatch)))

    def write_tasks(self, tasks: Sequence[Task]) -> None:
        """Write the tasks, in the order of the array.

        The files are not synced to disk, because that is slow for thousands. A job reports a file that a power cut
        damaged.
        """
        for index, task in enumerate(tasks):
            self._task(index).write_text(task.encode())

    def remove(self) -> None:
        """Delete the folder, because nothing was submitted."""
        shutil.rmtree(self.path, ignore_errors=True)

    def dispatch(self) -> Dispatch | None:
        """The dispatch that `begin` wrote; None if it cannot be read."""
        try:
            return Dispatch(**json.loads((self.path / "dispatch.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def task(self, index: int) -> Task:
        """A task that `write_tasks` wrote.

        Raises:
            OSError: its file cannot be read.
            ValueError: its file is damaged.
        """
        return Task.decode(self._task(index).read_text())

    def tasks(self) -> int:
        """The number of tasks."""
        return sum(path.stem.isdigit() for path in self.path.glob("*.json"))

    def claim_start(self, index: int, *, slurm_restarts: int) -> int | None:
        """The number of this start of a task, which becomes the `restart` of its attempts; None for an outdated copy.

        Slurm's own count is not enough. A controller that was killed may start a job a second time without counting
        it, and two copies would make the same attempt. So every start takes the next free number with a hard link,
        which only one process can create, even on a network file system. The link's file holds Slurm's count. A start
        that finds a larger count than its own is an outdated copy, because the job was requeued after it.

        One case stays open: of two starts with the same count, the first to take a number counts as the older. If it
        is in fact the newer, the job ends without a result. No wrong result is stored, and the next launch continues
        the run.

        Args:
            index: the task.
            slurm_restarts: Slurm's count of the task's restarts.
        """
        number = 0
        while not self._claim(index, number, slurm_restarts):
            if int(self._start(index, number).read_text()) > slurm_restarts:
                return None
            number += 1
        return number

    def note_timeout(self, index: int, restart: int) -> int:
        """Note that a start of the task reached its time limit. Returns how many starts did."""
        (self.path / f"{index}.timeout{restart}").touch()
        return len(list(self.path.glob(f"{index}.timeout*")))

    def note_release(self, index: int) -> int:
        """Counts a release of a task that Slurm held because it could not start it. Returns the number of releases."""
        times = len(list(self.path.glob(f"{index}.released*"))) + 1
        (self.path / f"{index}.released{times}").touch()
        return times

    def _task(self, index: int) -> Path:
        return self.path / f"{index}.json"

    def _start(self, index: int, number: int) -> Path:
        return self.path / f"{index}.start{number}"

    def _claim(self, index: int, number: int, slurm_restarts: int) -> bool:
        temporary = self.path / f"{index}.{secrets.token_hex(4)}.tmp"
        try:
            with temporary.open("x") as file:
                file.write(str(slurm_restarts))
                file.flush()
                os.fsync(file.fileno())
            # NFS repeats a request whose answer was lost, and then reports our own link as existing.
            with suppress(FileExistsError):
                os.link(temporary, self._start(index, number))
            return temporary.stat().st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)
