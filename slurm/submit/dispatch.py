"""Submits packs to Slurm as arrays. The store claims the runs of each array before it is submitted.

A crash between any two of these steps is harmless:

1. The dispatch's folder is made. It names the process that submits.
2. The store claims the attempts, under a job name that is used only once.
3. sbatch submits the array. From now on the jobs do not need the launch.
4. The job ids are noted in the store.

If the launch dies after step 2, `slurm.submit.recovery` finds the job by its name.
"""

import getpass
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

import submitit
from submitit.slurm.slurm import SlurmExecutor

from imagination.schema import ConfigError
from jobs.code import copy_code, this_code
from jobs.dispatched import Dispatch, DispatchFolder
from jobs.pack import Pack, Task
from results_db.contract import Attempt, Store
from results_db.process import process_name
from results_db.text import counted, one_line
from results_db.trust import check_own
from slurm.client.client import SlurmError, sbatch, sbatch_environment
from slurm.client.parse import Unknown
from slurm.submit import recovery
from slurm.submit.folders import given_folder, make_given_folder
from slurm.submit.launchers import Resources

SCRIPT = "submission.sh"

_NAME_LENGTH = 40


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


def in_levels(packs: Sequence[Pack]) -> list[list[Pack]]:
    """The packs in levels: those that need none of these runs, then those that need runs of the first level, ..."""
    level_of: dict[str, int] = {}
    levels: dict[int, list[Pack]] = {}
    for pack in packs:  # what others need comes first
        needed = [level_of[need] for run in pack.runs for need in run.needs.values() if need in level_of]
        level = max(needed, default=-1) + 1
        level_of |= {run.run_id: level for run in pack.runs}
        levels.setdefault(level, []).append(pack)
    return [levels[level] for level in sorted(levels)]


