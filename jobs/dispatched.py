"""The folder of a dispatch: what its jobs need to begin without the store, and who of two copies is the newer.

`FILES/jobs/JOB_NAME/` lies beside the store, where all nodes see it, and holds

    dispatch.json     who submitted, where the store is (with its password: only the user may read it)
    0.json, 1.json    the pack of each task of the array, and the numbers of its runs' attempts
    0.start0, ...     one file for every time that a task began, ran into its time limit, or was let go
    submitit's pickles, scripts and logs
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.pack import Pack
from results_db.contract import Attempt, PlannedRun

PICKLE = "job.pkl"
"""The job itself, as submitit pickles it; the same for all tasks."""


@dataclass(frozen=True)
class Dispatch:
    """What all jobs of a dispatch have in common.

    Attributes:
        job_name: the name by which Slurm knows them.
        db: the store's URL.
        files: `Store.folder`.
        max_num_timeout: how often a task may run into its time limit; None: until its work is done.
        host: where it is submitted from.
        process: the process that submits, as `process_name` names it.
        user: who submits.
        logs: where submitit puts its files, with its %-patterns.
        hold_after: identical failures at its start after which its launch is held; 0: never.
    """

    job_name: str
    db: str
    files: str
    max_num_timeout: int | None
    host: str
    process: str
    user: str
    logs: str
    hold_after: int


@dataclass(frozen=True)
class Task:
    """A task of the array: its pack, and the number of each run's attempt."""

    pack: Pack
    numbers: Mapping[str, int]

    def attempts(self, restart: int = 0) -> dict[str, Attempt]:
        """Run id to the attempt that this task makes."""
        return {run_id: Attempt(run_id, number, restart) for run_id, number in self.numbers.items()}


class DispatchFolder:
    """See the module.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, files: Path, job_name: str) -> "DispatchFolder":
        """The folder of a dispatch in `Store.folder`."""
        return cls(files / "jobs" / job_name)

    def begin(self, dispatch: Dispatch) -> None:
        """Make the folder. The tasks are written when their attempts are known."""
        self.path.mkdir(parents=True)
        file = self.path / "dispatch.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(dispatch)))

    def write_tasks(self, tasks: Sequence[Task]) -> None:
        """The tasks, in the order of the array.

        Not synced to disk one by one, which takes long for thousands: should this machine lose its power now, a job
        finds its file damaged and says so.
        """
        for index, task in enumerate(tasks):
            runs = [asdict(run) for run in task.pack.runs]
            self._task(index).write_text(json.dumps({"runs": runs, "numbers": dict(task.numbers)}))

    def remove(self) -> None:
        """Nothing was submitted."""
        shutil.rmtree(self.path, ignore_errors=True)

    def dispatch(self) -> Dispatch | None:
        """What `begin` wrote; None if it cannot be read."""
        try:
            return Dispatch(**json.loads((self.path / "dispatch.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def task(self, index: int) -> Task:
        """A task that `write_tasks` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        data = json.loads(self._task(index).read_text())
        return Task(Pack(tuple(PlannedRun(**run) for run in data["runs"])), data["numbers"])

    def tasks(self) -> int:
        """How many tasks were written."""
        return sum(path.stem.isdigit() for path in self.path.glob("*.json"))

    def claim_start(self, index: int, *, slurm_restarts: int) -> int | None:
        """A task begins: how often it has before, which is the `restart` of its attempts. None: it is an old copy.

        Slurm's own count does not do. A controller that is killed and started again may start a job a second time
        without counting it, and then two copies would be one and the same attempt. So every start takes the next
        number that nobody has, by a link, which one process alone can make however many try, on network file systems
        as well. Numbers are taken one after the other, so each start sees what all starts before it were counted as by
        Slurm; one that finds a larger count than its own is the older copy of a job that was requeued since, however
        late it comes. What this leaves open: of two starts that Slurm counts alike, the one that gets here first is
        taken for the older. Should it be the other way round, the controller, which knows of one of them only, kills
        it; nothing wrong is stored, and the run is taken up by the next launch.
        """
        number = 0
        while not self._claim(index, number, slurm_restarts):
            if int(self._start(index, number).read_text()) > slurm_restarts:
                return None
            number += 1
        return number

    def timeouts(self, index: int) -> int:
        """How often the task ran into its time limit."""
        return len(list(self.path.glob(f"{index}.timeout*")))

    def note_timeout(self, index: int, restart: int) -> None:
        """The task runs into its time limit."""
        (self.path / f"{index}.timeout{restart}").touch()

    def note_release(self, index: int) -> int:
        """The task is let go that Slurm held when it could not start it; how often that was, this time included."""
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
            # Perhaps made by ourselves: NFS may say so when it repeats a request whose answer was lost.
            with suppress(FileExistsError):
                os.link(temporary, self._start(index, number))
            return temporary.stat().st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)
