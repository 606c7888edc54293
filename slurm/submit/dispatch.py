"""Submits packs to Slurm as arrays. The store claims the runs of each array before it is submitted.

A crash between any two of these steps is harmless:

1. The dispatch's folder is made. It names the process that submits.
2. The store claims the attempts, under a job name that is used only once.
3. sbatch submits the array. From now on the jobs do not need the launch, not even to find
   their pickles.
4. The job ids are noted in the store.

If the launch dies after step 2, `slurm.submit.recovery` finds the job by its name.
"""

import getpass
import io
import os
import secrets
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import DelayedSubmission
from submitit.slurm.slurm import SlurmExecutor

from imagination.schema import ConfigError
from jobs.dispatched import PICKLE, Dispatch, DispatchFolder
from jobs.pack import Pack, Task
from results_db.contract import Attempt, Store
from results_db.process import process_name
from results_db.text import counted, one_line
from slurm.client.client import SlurmError, said, sbatch_environment
from slurm.submit import recovery
from slurm.submit.launchers import Resources

_NAME_LENGTH = 40
_NEVER = 1_000_000
"""The number of time-outs that submitit allows. It miscounts them, so the job counts them itself."""


@dataclass(frozen=True)
class Part:
    """One array.

    Attributes:
        packs: its tasks, in order.
        parallelism: how many of them may run at once.
        after: the index of the part that must end first, or None.
    """

    packs: Sequence[Pack]
    parallelism: int
    after: int | None = None


