"""The trainer's recorder over the store: buffers a run's results, checkpoints them, and commits them at the end."""

import io
import json
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from imagination.recorder import Arrays
from results_db.contract import Attempt, RunRecord, Sample, State, StoreError, UnfitError, WorkerStore
from results_db.files import Files, last_lines, write_atomically
from results_db.text import short

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, object]], None]
"""Receives a worker's events, each a flat JSON-able mapping with `event` and `run_id`."""

RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 20, 20)

_REPORT_EVERY_S = 0.5
_SUPERSEDED = "a newer attempt of this run exists"


class RunRecorder:
    """Implements `imagination.recorder.Recorder` for one attempt of one run.

    Nothing reaches the store before the run ends; until then checkpoints carry what was recorded.

    Attributes:
        attempt: the attempt whose results these are.
        checkpointed: the state to go on from, or None.
        state: COMPLETED, FAILED, ... once the attempt has ended, else None.
        superseded: the heartbeat learned that a newer attempt exists; no checkpoint is written any more.
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
        self.step = 0
        self.values: Mapping[str, float] = {}
        self._store = store
        self._files = Files(store.folder)
        self._path = self._files.checkpoint(attempt.run_id)
        self._max_steps = max_steps
        self._log_file = Path(log_file) if log_file else None
        self._report = report
        self._reported = 0.0
        self._metrics: dict[str, float | None] = {}
        self._traces: dict[str, tuple[list[int], list[float]]] = {}
        self._samples: dict[str, Sample] = {}
        self.checkpointed: Arrays | None = None
        self.rewind()

    def rewind(self) -> None:
        """Go back to the last checkpoint, or to the beginning: forget what was recorded since."""
        self._metrics, self._samples = {}, {}
        self._traces = defaultdict(lambda: ([], []))
        self.checkpointed = self._restore()

    def discard_checkpoint(self, why: object) -> None:
        """Begin anew: the checkpoint is of no use. That costs its steps, never the run."""
        log.warning("run %s starts anew: checkpoint %s: %s", short(self.attempt.run_id), self._path, why)
        self._path.unlink(missing_ok=True)
        self.rewind()

    def _restore(self) -> Arrays | None:
        """The checkpoint, if there is one. A damaged one costs its steps, never the run."""
        try:
            with safe_open(self._path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                traces = json.loads(file.metadata()["traces"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "run %s starts anew: checkpoint %s: %s", short(self.attempt.run_id), self._path, error
            )
            return None
        self._traces.update({name: (steps, values) for name, (steps, values) in traces.items()})
        return arrays

    def trace(self, name: str, step: int, value: float) -> None:
        """See `Recorder`."""
        steps, values = self._traces[name]
        steps.append(step)
        values.append(value)

    def metric(self, name: str, value: float | None) -> None:
        """See `Recorder`."""
        self._metrics[name] = value

    def sample(self, name: str, arrays: Arrays) -> None:
        """See `Recorder`."""
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez_compressed(buffer, **named)
        self._samples[name] = Sample(buffer.getvalue())

    def checkpoint(self, state: Arrays) -> None:
        """See `Recorder`. The file holds the state and the traces; it is replaced as a whole."""
        if self.superseded or self.state is not None:
            return  # a newer attempt's checkpoint may stand here
        try:
            write_atomically(self._path, save(dict(state), metadata={"traces": json.dumps(self._traces)}))
        except OSError as error:  # the one before still stands; a full disk must not end the training
            log.warning("checkpoint of run %s: %s", short(self.attempt.run_id), error)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """See `Recorder`."""
        self.step, self.values = step, values
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._tell("progress", step=step, max_steps=self._max_steps, values=dict(values))

    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """See `Recorder`: weights first, then the record in one transaction, then the checkpoint goes.

        A record that is safe in the spool is as good as stored, but its checkpoint stays until it is. Where it can be
        put nowhere for too long, the attempt ends as interrupted.

        Raises:
            UnfitError: the store will never take this record.
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
            self._end(State.PREEMPTED, retry_after_s=())  # enough patience
            return
        if counts is False:
            path.unlink(missing_ok=True)
            self._superseded()
            return
        if counts:
            self._files.settle(self.attempt)
        self._ended(State.COMPLETED, outcome=outcome, seconds=seconds, metrics=dict(self._metrics))

    def fail(self, error: BaseException) -> None:
        """See `Recorder`."""
        text = "".join(traceback.format_exception(error))
        log.error("run %s failed\n%s", short(self.attempt.run_id), text)
        state = State.OUT_OF_MEMORY if is_out_of_memory(error) else State.FAILED
        self._end(state, text, log_tail=last_lines(self._log_file) if self._log_file else None)

    def interrupt(self) -> None:
        """The attempt was told to stop; its checkpoint is kept."""
        self._end(State.PREEMPTED)

    def started(self) -> None:
        """Tell who watches that the attempt began."""
        reached = self.checkpointed or {}
        self.step = sum(int(reached[name]) for name in ("earlier", "step") if name in reached)
        self._tell("started", number=self.attempt.number, step=self.step, max_steps=self._max_steps)

    def _end(
        self,
        state: State,
        error: str | None = None,
        *,
        log_tail: str | None = None,
        retry_after_s: Sequence[float] | None = None,
    ) -> None:
        def end() -> bool | None:
            return self._store.end(self.attempt, state, error=error, log_tail=log_tail)

        try:
            counts = _patiently(end, retry_after_s)
        except (StoreError, OSError):
            counts = None  # nobody could be told; who looks finds a dead worker
        if counts is False:
            self._superseded()
        else:
            self._ended(state, error=error.strip().splitlines()[-1] if error else None)

    def _superseded(self) -> None:
        """This attempt does not count; should the run be complete, it leaves no checkpoint behind."""
        with suppress(StoreError, OSError):
            if self._store.states([self.attempt.run_id]).get(self.attempt.run_id) is State.COMPLETED:
                self._path.unlink(missing_ok=True)
        self._ended(State.LOST, error=_SUPERSEDED)

    def _ended(self, state: State, **details: object) -> None:
        self.state = state
        self._tell("ended", state=str(state), **details)

    def _tell(self, event: str, **details: object) -> None:
        self._report({"event": event, "run_id": self.attempt.run_id, **details})


def _patiently(write: Callable[[], bool | None], retry_after_s: Sequence[float] | None = None) -> bool | None:
    """What `write` says. A store or disk that is away is asked again for about a minute.

    Raises:
        StoreError: the store stays away, or (UnfitError) will never take this.
        OSError: the disk stays full, or away.
    """
    for delay_s in RETRY_AFTER_S if retry_after_s is None else retry_after_s:
        try:
            return write()
        except UnfitError:
            raise
        except (StoreError, OSError) as error:
            log.warning("%s; again in %s s", error, delay_s)
            time.sleep(delay_s)
    return write()


def is_out_of_memory(error: BaseException) -> bool:
    """Memory of the host or of the device was exhausted."""
    # On the CPU torch raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
