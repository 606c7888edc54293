"""From packs to jobs in Slurm's queue: arrays, each granted by the store before it is submitted.

The order makes every crash harmless: the folder says who submits; then the store grants the attempts, under a job name
that is never used again; then sbatch; then the ids are noted. What a crash leaves in between `slurm.submit.recovery` finds by
that name. After sbatch the jobs need nothing more of the launcher, not even submitit's naming of its files.
"""

import getpass
import io
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import DelayedSubmission

from imagination.schema import ConfigError
from jobs.dispatched import PICKLE, Dispatch, DispatchFolder, Task
from jobs.pack import Pack
from results_db.contract import Attempt, Store
from results_db.process import process_name
from results_db.text import counted, one_line
from slurm.client.commands import SlurmError, said, sbatch_environment
from slurm.submit import recovery
from slurm.submit.launchers import Resources

_NAME_LENGTH = 40
_NEVER = 1_000_000
"""Time-outs that submitit allows: it miscounts them, so `PackJob` counts."""


@dataclass
class Submitted:
    """What a launch put into the queue.

    Attributes:
        jobs: ids of the arrays.
        packs: how many tasks they have.
        runs: how many runs those train.
    """

    jobs: list[str] = field(default_factory=list)
    packs: int = 0
    runs: int = 0


@dataclass(frozen=True)
class Part:
    """One array.

    Attributes:
        packs: its tasks, in order.
        parallelism: how many of them may run at once.
        after: the part that must have ended before, by its place in the list; None: none.
    """

    packs: Sequence[Pack]
    parallelism: int
    after: int | None = None


