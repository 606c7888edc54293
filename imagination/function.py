"""Runs that a plain function trains: `def run(config, recorder)`. Torch-free."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from imagination.recorder import Arrays
from imagination.runner import Needed, Run, Runner

if TYPE_CHECKING:  # slow to import
    import torch

DONE = "done"
"""The outcome of a run whose function returned."""

_SECONDS = "imagine.seconds"


class _Stopped(BaseException):  # not an Exception, so that the function does not catch it by accident
    """The run is saved and must stop."""


class FunctionRecorder:
    """What a function of one run reports to, and asks.

    Attributes:
        device: where to train; a function need not care.
        needs: what the run builds on, by config key.
        told_to_stop: whether `stopping` has been true.
        restored: the last `checkpoint` of an earlier try; None at the first start.
    """

    def __init__(
        self, run: Run, *, device: "torch.device", stop: Callable[[], bool], checkpoint_every_s: float
    ) -> None:
        saved = dict(run.checkpoint or {})
        self._before_s = float(saved.pop(_SECONDS, np.float64(0)))
        self._began = self._saved = time.monotonic()
        self._recorder, self._stop, self._every_s = run.recorder, stop, checkpoint_every_s
        self.device = device
        self.told_to_stop = False
        self.needs: Mapping[str, Needed] = run.needs
        self.restored: Arrays | None = saved if run.checkpoint is not None else None
        self.metric = run.recorder.metric
        self.trace = run.recorder.trace
        self.sample = run.recorder.sample
        self.artifact = run.recorder.artifact
        self.progress = run.recorder.progress

    @property
    def seconds(self) -> float:
        """The time of this run, in all of its tries."""
        return self._before_s + time.monotonic() - self._began

    @property
    def stopping(self) -> bool:
        """Whether the run must save and end, because its job must. A function that then returns is not done."""
        self.told_to_stop = self.told_to_stop or self._stop()
        return self.told_to_stop

    def checkpoint(self, state: Arrays) -> None:
        """Offer a state from which the run can continue; it is saved once a minute.

        If the run must stop, this saves and does not return. A function that never calls it starts anew after an
        interruption.
        """
        stopping = self.stopping
        if stopping or time.monotonic() - self._saved >= self._every_s:
            self._recorder.checkpoint({**state, _SECONDS: np.array(self.seconds)})
            self._saved = time.monotonic()
        if stopping:
            raise _Stopped


class FunctionRunner(Runner):
    """Trains the runs of a pack one after the other with a function of one run."""

    def __init__(self, function: Callable[[Any, FunctionRecorder], object]) -> None:
        self._function = function

    @override
    def train(
        self,
        runs: Sequence[Run],
        *,
        device: "torch.device",
        stop: Callable[[], bool],
        checkpoint_every_s: float,
        slots: int | None = None,
    ) -> bool:
        for run in runs:
            if stop():
                return False
            recorder = FunctionRecorder(run, device=device, stop=stop, checkpoint_every_s=checkpoint_every_s)
            try:
                self._function(run.config, recorder)
            except _Stopped:
                return False
            except (Exception, SystemExit) as error:
                run.recorder.fail(error)
            else:
                if recorder.told_to_stop:
                    return False
                run.recorder.finish(DONE, seconds=recorder.seconds, weights={})
        return True
