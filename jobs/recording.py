"""The trainer's recorder: buffers a run's results, saves them in checkpoints, and stores them when the run ends."""

import io
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from safetensors.numpy import save
from typing_extensions import override

from imagination.recorder import Arrays, Recorder
from jobs import checkpoint
from results_db.contract import Attempt, RunRecord, State, StoreError, UnfitError, WorkerStore
from results_db.files import Files, last_lines, write_atomically
from results_db.text import short

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, object]], None]
"""Receives a worker's events: flat mappings of JSON values, with `event` and `run_id`."""

RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 20, 20)

_REPORT_EVERY_S = 0.5
_SUPERSEDED = "a newer attempt of this run exists"


class RunRecorder(Recorder):
    """The recorder of one attempt. Until the run ends, its results are only in checkpoints, not in the store.

    Attributes:
        attempt: the attempt.
        checkpointed: the checkpoint to continue from, or None.
        state: the state in which the attempt ended; None until then.
        superseded: whether there is a newer attempt, as a heartbeat learned. If so, checkpoints are no longer written.
        step: training steps done, for the heartbeat.
        values: the last progress values, for the heartbeat.
    """

    def __init__(
        self,
        attempt: Attempt,
        store: WorkerStore,
        *,
        max_steps: int,
        report: Report,
        log_file: str | None = None,
    ) -> None:
        self.attempt = attempt
        self.state: State | None = None
        self.superseded = False
        self.checkpointed: Arrays | None = None
        self.step = 0
        self.values: Mapping[str, float] = {}
        self._store = store
        self._files = Files(store.folder)
        self._path = self._files.checkpoint(attempt.run_id)
        self._max_steps = max_steps
        self._log_file = self._files.find(log_file) if log_file else None
        self._report = report
        self._reported = 0.0
        self._saved_step: int | None = None
        self.rewind()

    def rewind(self) -> None:
        """Restores the last checkpoint, or the beginning, and drops what was recorded since."""
        self._forget()
        try:
            state, traces = checkpoint.read(self._path, run_id=self.attempt.run_id)
        except FileNotFoundError:
            return
        except checkpoint.DamagedError as error:
            self._set_aside(error)
            return
        self.checkpointed = state
        self._traces.update({name: (list(steps), list(values)) for name, (steps, values) in traces.items()})

    def _forget(self) -> None:
        self._metrics: dict[str, float | None] = {}
        self._samples: dict[str, bytes] = {}
        self._traces: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        self.checkpointed = None

    def discard_checkpoint(self, why: object) -> None:
        """Sets a checkpoint aside that does not fit. The run starts again from its first step."""
        self._forget()
        self._set_aside(why)

    def _set_aside(self, why: object) -> None:
        kept = self._path
        try:
            kept = checkpoint.set_aside(kept)
        except OSError as error:
            log.warning("cannot rename %s: %s", kept, error)
        log.warning("run %s starts again: checkpoint %s: %s", short(self.attempt.run_id), kept, why)

    @override
    def trace(self, name: str, step: int, value: float) -> None:
        steps, values = self._traces[name]
        steps.append(step)
        values.append(value)

    @override
    def metric(self, name: str, value: float | None) -> None:
        self._metrics[name] = value

    @override
    def sample(self, name: str, arrays: Arrays) -> None:
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez_compressed(buffer, **named)
        self._samples[name] = buffer.getvalue()

    @override
    def checkpoint(self, state: Arrays) -> None:
        if self.superseded or self.state is not None:
            return  # the file may be a newer attempt's checkpoint
        try:
            checkpoint.write(self._path, state, traces=self._traces, attempt=self.attempt)
        except OSError as error:  # a full disk must not end the training; the previous checkpoint remains
            log.warning("run %s: checkpoint not written: %s", short(self.attempt.run_id), error)
        else:
            self._saved_step = _steps(state)

    @override
    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.step, self.values = step, values
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._tell("progress", step=step, max_steps=self._max_steps, values=dict(values))

    @override
    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """Writes the weights, stores the record, and deletes the checkpoint.

        A record in the spool counts as stored, but the checkpoint stays until the store has the record. If neither
        accepts it for about a minute, the attempt ends as PREEMPTED.

        Raises:
            UnfitError: the store will never accept this record.
        """
        run_id = self.attempt.run_id
        path = self._files.weights(self.attempt)
        record = RunRecord(run_id, outcome, seconds, self._metrics, self._traces, self._samples)

        def commit() -> bool | None:
            write_atomically(path, save(dict(weights)))
            return self._store.finish(self.attempt, record)

        try:
            counts = _patiently(commit)
        except UnfitError:
            raise
        except (StoreError, OSError):
            self._end(State.PREEMPTED, retry_after_s=())
            return
        if counts is False:
            path.unlink(missing_ok=True)
            self._superseded()
            return
        if counts:
            self._files.remove_superseded(self.attempt)
        self._ended(State.COMPLETED, outcome=outcome, seconds=seconds, metrics=dict(self._metrics))

    @override
    def fail(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        log.error("run %s failed\n%s", short(self.attempt.run_id), text)
        state = State.OUT_OF_MEMORY if is_out_of_memory(error) else State.FAILED
        self._end(state, text, log_tail=last_lines(self._log_file) if self._log_file else None)

    def interrupt(self) -> None:
        """Ends the attempt as PREEMPTED, because its worker must stop. The checkpoint stays."""
        self._end(State.PREEMPTED, saved_step=self._saved_step)

    def started(self) -> None:
        """Reports that the attempt began."""
        self.step = _steps(self.checkpointed or {})
        self._tell("started", number=self.attempt.number, step=self.step, max_steps=self._max_steps)

    def _end(
        self,
        state: State,
        error: str | None = None,
        *,
        log_tail: str | None = None,
        retry_after_s: Sequence[float] | None = None,
        saved_step: int | None = None,
    ) -> None:
        def end() -> bool | None:
            return self._store.end(self.attempt, state, error=error, log_tail=log_tail)

        try:
            counts = _patiently(end, retry_after_s)
        except (StoreError, OSError):
            counts = None  # a later reconcile records that the worker is gone
        if counts is False:
            self._superseded()
        else:
            self._ended(state, error=error.strip().splitlines()[-1] if error else None, step=saved_step)

    def _superseded(self) -> None:
        """Ends an attempt that does not count, and deletes the checkpoint if the run is COMPLETED."""
        with suppress(StoreError, OSError):
            if self._store.states([self.attempt.run_id]).get(self.attempt.run_id) is State.COMPLETED:
                self._path.unlink(missing_ok=True)
        self._ended(State.LOST, error=_SUPERSEDED)

    def _ended(self, state: State, **details: object) -> None:
        self.state = state
        self._tell("ended", state=str(state), **details)

    def _tell(self, event: str, **details: object) -> None:
        self._report({"event": event, "run_id": self.attempt.run_id, **details})


def _steps(checkpoint: Arrays) -> int:
    """The training steps of a checkpoint, over all stages."""
    return sum(int(checkpoint[name]) for name in ("earlier", "step") if name in checkpoint)


def _patiently(write: Callable[[], bool | None], retry_after_s: Sequence[float] | None = None) -> bool | None:
    """Calls `write`, again for about a minute if the store or the disk fails, and returns its answer.

    Raises:
        StoreError: the store still fails, or (UnfitError) will never accept this.
        OSError: the disk still fails.
    """
    for delay_s in RETRY_AFTER_S if retry_after_s is None else retry_after_s:
        try:
            return write()
        except UnfitError:
            raise
        except (StoreError, OSError) as error:
            log.warning("%s; trying again in %s s", error, delay_s)
            time.sleep(delay_s)
    return write()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device ran out of memory."""
    # On the CPU torch raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
