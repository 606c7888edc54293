"""The trainer's recorder: buffers a run's results, saves them in checkpoints, and stores them when the run ends."""

import hashlib
import io
import logging
import math
import operator
import re
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from typing_extensions import override

from imagination.recorder import Arrays, Recorder
from imagination.schema import nearest
from imagination.training.memory import is_out_of_memory
from jobs import checkpoint
from results_db.contract import Artifact, Attempt, Ending, RunRecord, State
from results_db.files import Files, attempt_of, own_tail, write_atomically
from results_db.spool.delivery import Delivery
from results_db.text import short
from results_db.trust import UntrustedError

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, object]], None]
"""Receives a worker's events: flat mappings of JSON values, with `event` and `run_id`."""

RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 20, 20)
"""How long a record waits, again and again, for a disk that is full."""

READ_AFTER_S = (0.5, 2)
"""The same for a checkpoint; the runs of a pack read theirs one after the other."""

_REPORT_EVERY_S = 0.5
_OUTCOME = re.compile(r"[a-z][a-z_]{0,15}")
_SUPERSEDED = "a newer attempt of this run exists"


class RunRecorder(Recorder):
    """The recorder of one attempt. Until the run ends, its results are only in checkpoints, not in the store.

    Attributes:
        attempt: the attempt.
        checkpointed: the checkpoint to continue from, or None.
        ended_as: the state in which the attempt ended or is ending; None until then.
    """

    def __init__(
        self,
        attempt: Attempt,
        delivery: Delivery,
        *,
        max_steps: int,
        metrics: Collection[str],
        report: Report,
        log_file: str | None = None,
    ) -> None:
        self.attempt = attempt
        self.ended_as: State | None = None
        self.checkpointed: Arrays | None = None
        self._delivery = delivery
        self._files = Files(delivery.folder)
        self._max_steps = max_steps
        self._declared = metrics
        self._log_file = self._files.find(log_file) if log_file else None
        self._report = report
        self._reported = 0.0
        self._saved_step: int | None = None
        self._restored: Path | None = None
        self._unfit: set[Path] = set()
        self._artifacts: dict[str, Artifact] = {}
        self._saved: Mapping[str, str] = {}  # the digests of artifacts that the newest checkpoint names
        self._ending: threading.Thread | None = None
        self.rewind()

    @property
    def superseded(self) -> bool:
        """Whether the store has refused the attempt, as after a newer one began. Then the training should stop."""
        return self._delivery.superseded(self.attempt)

    @property
    def state(self) -> State | None:
        """The state in which the attempt ended, LOST if the store has refused it; None until it ends."""
        return State.LOST if self.ended_as is not None and self.superseded else self.ended_as

    def rewind(self) -> None:
        """Restores the run's newest checkpoint, or the beginning, and drops what was recorded since."""
        self._forget()
        for path in self._files.checkpoints(self.attempt.run_id):
            if path in self._unfit:
                continue
            try:
                _patiently(partial(self._restore, path), after_s=READ_AFTER_S)
            except FileNotFoundError:
                continue  # a newer attempt deleted it
            except (UntrustedError, checkpoint.DamagedError, ValueError) as error:
                self._set_aside(path, error)
            except OSError as error:  # it may be whole
                why = f"its checkpoint cannot be read now: {error}"
                log.warning("run %s waits: %s", short(self.attempt.run_id), why)
                self._end(State.PREEMPTED, why)
                return
            else:
                return

    def _restore(self, path: Path) -> None:
        """Restores this checkpoint, and takes over the artifacts that its attempt had left so far.

        Raises:
            UntrustedError, checkpoint.DamagedError, ValueError: the checkpoint does not count.
            OSError: the disk is away, or full.
        """
        data = self._files.read(path)
        saved = checkpoint.read(data, run_id=self.attempt.run_id)
        try:
            artifacts = self._take_over(saved.artifacts, attempt_of(path))
        except FileNotFoundError as error:
            if self._files.read(path) == data:
                raise checkpoint.DamagedError(f"its artifact is missing: {error.filename}") from None
            self._restore(path)  # its attempt lives, and has saved again
        else:
            self._artifacts, self._saved = artifacts, saved.artifacts
            self._traces.update(saved.traces)
            self.checkpointed, self._restored = saved.state, path

    def _take_over(self, digests: Mapping[str, str], before: Attempt | None) -> dict[str, Artifact]:
        """Copies these artifacts of the attempt before.

        Raises:
            FileNotFoundError: it has no such artifact.
            UntrustedError, checkpoint.DamagedError, ValueError: one does not count.
            OSError: the disk is away, or full.
        """
        artifacts = {}
        for name, sha256 in digests.items():
            if before is None:
                raise checkpoint.DamagedError("its name has no attempt")
            data = self._files.read(self._files.artifact(before, name, sha256))
            if hashlib.sha256(data).hexdigest() != sha256:
                raise checkpoint.DamagedError(f"its artifact {name} is damaged")
            artifacts[name] = Artifact(len(data), sha256)
            write_atomically(self._files.artifact(self.attempt, name, sha256), data)
        return artifacts

    def _keep(self, name: str, data: bytes) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._files.artifact(self.attempt, name, sha256)
        try:
            _patiently(lambda: write_atomically(path, data))
        except OSError:  # a full disk is no fault of the run
            self._end(State.PREEMPTED)
            raise
        older = self._artifacts.get(name)
        self._artifacts[name] = Artifact(len(data), sha256)
        if older is not None and older.sha256 != self._saved.get(name):
            self._replaced({name: older.sha256})

    def _digests(self) -> dict[str, str]:
        return {name: artifact.sha256 for name, artifact in self._artifacts.items()}

    def _replaced(self, older: Mapping[str, str]) -> None:
        """Deletes those of these artifacts whose names later ones have now, because no checkpoint names them."""
        for name, sha256 in older.items() - self._digests().items():
            try:
                self._files.artifact(self.attempt, name, sha256).unlink(missing_ok=True)
            except OSError as error:
                log.warning("run %s: %s", short(self.attempt.run_id), error)

    def _forget(self) -> None:
        self._metrics: dict[str, float | None] = {}
        self._samples: dict[str, bytes] = {}
        self._traces: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        self._artifacts = {}
        self._saved = {}
        self.checkpointed = None

    def discard_checkpoint(self, why: object) -> None:
        """Sets the checkpoint aside that was restored, because it does not fit, and restores the one before it."""
        assert self._restored is not None
        self._set_aside(self._restored, why)
        self.rewind()

    def _set_aside(self, path: Path, why: object) -> None:
        self._unfit.add(path)
        kept = path
        try:
            kept = checkpoint.set_aside(path)
        except OSError as error:
            log.warning("cannot rename %s: %s", path, error)
        log.warning(
            "run %s does not continue from its checkpoint %s: %s", short(self.attempt.run_id), kept, why
        )

    @override
    def trace(self, name: str, step: int, value: float) -> None:
        number = _number(value)
        if number is not None:
            steps, values = self._traces[name]
            steps.append(operator.index(step))
            values.append(number)

    @override
    def metric(self, name: str, value: float | None) -> None:
        if name not in self._declared:
            raise ValueError(f"metric '{name}' is not declared{nearest(name, self._declared)}")
        self._metrics[name] = None if value is None else _number(value)

    @override
    def sample(self, name: str, arrays: Arrays) -> None:
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez_compressed(buffer, **named)
        self._samples[name] = buffer.getvalue()

    @override
    def artifact(self, name: str, content: Arrays | bytes) -> None:
        file = name if isinstance(content, bytes) else f"{name}.safetensors"
        data = content if isinstance(content, bytes) else save(checkpoint.in_order(content))
        self._keep(file, data)

    @override
    def checkpoint(self, state: Arrays) -> None:
        if self.superseded or self.ended_as is not None:
            return
        try:
            path = self._files.checkpoint(self.attempt)
            saved = checkpoint.Saved(state, self._traces, self._digests())
            checkpoint.write(path, saved, attempt=self.attempt)
            self._files.remove_older_checkpoints(self.attempt)
            older, self._saved = self._saved, saved.artifacts
            self._replaced(older)
        except OSError as error:  # a full disk must not end the training; the previous checkpoint remains
            log.warning("run %s: checkpoint not written: %s", short(self.attempt.run_id), error)
        else:
            self._saved_step = _steps(state)

    @override
    def progress(self, step: int, values: Mapping[str, float]) -> None:
        numbers = {name: number for name, value in values.items() if (number := _number(value)) is not None}
        step = operator.index(step)
        self._delivery.progress(self.attempt, step=step, values=numbers)
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._tell("progress", step=step, max_steps=self._max_steps, values=numbers)

    @override
    def finish(self, outcome: str, *, seconds: float, weights: Arrays) -> None:
        """Writes the weights and the record in a thread of their own, so that the other runs train on; see `wait`.

        The checkpoint stays until the store has the record. If neither the disk nor the store accepts the record for
        about a minute, the attempt ends as PREEMPTED.
        """
        if not _OUTCOME.fullmatch(outcome):
            raise ValueError(f"the outcome '{outcome}' is not of a-z and _, with at most 16 characters")
        record = RunRecord(
            self.attempt.run_id, outcome, seconds, self._metrics, self._traces, self._samples, self._artifacts
        )
        self.ended_as = State.COMPLETED
        self._ending = threading.Thread(target=self._commit, args=(record, weights), name="ending")
        self._ending.start()

    def wait(self) -> None:
        """Waits until what `finish` has begun to write is written."""
        if self._ending is not None:
            self._ending.join()

    def _commit(self, record: RunRecord, weights: Arrays) -> None:
        def commit() -> None:
            if weights:
                write_atomically(self._files.weights(self.attempt), save(checkpoint.in_order(weights)))
            self._delivery.end(self.attempt, record)

        try:
            _patiently(commit)
        except OSError:
            self._end(State.PREEMPTED)
        except Exception as error:
            self._failed(error)
        else:
            self._replaced(self._saved)
            metrics = dict(record.metrics)
            self._ended(State.COMPLETED, outcome=record.outcome, seconds=record.seconds, metrics=metrics)

    @override
    def fail(self, error: BaseException) -> None:
        if self.ended_as is None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        log.error("run %s failed\n%s", short(self.attempt.run_id), text)
        state = State.OUT_OF_MEMORY if is_out_of_memory(error) else State.FAILED
        self._end(state, text, error=text.strip().splitlines()[-1])

    def interrupt(self) -> None:
        """Ends the attempt as PREEMPTED, because its worker must stop. The checkpoint stays."""
        self._end(State.PREEMPTED, step=self._saved_step)

    def hold_back(self, why: object) -> None:
        """Ends the attempt as CANCELLED, because what the run builds on is not there."""
        log.warning("run %s is not trained: %s", short(self.attempt.run_id), why)
        self._end(State.CANCELLED, str(why), error=str(why))

    def started(self) -> None:
        """Reports that the attempt began."""
        step = _steps(self.checkpointed or {})
        self._delivery.progress(self.attempt, step=step, values={})
        self._tell("started", step=step, max_steps=self._max_steps)

    def _end(self, state: State, text: str | None = None, **details: object) -> None:
        tail = own_tail(self._log_file) if text else None
        try:
            self._delivery.end(self.attempt, Ending(state, text, log_tail=tail))
        except OSError as error:  # a later reconcile records that the worker is gone
            log.warning("the end of run %s is not recorded: %s", short(self.attempt.run_id), error)
        self._ended(state, **details)

    def _ended(self, state: State, **details: object) -> None:
        self.ended_as = state
        if self.superseded:
            details = {"error": _SUPERSEDED}
        self._tell("ended", state=str(self.state), **details)

    def _tell(self, event: str, **details: object) -> None:
        self._report({"event": event, "run_id": self.attempt.run_id, **details})


def _steps(checkpoint: Arrays) -> int:
    """The training steps of a checkpoint, over all stages."""
    named = [np.asarray(checkpoint[name]) for name in ("earlier", "step") if name in checkpoint]
    return sum(int(value) for value in named if value.size == 1 and value.dtype.kind in "iu")


def _number(value: object) -> float | None:
    """The value as a number of Python's own; None if it is not finite.

    Raises:
        TypeError, ValueError: it is no number.
    """
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _patiently(work: Callable[[], None], *, after_s: Sequence[float] | None = None) -> None:
    """Does some work, again after these waits if the disk is full or away.

    Raises:
        OSError: it still is.
        FileNotFoundError, UntrustedError: at once.
    """
    for delay_s in RETRY_AFTER_S if after_s is None else after_s:
        try:
            return work()
        except (FileNotFoundError, UntrustedError):
            raise
        except OSError as error:
            log.warning("%s; trying again in %s s", error, delay_s)
            time.sleep(delay_s)
    return work()
