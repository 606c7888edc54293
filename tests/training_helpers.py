"""Small training runs for tests."""

from dataclasses import replace

import torch

from imagination import registry
from imagination.life.config import LifeCountConfig, LifeStateConfig
from imagination.runner import Run
from imagination.training.group import Group
from imagination.training.loop import Trainer
from imagination.training.state import TrainState

CPU = torch.device("cpu")
torch.set_num_threads(1)  # threads slow down operations on tensors as small as these

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
    """Keeps everything that it receives."""

    def __init__(self):
        self.traces, self.metrics, self.samples, self.checkpoints = {}, {}, {}, []
        self.progressed, self.artifacts = [], {}
        self.outcome = self.seconds = self.weights = self.error = None

    def trace(self, name, step, value):
        self.traces.setdefault(name, []).append((step, value))

    def metric(self, name, value):
        self.metrics[name] = value

    def sample(self, name, arrays):
        self.samples[name] = arrays

    def artifact(self, name, content):
        self.artifacts[name] = content

    def checkpoint(self, state):
        self.checkpoints.append(state)

    def progress(self, step, values):
        self.progressed.append((step, values))

    def finish(self, outcome, *, seconds, weights):
        self.outcome, self.seconds, self.weights = outcome, seconds, weights

    def fail(self, error):
        self.error = error


def experiment_of(*configs):
    """The experiment of these configs."""
    return registry.load(registry.declaration(configs[0].experiment).runner).experiment(configs, CPU)


def train(configs, *, experiment=None, checkpoints=None, **options):
    """Trains a pack to its end, or until `stop` says so; one recorder per run."""
    recorders = [MemoryRecorder() for _ in configs]
    checkpoints = checkpoints or [None] * len(configs)
    runs = [Run(c, r, k) for c, r, k in zip(configs, recorders, checkpoints, strict=True)]
    stop = options.pop("stop", lambda: False)
    Trainer(experiment or experiment_of(*configs), runs, **options).train(stop=stop)
    return recorders


def trained(configs, *, steps):
    """A group of these runs after so many steps of their last stage, on untrained networks if it is the second."""
    first = experiment_of(*configs)
    stage = first.next_stage() or first
    states = [TrainState.initial(stage.select([row])) for row in range(len(configs))]
    group = Group.of(stage, states, range(len(configs)))
    for _ in range(steps):
        group.step()
    return group


def padding_of(group):
    """Which of the columns are padding in the first row of a group."""
    layout = group.experiment.layout
    return ~layout.columns_of(group.experiment.layout_of(0))


def tiny(**changes):
    return replace(TINY, **changes)


def tiny_count(**changes):
    return replace(TINY_COUNT, **changes)


def after(steps):
    """A `stop` that is True after this many questions; the trainer asks once before every step."""
    asked = iter(range(steps + 1))
    return lambda: next(asked, None) in (None, steps)


def at_the_border(configs):
    """Every run's checkpoint between its training and its post-hoc adversary's."""
    return [next(c for c in r.checkpoints if int(c["stage"]) == 1) for r in train(configs)]


def parameters_after(configs, steps, **options):
    """The parameters `[R, P]` after this many steps."""
    recorders = train(configs, stop=after(steps), **options)
    return torch.stack([torch.from_numpy(r.checkpoints[-1]["parameters"]) for r in recorders])


def watched(configs):
    """The configs' experiment, and a list of the first run's training accuracy in every step so far."""
    seen = []

    class Watched(type(experiment_of(*configs))):
        def forward(self, parameters, data, steps):
            forward = super().forward(parameters, data, steps)
            seen.append(forward.accuracy[0].item())
            return forward

    return Watched(configs, CPU), seen


def random(*shape, seed=0, draw=torch.randn):
    """Numbers that depend on the seed alone."""
    return draw(*shape, generator=torch.Generator().manual_seed(seed))
