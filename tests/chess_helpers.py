"""Small chess runs for tests, with a real Stockfish."""

import shutil

import pytest
from training_helpers import CPU, MemoryRecorder

from imagination import registry
from imagination.function import FunctionRunner
from imagination.runner import Needed, Run
from imagination.schema import build

needs_stockfish = pytest.mark.skipif(
    shutil.which("stockfish", path="/usr/bin:/usr/games:/usr/local/bin") is None, reason="no Stockfish here"
)
ID = "0" * 64


def config_of(experiment, preset=None, **changes):
    """A config of this experiment; its needs are made up."""
    declared = registry.declaration(experiment)
    preset = preset or declared.default_preset
    given = {name: ID for name in ("network", "positions") if name in declared.keys}
    return build(declared.config, {**given, **registry.preset(experiment, preset), **changes})


def trained(*configs, needs=None, checkpoint=None, stop=lambda: False):
    """The recorders of these runs of one experiment, trained as a worker does; errors are raised."""
    declared = registry.declaration(configs[0].experiment)
    runner = (
        FunctionRunner(registry.load(declared.function))
        if declared.function
        else registry.load(declared.runner)
    )
    recorders = [MemoryRecorder() for _ in configs]
    runs = [Run(*pair, checkpoint, needs or {}) for pair in zip(configs, recorders, strict=True)]
    runner.train(runs, device=CPU, stop=stop, checkpoint_every_s=1e9)
    for recorder in recorders:
        if recorder.error is not None:
            raise recorder.error
    return recorders


class Left(Needed):
    """What a run left in memory, as what another run needs."""

    def __init__(self, config, recorder):
        super().__init__(config, recorder.metrics, {})
        object.__setattr__(self, "left", recorder.artifacts)

    def arrays(self, name="weights"):
        return self.left[name]