def deal(packs: Sequence[Pack], *, limit: int, parallelism: int) -> list[Part]:
    """The packs as arrays of at most `limit` tasks; at most `parallelism` tasks of all arrays run at once.

    Slurm limits the running tasks of one array, not of several. So each part gets its share of `parallelism`. The packs
    are dealt like cards, so that the parts, side by side, keep the order of `packs`. If there are more parts than tasks
    that may run, a part waits for the end of an earlier part.
    """
    needed = -(-len(packs) // limit)
    lanes = min(needed, parallelism)
    parts: list[Part] = []
    for start in range(0, len(packs), max(lanes, 1) * limit):
        dealt = packs[start : start + lanes * limit]
        before = len(parts)
        for lane in range(min(lanes, len(dealt))):
            share = parallelism // lanes + (lane < parallelism % lanes)
            parts.append(Part(dealt[lane::lanes], share, before - lanes + lane if before else None))
    return parts


@dataclass
class Submission:
    """The arrays of one launch.

    Attributes:
        store: the store, where the runs are staged.
        resources: what each job asks for.
        sweep: the beginning of the jobs' names.
        hold_after: see `Dispatch`.
        job: makes the callable that submitit pickles, from the path of its dispatch folder.
        retry_failed: also submit failed runs.
        jobs: ids of the submitted arrays.
        tasks: the number of their tasks.
        runs: the number of runs in these tasks.
    """

    store: Store
    resources: Resources
    sweep: str
    hold_after: int
    job: Callable[[str], Callable[[], object]]
    retry_failed: bool = False
    jobs: list[str] = field(default_factory=list)
    tasks: int = 0
    runs: int = 0

    def submit(self, packs: Sequence[Pack], *, limit: int) -> None:
        """Submit the packs, array by array; each array is counted as soon as it is in the queue.

        Runs that another launch has claimed meanwhile are left out, so of two launches at once only one submits a run.

        Args:
            packs: the packs, in the order in which they should start.
            limit: the largest number of tasks in an array.

        Raises:
            ConfigError: Slurm refused an array, or its folder cannot be made. Earlier arrays stay in the queue.
        """
        ids: list[str | None] = []
        try:
            for part in deal(packs, limit=limit, parallelism=int(self.resources.values["array_parallelism"])):
                ids.append(self._submit_part(part, after=None if part.after is None else ids[part.after]))
        except (SlurmError, OSError) as error:
            before = "nothing was submitted"
            if self.jobs:
                before = f"before that, {counted(self.runs, 'run')} were submitted as {', '.join(self.jobs)}"
            why = f"the jobs' files cannot be written: {one_line(error)}"
            if isinstance(error, SlurmError):
                why = f"Slurm refused the jobs: {error}"
            raise ConfigError(f"{why}; {before}") from None

    def script(self, part: Part) -> str:
        """The sbatch script of an array, as `submit` would write it under another job name."""
        name = self._new_name()
        folder = DispatchFolder.beside(self.store.folder, name)
        executor = cast(SlurmExecutor, self._executor(name, folder, part.parallelism, None)._executor)
        if len(part.packs) > 1:
            executor.parameters["map_count"] = len(part.packs)
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def _new_name(self) -> str:
        return f"{self.sweep[:_NAME_LENGTH]}-{secrets.token_hex(4)}"

    def _submit_part(self, part: Part, *, after: str | None) -> str | None:
        """The array's id; None if other launches have claimed all of its runs.

        Raises:
            SlurmError: sbatch refused; the store keeps no claim.
        """
        began = datetime.now(UTC)
        name = self._new_name()
        folder = DispatchFolder.beside(self.store.folder, name)
        about = Dispatch(
            job_name=name,
            db=self.store.url,
            files=str(self.store.folder),
            max_num_timeout=self.resources.max_num_timeout,
            host=socket.gethostname(),
            process=process_name(os.getpid()),
            user=getpass.getuser(),
            logs=self.resources.submitit_folder,
            hold_after=self.hold_after,
            gpus=self.resources.gpus,
        )
        folder.begin(about)
        run_ids = [run.run_id for pack in part.packs for run in pack.runs]
        attempts = self.store.claim(run_ids, job_name=name, launcher="slurm", retry_failed=self.retry_failed)
        tasks = _tasks(part.packs, attempts)
        if not tasks:
            folder.remove()
            return None
        try:
            folder.write_tasks(tasks)
            job_id = self._sbatch(about, folder, len(tasks), part.parallelism, after)
        except BaseException as error:
            # The job may exist all the same: Slurm's answer may be late, and Ctrl-C may come at any time.
            found = recovery.settle(self.store, folder, attempts, since=began)
            if found is None:
                folder.remove()
            if found is None or not isinstance(error, SlurmError):
                raise
            job_id = found
        self.jobs.append(job_id)
        self.tasks += len(tasks)
        self.runs += len(attempts)
        recovery.note(self.store, folder, job_id)
        return job_id

    def _sbatch(
        self, about: Dispatch, folder: DispatchFolder, tasks: int, parallelism: int, after: str | None
    ) -> str:
        """The id of the new array."""
        job = self.job(str(folder.path))
        pickled = DelayedSubmission(job)
        pickled.set_timeout(int(self.resources.values["timeout_min"]), _NEVER)
        pickled.dump(folder.path / PICKLE)
        try:
            executor = self._executor(about.job_name, folder, parallelism, after)
            # submitit prints sbatch's message; ours is one line.
            with redirect_stderr(io.StringIO()), _environment(sbatch_environment(self.resources.asked)):
                jobs = executor.submit_array([job] * tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(said(str(error))) from None
        return str(jobs[0].job_id).partition("_")[0]

    def _executor(
        self, name: str, folder: DispatchFolder, parallelism: int, after: str | None
    ) -> submitit.AutoExecutor:
        """What writes the sbatch script of an array and submits it."""
        logs = self.resources.submitit_folder or folder.path
        executor = submitit.AutoExecutor(folder=logs, cluster="slurm", slurm_max_num_timeout=_NEVER)
        more = {
            "name": name,
            "slurm_array_parallelism": parallelism,
            "slurm_setup": [*setup_commands(self.resources), *_place_pickle(executor.folder, folder.path)],
            "slurm_additional_parameters": self._additional(after),
        }
        executor.update_parameters(**{**self.resources.submitit(), **more})
        return executor

    def _additional(self, after: str | None) -> dict[str, object]:
        """Further options of sbatch. By default, Slurm requeues preempted jobs and those of a lost node."""
        more = {"requeue": True, **self.resources.additional}
        if more["requeue"] is False:  # submitit would write --requeue=False
            del more["requeue"]
        if after is not None:
            given = [str(more["dependency"])] if more.get("dependency") else []
            more["dependency"] = ",".join([*given, f"afterany:{after}"])
        return more


def _place_pickle(submitit_folder: Path, folder: Path) -> list[str]:
    """Commands that let a job find its pickle even if the launch died right after sbatch.

    submitit names a pickle by its job's id, so it does that after sbatch. A job without a pickle fails after a minute.
    """
    array = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
    job = array + "${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    values = {"j": job, "A": array, "a": "$SLURM_ARRAY_TASK_ID", "t": "0"}
    return [
        f"pickle={shlex.quote(f'{submitit_folder}/%j_submitted.pkl')}",
        *(f'pickle="${{pickle//%{sign}/{value}}}"' for sign, value in values.items()),
        f'ln -s {shlex.quote(str(folder / PICKLE))} "$pickle" 2>/dev/null',
    ]


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Replace this process's environment, which submitit passes to sbatch."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def setup_commands(resources: Resources) -> list[str]:
    """The shell commands before Python: ours, then the user's."""
    threads = resources.cpus
    return [
        # Else the folder from which the job was submitted would be first on Python's path.
        "export PYTHONSAFEPATH=1",
        f"export IMAGINE_THREADS={threads} OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        # Since 22.05 srun does not take it from sbatch, and the task would get one core.
        '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',
        # If the GPU cannot be used, the job fails and does not fall back to the CPU.
        *(["export IMAGINE_DEVICE=${IMAGINE_DEVICE:-cuda}"] if resources.gpus else []),
        *resources.setup,
    ]


def _tasks(packs: Sequence[Pack], attempts: Sequence[Attempt]) -> list[Task]:
    """The packs, each with its claimed runs; a pack without any is left out."""
    of_run = {attempt.run_id: attempt for attempt in attempts}
    claimed = [Pack(tuple(run for run in pack.runs if run.run_id in of_run)) for pack in packs]
    return [Task(pack, tuple(of_run[run.run_id] for run in pack.runs)) for pack in claimed if pack.runs]
