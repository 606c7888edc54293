"""Small training runs for tests."""

from dataclasses import replace

import torch

from imagination import registry
from imagination.life.config import LifeCountConfig, LifeStateConfig
from imagination.training.loop import Run, Trainer

CPU = torch.device("cpu")
torch.set_num_threads(
    1
)  # tensors as small as these gain nothing from threads, and lose much where cores are busy

TINY = LifeStateConfig(
    gol=2,
    model_t=2,
    channels=4,
    step_layers=2,
    board=6,
    batch=8,
    warmup=0.125,
    max_steps=40,
    eval_every=10,
    trace_every=5,
    eval_board=8,
    eval_sequences=40,
)

TINY_COUNT = LifeCountConfig(
    gol=2,
    model_t=2,
    channels=3,
    board=6,
    batch=8,
    warmup=0.125,
    max_steps=40,
    eval_every=10,
    trace_every=5,
    disc_layers=2,
    disc_width=2,
    eval_sequences=40,
)


class MemoryRecorder:
    """Keeps what it is told."""

    def __init__(self):
        self.traces, self.metrics, self.samples, self.checkpoints = {}, {}, {}, []
        self.progressed = []
        self.outcome = self.seconds = self.weights = self.error = None

    def trace(self, name, step, value):
        self.traces.setdefault(name, []).append((step, value))

    def metric(self, name, value):
        self.metrics[name] = value

    def sample(self, name, arrays):
        self.samples[name] = arrays

    def checkpoint(self, state):
        self.checkpoints.append(state)

    def progress(self, step, values):
        self.progressed.append((step, values))

    def finish(self, outcome, *, seconds, weights):
        self.outcome, self.seconds, self.weights = outcome, seconds, weights

    def fail(self, error):
        self.error = error


def experiment_of(*configs):
    """What the trainer trains for these configs."""
    return registry.load(registry.entry(configs[0].experiment).experiment)(configs, CPU)


def train(configs, *, experiment=None, checkpoints=None, **options):
    """Train a pack to its end (or until `stop`); one recorder per run."""
    recorders = [MemoryRecorder() for _ in configs]
    checkpoints = checkpoints or [None] * len(configs)
    runs = [Run(c, r, k) for c, r, k in zip(configs, recorders, checkpoints, strict=True)]
    stop = options.pop("stop", lambda: False)
    Trainer(experiment or experiment_of(*configs), runs, **options).train(stop=stop)
    return recorders


def tiny(**changes):
    return replace(TINY, **changes)


def tiny_count(**changes):
    return replace(TINY_COUNT, **changes)


def after(steps):
    """A `stop` that says so once it was asked this many times, which is once before every step."""
    asked = iter(range(steps + 1))
    return lambda: next(asked, None) in (None, steps)