def deal(packs: Sequence[Pack], *, limit: int, parallelism: int) -> list[Part]:
    """Packs as arrays of at most `limit` tasks, of which together at most `parallelism` run at once.

    Slurm limits an array's running tasks, not those of several. So each part gets its share, and the packs are dealt
    out like cards: all parts proceed side by side, and together in the order of `packs`. Where there are more parts
    than tasks may run, a part waits for the end of one before it.
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


def dispatch(
    store: Store,
    packs: Sequence[Pack],
    *,
    resources: Resources,
    limit: int,
    sweep: str,
    retry_failed: bool = False,
    hold_after: int,
    job: Callable[[str], Callable[[], object]],
    done: Submitted,
) -> None:
    """Submit the packs, array by array.

    Runs that somebody else has been granted meanwhile are left out: of two launches at once each run is submitted by
    one.

    Args:
        store: where the runs are staged.
        packs: in the order in which they shall start.
        resources: what each job asks for.
        limit: tasks of an array, at most.
        sweep: its jobs' names begin with it.
        retry_failed: failed runs, too.
        hold_after: see `Dispatch`.
        job: makes what Slurm executes, from the dispatch's folder.
        done: is told of every array that was queued, whatever comes after it.

    Raises:
        ConfigError: Slurm refused an array, or the folders for it cannot be made. What was queued before stays.
    """
    ids: list[str | None] = []
    try:
        for part in deal(packs, limit=limit, parallelism=int(resources.values["array_parallelism"])):
            after = None if part.after is None else ids[part.after]
            submission = _Submission(
                store, resources, sweep=sweep, after=after, hold_after=hold_after, job=job
            )
            ids.append(submission.submit(part, retry_failed=retry_failed))
            if (job_id := ids[-1]) is not None:
                done.jobs.append(job_id)
                done.packs += submission.packs
                done.runs += submission.runs
                submission.note(job_id)
    except (SlurmError, OSError) as error:
        before = (
            f"before that, {counted(done.runs, 'run')} went out as {', '.join(done.jobs)}"
            if done.jobs
            else ""
        )
        why = (
            f"Slurm refused the jobs: {error}"
            if isinstance(error, SlurmError)
            else f"the jobs' files cannot be written: {one_line(error)}"
        )
        raise ConfigError(f"{why}; {before or 'nothing was submitted'}") from None


class _Submission:
    """One array on its way into the queue."""

    def __init__(
        self,
        store: Store,
        resources: Resources,
        *,
        sweep: str,
        after: str | None,
        hold_after: int,
        job: Callable[[str], Callable[[], object]],
    ) -> None:
        self._job = job
        self._store = store
        self._resources = resources
        self._name = f"{sweep[:_NAME_LENGTH]}-{secrets.token_hex(4)}"
        self._after = after
        self._hold_after = hold_after
        self._folder = DispatchFolder.beside(store.folder, self._name)
        self._files = resources.submitit_folder or str(self._folder.path)
        self._began = datetime.now(UTC)
        self.packs = 0
        self.runs = 0

    def submit(self, part: Part, *, retry_failed: bool) -> str | None:
        """The array's id; None if all of its runs were granted to others.

        Raises:
            SlurmError: sbatch refused; nothing of it is recorded.
        """
        self._folder.begin(self._about())
        run_ids = [run.run_id for pack in part.packs for run in pack.runs]
        attempts = self._store.claim(
            run_ids, job_name=self._name, launcher="slurm", retry_failed=retry_failed
        )
        tasks = _tasks(part.packs, attempts)
        self.packs, self.runs = len(tasks), len(attempts)
        if not tasks:
            self._folder.remove()
            return None
        try:
            self._folder.write_tasks(tasks)
            job = self._sbatch(len(tasks), min(part.parallelism, len(tasks)))
        except BaseException as error:
            # It may have been submitted all the same: an answer may be late, and Ctrl-C comes at any moment.
            found = recovery.settle(self._store, self._folder, attempts, since=self._began)
            if found is None:
                self._folder.remove()
            if found is None or not isinstance(error, SlurmError):
                raise
            return found
        return job

    def note(self, job: str) -> None:
        """Tell the store the ids of the tasks."""
        recovery.note(self._store, self._folder, job)

    def _about(self) -> Dispatch:
        return Dispatch(
            job_name=self._name,
            db=self._store.url,
            files=str(self._store.folder),
            max_num_timeout=self._resources.max_num_timeout,
            host=socket.gethostname(),
            process=process_name(os.getpid()),
            user=getpass.getuser(),
            logs=self._files,
            hold_after=self._hold_after,
        )

    def _sbatch(self, tasks: int, parallelism: int) -> str:
        executor = submitit.AutoExecutor(folder=self._files, cluster="slurm", slurm_max_num_timeout=_NEVER)
        parameters = self._resources.submitit()
        job = self._job(str(self._folder.path))
        self._dump(job, timeout_min=int(parameters["timeout_min"]))
        try:
            executor.update_parameters(
                **{
                    **parameters,
                    "name": self._name,
                    "slurm_array_parallelism": parallelism,
                    "slurm_setup": [*setup_commands(self._resources), *self._place_pickle(executor.folder)],
                    "slurm_additional_parameters": self._additional(),
                }
            )
            # submitit prints what sbatch says; we say it in one line.
            with redirect_stderr(io.StringIO()), _environment(sbatch_environment(self._resources.asked)):
                jobs = executor.submit_array([job] * tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(said(str(error))) from None
        return str(jobs[0].job_id).partition("_")[0]

    def _additional(self) -> dict[str, object]:
        """What sbatch is told beside the keys. A job that fails with its node, or is preempted, shall come back."""
        more = {"requeue": True, **self._resources.additional}
        if more["requeue"] is False:  # submitit would write --requeue=False
            del more["requeue"]
        if self._after is not None:
            more["dependency"] = ",".join(
                filter(None, [str(more.get("dependency", "")), f"afterany:{self._after}"])
            )
        return more

    def _dump(self, job: Callable[[], object], *, timeout_min: int) -> None:
        delayed = DelayedSubmission(job)
        delayed.set_timeout(timeout_min, _NEVER)
        delayed.dump(self._folder.path / PICKLE)

    def _place_pickle(self, folder: Path) -> list[str]:
        """Commands by which a job finds its pickle even if the launcher died before it could name it.

        submitit names its pickles by the job's id, so after sbatch; a job without one would fail after a minute.
        """
        job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
        values = {
            "j": job,
            "A": "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}",
            "a": "$SLURM_ARRAY_TASK_ID",
            "t": "0",
        }
        return [
            f"pickle={shlex.quote(f'{folder}/%j_submitted.pkl')}",
            *(f'pickle="${{pickle//%{sign}/{value}}}"' for sign, value in values.items()),
            f'ln -s {shlex.quote(str(self._folder.path / PICKLE))} "$pickle" 2>/dev/null',
        ]


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """This process's environment is another one: submitit hands on what it finds."""
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
        # Python would put the folder that the job was submitted from first on its path.
        "export PYTHONSAFEPATH=1",
        f"export IMAGINE_THREADS={threads} OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        # From 22.05 on, srun does not take it from sbatch, and the task would get one core.
        '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',
        # A GPU that cannot be used shall be found out, and not replaced by the CPU.
        *(["export IMAGINE_DEVICE=${IMAGINE_DEVICE:-cuda}"] if resources.gpus else []),
        *resources.setup,
    ]


def python() -> str:
    """This Python, for a shell."""
    return shlex.quote(sys.executable)


def _tasks(packs: Sequence[Pack], attempts: Sequence[Attempt]) -> list[Task]:
    """The packs, each with those of its runs that were granted; without any it is left out."""
    numbers = {attempt.run_id: attempt.number for attempt in attempts}
    tasks = []
    for pack in packs:
        granted = {run.run_id: numbers[run.run_id] for run in pack.runs if run.run_id in numbers}
        if granted:
            tasks.append(Task(Pack(tuple(run for run in pack.runs if run.run_id in granted)), granted))
    return tasks
