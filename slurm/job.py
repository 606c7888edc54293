"""The job that Slurm runs: a task of a dispatch, which trains one pack. `slurm.start` starts it. Torch-free.

If the job has several GPUs, a process for each of them trains a part of the pack (`parts`).

`jobs.worker` is loaded by name, because it imports torch.
"""

import importlib
import json
import logging
import os
import socket
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.code import Code, this_code
from jobs.dispatched import Dispatch, DispatchFolder
from jobs.gpus import visible_gpus
from jobs.pack import Task
from jobs.provenance import provenance, slurm_job
from jobs.run_log import RunLog
from results_db.contract import Ending, Provenance, State, StoreError
from results_db.files import Files, own_tail
from results_db.spool.delivery import Delivery, delivery
from results_db.text import one_line
from slurm import parts
from slurm.client.client import Slurm, SlurmError
from slurm.follow.hold import FAULTS, hold_from_job
from slurm.follow.logs import log_path
from slurm.follow.verdicts import COULD_NOT_BEGIN
from slurm.signals import Signals

log = logging.getLogger(__name__)

_AGAIN_AFTER_S = (0, 1, 2, 5, 10, 20, *[30] * 8)


class Job:
    """One start of one task.

    Args:
        folder: the dispatch's folder. Slurm's variables tell which task.
        signals: the signals that this process received, and will.
    """

    def __init__(self, folder: str, *, signals: Signals) -> None:
        self._folder = DispatchFolder(Path(folder))
        self._index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        self._id = slurm_job() or ""
        self._signals = signals

    def run(self) -> int:
        """Train the pack; the exit code.

        Returns:
            0 also if runs failed, because their attempts say so; 1 if this job was requeued; `COULD_NOT_BEGIN` if
            nothing could be trained here, which is no fault of the runs.
        """
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )
        try:
            dispatch, task = self._read()
            restart = self._folder.claim_start(
                self._index, slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0"))
            )
            os.environ["IMAGINE_FILES"] = dispatch.files
            store = delivery(dispatch.db, scheduled=True)
        except (OSError, ValueError, StoreError) as error:
            log.error("node %s cannot begin the work in %s: %s", _node(), self._folder.path, one_line(error))
            return COULD_NOT_BEGIN
        if restart is None:
            log.warning("a newer copy of this job runs; this copy ends")
            return 0
        log.info("job %s, start %d, on %s", self._id, restart, _node())
        _compare(dispatch.code)
        died: dict[int, int] = {}
        gpus = visible_gpus()[: len(task.pack.runs)] if (dispatch.gpus or 0) > 1 else []
        try:
            if len(gpus) > 1:
                log.info("the pack of %d runs is divided among %d GPUs", len(task.pack.runs), len(gpus))
                states, died = parts.train(
                    str(self._folder.path), gpus, threads=_threads(), restart=restart, signals=self._signals
                )
            else:
                states = self._train(task.restarted(restart), store)
            # This comes first, because Slurm kills the job soon after the signal.
            saved = State.PREEMPTED in states.values() or bool(died)
            if self._signals.told and saved and self._goes_on(dispatch, restart):
                return 1
            for index, code in died.items():
                states |= self._died(task.part(index, of=len(gpus)).restarted(restart), store, code)
        finally:
            store.close()
        ended = Counter(states.values())
        log.info("job %s ends: %s", self._id, ", ".join(f"{ended[one]} {one}" for one in ended))
        if not FAULTS.isdisjoint(states.values()):
            hold_from_job(dispatch.db)
        return 1 if died else 0

    def run_part(self, text: str) -> int:
        """Train a part of the pack, and print the final states of its attempts as JSON; the exit code."""
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )
        answer = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # all other output goes to the job's log
        part = parts.Part.parse(text)
        dispatch, task = self._read()
        store = delivery(dispatch.db, scheduled=True)
        with answer, closing(store):
            json.dump(self._train(task.part(part.index, of=part.of).restarted(part.restart), store), answer)
        return 0

    def _read(self) -> tuple[Dispatch, Task]:
        """The dispatch and this job's task.

        Raises:
            OSError: they cannot be read, or others may have written them.
            ValueError: they are damaged.
        """
        task = self._folder.task(self._index)
        dispatch = self._folder.dispatch()
        if dispatch is None:
            raise ValueError("dispatch.json is missing or damaged")
        return dispatch, task

    def _train(self, task: Task, store: Delivery) -> dict[str, State]:
        try:
            worker: Any = importlib.import_module("jobs.worker")
            device = worker.choose_device(os.environ.get("IMAGINE_DEVICE", "auto"), threads=_threads())
        except Exception as error:  # recorded as the error of the runs' attempts
            log.exception("this node cannot train")
            return self._end(
                task, store, Ending(State.NODE_FAIL, f"node {_node()} cannot train: {one_line(error)}")
            )
        states: dict[str, State] = worker.run_pack(
            task,
            store,
            device=device,
            provenance=self._provenance(worker.device_name(device), store),
            report=RunLog(task.pack),
            stop=self._signals,
        )
        return states

    def _died(self, part: Task, store: Delivery, code: int) -> dict[str, State]:
        """What became of the runs of a part whose process died. After a signal only Slurm knows why, so it decides."""
        how = f"a process of this job died: {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        log.error("%s", how)
        if code < 0:
            return {attempt.run_id: State.LOST for attempt in part.attempts}
        return self._end(part, store, Ending(State.FAILED, how, code))

    def _end(self, task: Task, store: Delivery, ending: Ending) -> dict[str, State]:
        """Ends the attempts that count and have no end yet."""
        ending = replace(ending, log_tail=own_tail(self._log_file(store)))
        begun = store.begin(task.attempts, self._provenance("unknown", store))
        for attempt in begun:
            store.end(attempt, ending)
        return {attempt.run_id: ending.state for attempt in begun}

    def _provenance(self, device: str, store: Delivery) -> Provenance:
        log_file = Files(store.folder).name(self._log_file(store))
        me = provenance(launcher="slurm", device=device, job_id=self._id, log=log_file)
        # squeue and sacct report the node's name in Slurm, which may differ from the host name.
        return replace(me, host=_node())

    def _log_file(self, store: Delivery) -> Path:
        path = log_path(store.folder, log=None, job_name=self._folder.path.name, job_id=self._id)
        assert path is not None
        return path

    def _goes_on(self, dispatch: Dispatch, restart: int) -> bool:
        """Requeue this job, unless Slurm says that it was ended for good. Returns whether it was requeued."""
        job: dict[str, str] = {}
        try:
            job = Slurm().show_job(self._id)
        except SlurmError as error:
            log.warning("%s", error)
        preempted = job.get("PreemptTime", "None") not in ("None", "Unknown")
        if not self._signals.go_on_later and not (preempted and job.get("JobState") == "RUNNING"):
            log.info("saved; the job was told to end")
            return False
        if not preempted and dispatch.max_num_timeout is not None:
            timeouts = self._folder.note_timeout(self._index, restart)
            if timeouts > dispatch.max_num_timeout:
                log.warning("saved; not requeued: max_num_timeout is %d", dispatch.max_num_timeout)
                return False
        requeued = _requeue(self._id)
        if requeued:
            log.info("saved and requeued")
        return requeued


def _compare(launched: Code | None) -> None:
    """Warn if this job runs other code than its launch had."""
    if launched is not None and launched.digest != this_code().digest:
        then, now = launched.describe(), this_code().describe()
        log.warning(
            "the code has changed since the launch: from %s to %s; launch --snapshot keeps it", then, now
        )


def _threads() -> int:
    return int(os.environ.get("IMAGINE_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or 1)


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
