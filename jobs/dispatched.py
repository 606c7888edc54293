"""The folder of a dispatch. A job reads its work from it, and finds out there whether it is an outdated copy.

`FILES/jobs/JOB_NAME/` lies beside the store, where all nodes see it, and holds

    dispatch.json     the submitter and the store's URL, with its password
    submission.sh     the script for sbatch
    0.json, 1.json    each task of the array: its pack, and its runs' attempts
    0.start0, ...     one file for each time that a task began, reached its time limit, or was released
    code/             a copy of the code, with `launch --snapshot`

Only the user who submitted it may enter it. Nobody believes a dispatch that another user may have written. The jobs'
logs are in `FILES/logs/JOB_NAME/`, where others may read them.
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.code import Code
from jobs.pack import Task
from results_db.files import Files
from results_db.trust import open_own


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
        logs: the given folder for the logs, with submitit's %-patterns; None: `DispatchFolder.logs`.
        hold_after: the launch is held after this many first failures with the same error; 0 means never.
        gpus: GPUs of a job; None in dispatches by versions before 0.3.
        code: the code of the process that submits; None in dispatches by versions before 0.3.
        snapshot: whether the jobs take a copy of that code.
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
    code: Code | None = None
    snapshot: bool = False


class DispatchFolder:
    """The folder of a dispatch; the module's docstring lists its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, files: Path, job_name: str) -> "DispatchFolder":
        """The folder of the dispatch with this name, below `Store.folder`."""
        return cls(files / "jobs" / job_name)

    @property
    def logs(self) -> Path:
        """The folder of its jobs' logs, if the user gave none."""
        return Files(self.path.parent.parent).logs / self.path.name

    @property
    def code(self) -> Path:
        """The copy of the code, with `launch --snapshot`."""
        return self.path / "code"

    def begin(self, dispatch: Dispatch) -> None:
        """Create the folder. The tasks are written later, when their attempts are known.

        Raises:
            OSError: it cannot be made.
        """
        files = Files(self.path.parent.parent)
        files.make_folder("jobs", self.path.name, mode=0o700)
        if dispatch.logs is None:
            files.make_folder("logs", self.path.name, mode=0o755)
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
        """Delete the folder and its logs, because nothing was submitted."""
        for folder in (self.path, self.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def dispatch(self) -> Dispatch | None:
        """The dispatch that `begin` wrote; None if it cannot be read, or others may have written it."""
        try:
            plain = json.loads(self.read("dispatch.json"))
            code = plain.get("code")
            return Dispatch(**{**plain, "code": code and Code(**code)})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def task(self, index: int) -> Task:
        """A task that `write_tasks` wrote.

        Raises:
            OSError: its file cannot be read, or others may have written it.
            ValueError: its file is damaged.
        """
        name = self._task(index).name
        try:
            return Task.decode(self.read(name))
        except ValueError as error:
            raise ValueError(f"{name} is damaged: {error}") from None

    def tasks(self) -> int:
        """The number of tasks."""
        return sum(path.stem.isdigit() for path in self.path.glob("*.json"))

    def read(self, name: str) -> str:
        """The text of one of its files. Raises as `open_own` does."""
        with open_own(self.path / name) as file:
            return file.read().decode()

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
