"""What a step must be to run on a GPU without waiting for it, shown without a GPU."""

import gc
import re
import subprocess
import sys
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import CPU, experiment_of, tiny, tiny_count, train

from imagination.training import graphs, native
from imagination.training.group import Group
from imagination.training.state import TrainState
from imagination.ways import VARIABLE

KINDS = {
    "state": tiny(gan="posthoc", optimizer="muon"),
    "joint": tiny(gan="joint", precision="tf32"),
    "count": tiny_count(gan="posthoc"),
}
STAGES = pytest.mark.parametrize(
    ("kind", "stage"), [("state", 0), ("state", 1), ("joint", 0), ("count", 0), ("count", 1)]
)


class WaitError(Exception):
    """An operation waits for the device, or copies from the host to it."""


class NeverWaits(TorchDispatchMode):
    """Refuses the operations that a CUDA graph cannot hold."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket.__name__ in {
            "_local_scalar_dense",
            "lift_fresh",
            "nonzero",
            "masked_select",
        }:
            raise WaitError(str(function))
        return function(*arguments, **(options or {}))


def group_of(kind, stage, *, device):
    """A group of three runs that may make a step of this stage."""
    configs = [replace(KINDS[kind], seed=seed) for seed in range(3)]
    experiments = [type(experiment_of(*configs))(configs, where) for where in (CPU, torch.device(device))]
    for _ in range(stage):
        experiments = [experiment.next_stage() for experiment in experiments]
    state = vars(TrainState.initial(experiments[0]))
    group = Group(experiments[0], TrainState(**state), range(3))  # reads the runs' steps on the host
    group.experiment, group._step_with = experiments[1], (experiments[1], experiments[1].optimizers())
    group.state = TrainState(**{name: value.to(device) for name, value in state.items()})
    return group


@STAGES
def test_a_step_never_waits_for_the_device(kind, stage, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    group = group_of(kind, stage, device="cpu")

    before = {name: value.data_ptr() for name, value in vars(group.state).items()}
    with NeverWaits():
        assert group.step(traced=True).shape[1] == 3
        for waiting in (group.state.step[0].item, lambda: torch.tensor([1.0])):
            with pytest.raises(WaitError):
                waiting()
    assert {name: value.data_ptr() for name, value in vars(group.state).items()} == before


@STAGES
def test_no_tensor_of_a_step_is_on_the_host(kind, stage, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # which `meta` does not have
    # `meta` is a device without memory: a tensor on the host among those of the device is an error, and so is reading.
    group = group_of(kind, stage, device="meta")
    found, state = group.step(traced=True), group.state
    assert (found.device.type, found.shape[1]) == ("meta", 3)
    with pytest.raises(RuntimeError, match="expected device meta"):
        state.step + torch.zeros(3)
    with pytest.raises(RuntimeError, match="meta tensors"):
        state.step[0].item()


# --- rows of ended runs ---


def test_with_graphs_a_gpu_keeps_a_power_of_two_of_rows(monkeypatch):
    cuda = torch.device("cuda")
    assert graphs.rows(5, cuda) == 5
    monkeypatch.setenv(VARIABLE, "graphs")
    assert [graphs.rows(live, cuda) for live in (1, 2, 3, 4, 5, 33)] == [1, 2, 4, 4, 8, 64]
    assert graphs.rows(5, CPU) == 5


@pytest.mark.parametrize("gan", ["none", "posthoc"])
def test_rows_of_ended_runs_change_no_result(gan, monkeypatch):
    # Five runs end one after the other, at 10, 20, ... 50 steps, the fifth diverges at once.
    configs = [tiny(seed=seed, max_steps=10 * seed, gan=gan, adv_steps=7) for seed in range(1, 5)]
    configs.append(tiny(seed=5, lr=1e38, clip_by="none", gan=gan))
    usual = train(configs)
    packed, select = [], TrainState.select
    monkeypatch.setattr(graphs, "keeps_rows", lambda device: True)
    monkeypatch.setattr(
        TrainState, "select", lambda self, kept: packed.append(len(kept)) or select(self, kept)
    )
    found = train(configs)
    assert set(packed) <= {1, 2, 4}
    for one, other in zip(found, usual, strict=True):
        assert (one.outcome, one.metrics) == (other.outcome, other.metrics)
        assert one.traces == other.traces
        assert all(
            np.array_equal(weight, other.weights[name], equal_nan=True)
            for name, weight in one.weights.items()
        )


# --- too little memory ---

LIMITED = """
import logging, resource, sys
sys.path.insert(0, sys.argv[1])
from training_helpers import tiny, train

logging.basicConfig(format="%(message)s")
SHORT = {"max_steps": 3, "eval_every": 1, "trace_every": 1}
train([tiny(**SHORT)])  # loads what a training needs
if limit := int(sys.argv[2]):
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + limit, in_use + limit))
for recorder in train([tiny(**SHORT, seed=seed, board=24, batch=256, channels=8) for seed in range(8)]):
    assert recorder.outcome == "step_limit", recorder.error
    print([values.sum() for values in recorder.weights.values()], recorder.traces, recorder.metrics)
"""


def trained(*, limit):
    """What a process with this many bytes left says of eight runs, and its log."""
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None, reason="in packs of other sizes the bits differ")
def test_a_pack_without_enough_memory_is_halved_and_says_which_size_fits():
    usual, log = trained(limit=0)
    assert not log
    found, log = trained(limit=300 * 2**20)
    assert found == usual
    assert log[0] == "8 runs do not fit into the memory; 4 at a time are tried"
    size = re.fullmatch(r"([124]) runs at a time fit into the memory: launch with --slots \1", log[-1])
    assert size, log
    assert len(log) == 1 + {"4": 1, "2": 2, "1": 3}[size[1]]


def test_a_failed_pack_leaves_no_tensors_behind():
    # `jobs.worker` trains its halves next, and they need its memory.
    class Broken(type(experiment_of(KINDS["joint"]))):
        def next_data(self, carry, steps):
            raise RuntimeError("no kernel")

    experiment = Broken([KINDS["joint"]], CPU)
    kept = weakref.ref(experiment)
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="no kernel"):
            train(experiment.configs, experiment=experiment)
        del experiment
        assert kept() is None
    finally:
        gc.enable()
