"""Runs that a plain function trains: how they end, are saved, and stop."""

import numpy as np
import pytest
from training_helpers import CPU, MemoryRecorder

from imagination.function import FunctionRunner
from imagination.runner import Run


def trained(function, *, stop=lambda: False, checkpoint=None, runs=1):
    """Whether all runs ended, and their recorders."""
    recorders = [MemoryRecorder() for _ in range(runs)]
    pack = [Run(number, recorder, checkpoint) for number, recorder in enumerate(recorders)]
    ended = FunctionRunner(function).train(pack, device=CPU, stop=stop, checkpoint_every_s=1e9)
    return ended, recorders


def test_a_function_that_returns_is_done() -> None:
    ended, (recorder,) = trained(lambda config, recorder: recorder.metric("score", 1.0))
    assert (ended, recorder.outcome, recorder.metrics) == (True, "done", {"score": 1.0})


def test_a_function_that_raises_fails_its_run_alone() -> None:
    ended, (bad, good) = trained(lambda config, recorder: 1 // config, runs=2)
    assert (ended, bad.outcome, good.outcome) == (True, None, "done")
    assert isinstance(bad.error, ZeroDivisionError)


@pytest.mark.parametrize("saves", [True, False])
def test_a_function_that_is_told_to_stop_is_not_done(saves: bool) -> None:
    """Whether it saves a checkpoint or only returns; the run then goes on, or starts anew."""
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    def run(config, recorder) -> None:
        for step in range(10):
            if recorder.stopping:
                if saves:
                    recorder.checkpoint({"step": np.array(step)})
                return

    ended, (recorder, later) = trained(run, stop=stop, runs=2)
    assert (ended, recorder.outcome, later.outcome) == (False, None, None)
    assert [int(one["step"]) for one in recorder.checkpoints] == ([2] if saves else [])


def test_it_continues_from_its_checkpoint_with_its_time() -> None:
    def run(config, recorder) -> None:
        recorder.metric("step", int(recorder.restored["step"]))
        assert list(recorder.restored) == ["step"]
        recorder.checkpoint({"step": np.array(9)})  # a minute has not passed

    saved = {"step": np.array(7), "imagine.seconds": np.array(60.0)}
    ended, (recorder,) = trained(run, checkpoint=saved)
    assert (ended, recorder.metrics, recorder.checkpoints) == (True, {"step": 7}, [])
    assert recorder.seconds >= 60