@dataclass
class Submission:
    """The arrays of one launch.

    Attributes:
        store: the store, where the runs are staged.
        resources: what each job asks for.
        sweep: the beginning of the jobs' names.
        hold_after: see `Dispatch`.
        retry_failed: also submit failed runs.
        snapshot: the jobs take a copy of the code as it is now.
        jobs: ids of the submitted arrays.
        tasks: the number of their tasks.
        runs: the number of runs in these tasks.
        unclear: the number of runs whose jobs may be in the queue, or not.
    """

    store: Store
    resources: Resources
    sweep: str
    hold_after: int
    retry_failed: bool = False
    snapshot: bool = False
    jobs: list[str] = field(default_factory=list)
    tasks: int = 0
    runs: int = 0
    unclear: int = 0

    def submit(self, packs: Sequence[Pack], *, limit: int) -> None:
        """Submit the packs, array by array; each array is counted as soon as it is in the queue.

        Runs that another launch has claimed meanwhile are left out, so of two launches at once only one submits a run.

        Args:
            packs: the packs, in the order in which they should start.
            limit: the largest number of tasks in an array.

        Raises:
            ConfigError: Slurm refused an array, or its folder cannot be made. Earlier arrays stay in the queue.
        """
        parallelism = int(self.resources.values["array_parallelism"])
        training = self._active_needs(packs)
        try:
            for level in in_levels(packs):
                ids: list[str | None] = []
                for part in deal(level, limit=limit, parallelism=parallelism):
                    earlier = None if part.after is None else ids[part.after]
                    needed = [training.get(need) for need in _needs(part.packs)]
                    after = sorted({job for job in (earlier, *needed) if job is not None})
                    job_id = self._submit_part(part, after=after)
                    ids.append(job_id)
                    if job_id is not None:
                        training |= {run.run_id: job_id for pack in part.packs for run in pack.runs}
        except (SlurmError, OSError) as error:
            why = f"the jobs' files cannot be written: {one_line(error)}"
            if isinstance(error, SlurmError):
                why = f"Slurm {'did not answer' if self.unclear else 'refused the jobs'}: {error}"
            raise ConfigError(f"{why}; {self._before}") from None

    @property
    def _before(self) -> str:
        """What is submitted, after a failure."""
        before = "nothing was submitted"
        if self.jobs:
            before = f"before that, {counted(self.runs, 'run')} were submitted as {', '.join(self.jobs)}"
        if self.unclear:
            unclear = f"{counted(self.unclear, 'run')} may be queued, which imagine-sweep reconcile finds out"
            return f"{before}; {unclear}" if self.jobs else unclear
        return before

    def script(self, part: Part) -> str:
        """The sbatch script of an array, as `submit` would write it under another job name."""
        folder = DispatchFolder.beside(self.store.folder, self._new_name())
        return self._script(folder, tasks=len(part.packs), parallelism=part.parallelism, after=[])

    def _new_name(self) -> str:
        return f"{self.sweep[:_NAME_LENGTH]}-{secrets.token_hex(4)}"

    def _active_needs(self, packs: Sequence[Pack]) -> dict[str, str]:
        """What runs of these packs need and jobs of earlier launches train, with the ids of these jobs."""
        needed = _needs(packs)
        if not needed:
            return {}
        return {
            one.attempt.run_id: one.job_id
            for one in self.store.open_attempts()
            if one.job_id and one.attempt.run_id in needed
        }

    def _submit_part(self, part: Part, *, after: Sequence[str]) -> str | None:
        """The array's id; None if other launches have claimed all of its runs.

        Raises:
            SlurmError: sbatch refused; the store keeps no claim.
        """
        began = datetime.now(UTC)
        name, given = self._new_name(), given_folder(self.resources)
        folder = DispatchFolder.beside(self.store.folder, name)
        about = Dispatch(
            job_name=name,
            db=self.store.url,
            files=str(self.store.folder),
            max_num_timeout=self.resources.max_num_timeout,
            host=socket.gethostname(),
            process=process_name(os.getpid()),
            user=getpass.getuser(),
            logs=None if given is None else str(given),
            hold_after=self.hold_after,
            gpus=self.resources.gpus,
            code=this_code(),
            snapshot=self.snapshot,
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
            if self.snapshot:
                copy_code(folder.code)
            script = self._script(folder, tasks=len(tasks), parallelism=part.parallelism, after=after)
            job_id = self._sbatch(folder, script)
        except BaseException as error:
            # The job may exist all the same: Slurm's answer may be late, and Ctrl-C may come at any time.
            self.unclear += len(attempts)
            found = recovery.settle(self.store, folder, attempts, since=began)
            if isinstance(found, Unknown):
                raise
            self.unclear -= len(attempts)
            if found is not None:
                self._count(folder, found, tasks)
            if found is None or not isinstance(error, SlurmError):
                raise
            return found
        self._count(folder, job_id, tasks)
        return job_id

    def _count(self, folder: DispatchFolder, job_id: str, tasks: Sequence[Task]) -> None:
        """Count the tasks of an array that is in the queue, and note its id."""
        self.jobs.append(job_id)
        self.tasks += len(tasks)
        attempts = [attempt for task in tasks for attempt in task.attempts]
        self.runs += len(attempts)
        make_given_folder(self.resources, recovery.job_ids(job_id, len(tasks)))
        recovery.note(self.store, folder, job_id, attempts=attempts)

    def _sbatch(self, folder: DispatchFolder, script: str) -> str:
        """The id of the new array.

        Raises:
            SlurmError: sbatch refused, or did not say.
            OSError: the folder cannot be written, or others can write it.
        """
        make_given_folder(self.resources)
        check_own(folder.path, shown=folder.path)
        file = folder.path / SCRIPT
        file.write_text(script)
        return sbatch(file, environment=sbatch_environment(self.resources.asked))

    def _script(self, folder: DispatchFolder, *, tasks: int, parallelism: int, after: Sequence[str]) -> str:
        """The sbatch script of an array, as submitit writes it."""
        logs = given_folder(self.resources) or folder.logs
        automatic = submitit.AutoExecutor(folder=logs, cluster="slurm")
        more = {
            "name": folder.path.name,
            "slurm_array_parallelism": parallelism,
            "slurm_setup": [*setup_commands(self.resources), *self._code_from(folder)],
            "slurm_additional_parameters": self._additional(after),
        }
        automatic.update_parameters(**{**self.resources.submitit(), **more})
        executor = cast(SlurmExecutor, automatic._executor)
        if tasks > 1:
            executor.parameters["map_count"] = tasks
        command = shlex.join([sys.executable, "-u", "-m", "slurm.start", str(folder.path)])
        return executor._make_submission_file_text(command, "")

    def _code_from(self, folder: DispatchFolder) -> list[str]:
        """The shell commands after which Python takes the copy of the code."""
        copied = shlex.quote(str(folder.code))
        return [f"export PYTHONPATH={copied}${{PYTHONPATH:+:$PYTHONPATH}}"] if self.snapshot else []

    def _additional(self, after: Sequence[str]) -> dict[str, object]:
        """Further options of sbatch. By default, Slurm requeues preempted jobs and those of a lost node."""
        more = {"requeue": True, **self.resources.additional}
        if more["requeue"] is False:  # submitit would write --requeue=False
            del more["requeue"]
        if after:
            given = [str(more["dependency"])] if more.get("dependency") else []
            more["dependency"] = ",".join([*given, ":".join(["afterany", *after])])
        return more


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


def _needs(packs: Sequence[Pack]) -> set[str]:
    """The ids of the runs that runs of these packs need."""
    return {need for pack in packs for run in pack.runs for need in run.needs.values()}


def _tasks(packs: Sequence[Pack], attempts: Sequence[Attempt]) -> list[Task]:
    """The packs, each with its claimed runs; a pack without any is left out."""
    of_run = {attempt.run_id: attempt for attempt in attempts}
    claimed = [replace(pack, runs=tuple(run for run in pack.runs if run.run_id in of_run)) for pack in packs]
    return [Task(pack, tuple(of_run[run.run_id] for run in pack.runs)) for pack in claimed if pack.runs]
