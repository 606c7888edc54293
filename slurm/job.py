"""The job that Slurm runs: a task of a dispatch, which trains one pack. Torch-free, so launchers may import it.

submitit pickles a `PackJob` and calls it on a node. The job handles signals itself. submitit would requeue it inside
the signal handler, in the middle of a step, and would take every signal for a time-out if the limit is under ten
minutes. Here the handler only sets a flag. The trainer saves after the current step, and then the job requeues itself.
After SIGTERM the trainer also saves; then the job is requeued only if it was preempted.

`jobs.worker` is loaded by name, because it imports torch.
"""

import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.logger import get_logger
from submitit.helpers import DelayedSubmission

from jobs.dispatched import Dispatch, DispatchFolder
from jobs.pack import Task
from jobs.provenance import provenance
from jobs.run_log import RunLog
from results_db.contract import Ending, Provenance, State
from results_db.files import Files, last_lines
from results_db.spool.delivery import Delivery, delivery
from results_db.text import one_line
from slurm.client.client import Slurm, SlurmError
from slurm.follow.hold import FAULTS, hold_from_job

log = logging.getLogger(__name__)

_AGAIN_AFTER_S = (0, 1, 2, 5, 10, 20, *[30] * 8)


class PackJob:
    """The callable that submitit pickles. It holds the path of its `DispatchFolder`; Slurm tells it its task."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> dict[str, str]:
        """Train the pack and return the state of each run. A job that is requeued does not return."""
        return _Job(DispatchFolder(Path(self.folder))).run()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit if a signal comes before `__call__` handles signals: requeue the same job."""
        return DelayedSubmission(self)


class Signals:
    """The signals that this process received. The trainer calls it before every step to learn whether to stop.

    The trainer always makes one step. Slurm may send its signal a minute early. Under a short time limit a job could
    then be requeued again and again without any progress.

    Attributes:
        told: any signal came.
        go_on_later: the signal before the time limit or before a preemption came.
    """

    def __init__(self) -> None:
        self.told = False
        self.go_on_later = False
        self._asked = 0

    def listen(self) -> None:
        """Replace submitit's signal handlers."""
        for number in (getattr(signal, f"SIG{JobEnvironment.USR_SIG}"), signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Whether the trainer should stop."""
        self._asked += 1
        return self.told and self._asked > 1

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.told = True
        if number != signal.SIGTERM:
            self.go_on_later = True


class _Job:
    """One start of one task."""

    def __init__(self, folder: DispatchFolder) -> None:
        self._folder = folder
        self._index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        self._environment = JobEnvironment()
        self._signals = Signals()

    def run(self) -> dict[str, str]:
        """See `PackJob`."""
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )
        # submitit calls every job that returns successful, also one whose node cannot train.
        get_logger().setLevel(logging.WARNING)
        self._signals.listen()
        dispatch, task = self._read()
        restart = self._folder.claim_start(
            self._index, slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        )
        if restart is None:
            log.warning("a newer copy of this job runs; this copy ends")
            return {}
        log.info("job %s, start %d, on %s", self._environment.job_id, restart, _node())
        os.environ["IMAGINE_FILES"] = dispatch.files
        store = delivery(dispatch.db, scheduled=True)
        try:
            states = self._train(task.restarted(restart), store)
            # This comes first, because Slurm kills the job soon after the signal.
            if self._signals.told and State.PREEMPTED in states.values():
                self._go_on(dispatch, restart)
        finally:
            store.close()
        ended = Counter(states.values())
        log.info(
            "job %s ends: %s", self._environment.job_id, ", ".join(f"{ended[one]} {one}" for one in ended)
        )
        if not FAULTS.isdisjoint(states.values()):
            hold_from_job(dispatch.db)
        return {run_id: str(state) for run_id, state in states.items()}

    def _read(self) -> tuple[Dispatch, Task]:
        """The dispatch and this job's task.

        Raises:
            RuntimeError: they cannot be read, so the job does not know its store.
        """
        dispatch = self._folder.dispatch()
        try:
            if dispatch is not None:
                return dispatch, self._folder.task(self._index)
            reason = "dispatch.json is missing or damaged"
        except (OSError, ValueError) as error:
            reason = one_line(error)
        raise RuntimeError(f"node {_node()} cannot read its work in {self._folder.path}: {reason}")

    def _train(self, task: Task, store: Delivery) -> dict[str, State]:
        threads = int(os.environ.get("IMAGINE_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or 1)
        try:
            worker: Any = importlib.import_module("jobs.worker")
            device = worker.choose_device(os.environ.get("IMAGINE_DEVICE", "auto"), threads=threads)
        except Exception as error:  # recorded as the error of the runs' attempts
            log.exception("this node cannot train")
            return self._fail(task, store, f"node {_node()} cannot train: {one_line(error)}")
        states: dict[str, State] = worker.run_pack(
            task,
            store,
            device=device,
            provenance=self._provenance(worker.device_name(device), store),
            report=RunLog(task.pack),
            stop=self._signals,
        )
        return states

    def _fail(self, task: Task, store: Delivery, reason: str) -> dict[str, State]:
        ending = Ending(State.NODE_FAIL, reason, log_tail=last_lines(self._log_file()))
        for attempt in store.begin(task.attempts, self._provenance("unknown", store)):
            store.end(attempt, ending)
        return {attempt.run_id: State.NODE_FAIL for attempt in task.attempts}

    def _provenance(self, device: str, store: Delivery) -> Provenance:
        log_file = Files(store.folder).name(self._log_file())
        me = provenance(launcher="slurm", device=device, job_id=self._environment.job_id, log=log_file)
        # squeue and sacct report the node's name in Slurm, which may differ from the host name.
        return replace(me, host=_node())

    def _log_file(self) -> Path:
        paths = self._environment.paths
        return paths.stderr if paths.stderr.exists() else paths.stdout

    def _go_on(self, dispatch: Dispatch, restart: int) -> None:
        """Requeue this job, unless Slurm says that it was ended for good."""
        job: dict[str, str] = {}
        try:
            job = Slurm().show_job(self._environment.job_id)
        except SlurmError as error:
            log.warning("%s", error)
        preempted = job.get("PreemptTime", "None") not in ("None", "Unknown")
        if not self._signals.go_on_later and not (preempted and job.get("JobState") == "RUNNING"):
            log.info("saved; the job was told to end")
            return
        if not preempted and dispatch.max_num_timeout is not None:
            timeouts = self._folder.note_timeout(self._index, restart)
            if timeouts > dispatch.max_num_timeout:
                log.warning("saved; not requeued: max_num_timeout is %d", dispatch.max_num_timeout)
                return
        if _requeue(self._environment.job_id):
            log.info("saved and requeued")
            sys.exit(1)  # so that submitit writes no result


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _requeue(job_id: str) -> bool:
    """Requeue this job. Tries again for some minutes if the controller does not answer."""
    for again_after_s in _AGAIN_AFTER_S:
        time.sleep(again_after_s)
        try:
            Slurm().run("scontrol", "requeue", job_id)
            return True
        except SlurmError as error:
            log.warning("the job could not be requeued: %s", error)
            if "disabled" in str(error):  # it was submitted with --no-requeue
                break
    return False
