"""A pack with fewer slots than runs, and runs of one pack in different stages: no run waits for another one's end."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from training_helpers import CPU, MemoryRecorder, after, experiment_of, tiny, tiny_count, train

from imagination.life.state import LifeState
from imagination.runner import Run
from imagination.training import graphs, native
from imagination.training.group import Group
from imagination.training.loop import Trainer
from imagination.training.state import TrainState

pytestmark = pytest.mark.slow

ADVERSARY = {"gan": "posthoc", "eval_every": 5, "trace_every": 1, "adv_layers": 2}
BITS = pytest.mark.skipif(native.library() is None, reason="in packs of other sizes the bits differ")


def order_of(configs, **options):
    """For each traced step of a pack, in the order of time: the run, and whether it was its adversary's step."""
    seen = []

    class Telling(MemoryRecorder):
        def progress(self, step, values):
            seen.append((recorders.index(self), any(name.startswith("adv_") for name in values)))

    recorders = [Telling() for _ in configs]
    runs = [Run(config, recorder) for config, recorder in zip(configs, recorders, strict=True)]
    Trainer(experiment_of(*configs), runs, **options).train()
    return seen


def packs_of(configs, **options):
    """How many runs each step trained."""
    sizes = []

    class Counted(LifeState):
        def forward(self, parameters, data, steps):
            sizes.append(len(parameters))
            return super().forward(parameters, data, steps)

    train(configs, experiment=Counted(configs, CPU), **options)
    return sizes


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one.outcome, one.metrics, one.traces) == (other.outcome, other.metrics, other.traces)
        assert all(np.array_equal(weight, other.weights[name]) for name, weight in one.weights.items())


@pytest.mark.parametrize("kind", [tiny, tiny_count])
def test_an_adversary_begins_while_other_runs_train_their_networks(kind):
    configs = [kind(**ADVERSARY, seed=seed, max_steps=5 * seed, adv_steps=4) for seed in (3, 1)]
    # Networks train for 15 and 5 steps. Then the second run has its four steps beside steps 5 to 8 of the first.
    assert order_of(configs) == [
        *[(0, False), (1, False)] * 5,
        *[(0, False), (1, True)] * 4,
        *[(0, False)] * 6,
        *[(0, True)] * 4,
    ]


def test_a_freed_slot_is_taken_by_the_next_run():
    configs = [tiny(seed=steps, max_steps=steps, eval_every=1, trace_every=1) for steps in (12, 2, 3, 4, 5)]
    started = {}
    for when, (run, _) in enumerate(order_of(configs, slots=2)):
        started.setdefault(run, when // 2)
    # Two train at once. The first is the longest; the others follow one another beside it.
    assert started == {0: 0, 1: 0, 2: 2, 3: 2 + 3, 4: 2 + 3 + 4}
    assert packs_of(configs, slots=2) == [2] * 12 + [1] * 2
    assert packs_of(configs) == [5] * 2 + [4] + [3] + [2] + [1] * 7


def test_a_run_keeps_its_slot_for_its_adversary():
    configs = [tiny(**ADVERSARY, seed=seed, max_steps=5, adv_steps=3) for seed in range(3)]
    assert order_of(configs, slots=1) == [
        (run, adversary) for run in range(3) for adversary in [False] * 5 + [True] * 3
    ]


@BITS
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_slots_change_no_result(slots):
    configs = [tiny(**ADVERSARY, seed=seed, max_steps=5 * seed, adv_steps=7) for seed in (2, 1, 3, 1)]
    configs[3] = replace(configs[3], lr=1e38, clip_by="none", seed=9)  # it diverges
    found = train(configs, slots=slots)
    assert [one.outcome for one in found] == ["step_limit"] * 3 + ["diverged"]
    for one, config in zip(found[:3], configs, strict=False):
        assert_equal([one], train([config]))


def groups_of(configs, monkeypatch, **options):
    """What is recorded with rows as for CUDA graphs, and stage and rows of each group, whose step is captured once."""
    built, begin = [], Group.__init__

    def noted(self, experiment, *arguments):
        begin(self, experiment, *arguments)
        built.append((experiment.stage, len(self.places)))

    with monkeypatch.context() as patch:
        patch.setattr(Group, "__init__", noted)
        patch.setattr(graphs, "keeps_rows", lambda device: True)
        return train(configs, **options), built


@pytest.mark.parametrize("kind", [tiny, tiny_count])
def test_a_run_takes_a_free_row_where_it_trains_as_alone(kind, monkeypatch):
    settings = {"eval_every": 5, "trace_every": 1}
    configs = [
        kind(**settings, seed=steps, max_steps=steps, lr=1e-4 * steps, disc_lr=1e-5 * steps)
        for steps in (30, 5, 10, 15, 20, 5)
    ]
    found, built = groups_of(configs, monkeypatch, slots=3)
    # The rows of three runs are four. 5 and 10 end, and 15 and 20 take their rows. At step 20 the last begins, at 25 it
    # ends. Two runs are left, which keep two rows until step 30.
    assert built == [(0, 4), (0, 2)]
    for one, config in zip(found, configs, strict=True):
        (alone,) = train([config])
        assert one.outcome == alone.outcome
        assert one.metrics == pytest.approx(alone.metrics, abs=0.02)
        for name, weight in one.weights.items():
            assert weight == pytest.approx(alone.weights[name], abs=1e-4)


def test_a_run_whose_step_is_another_takes_no_free_row(monkeypatch):
    # Without the autoencoder in any run, a step does not decode h_0. A graph of that step cannot train the third run.
    settings = {"eval_every": 5, "trace_every": 1}
    configs = [tiny(**settings, seed=steps, max_steps=steps, ae=steps == 15) for steps in (30, 5, 15)]
    found, built = groups_of(configs, monkeypatch, slots=2)
    assert built == [(0, 2), (0, 2), (0, 1)]
    for one, config in zip(found, configs, strict=True):
        (alone,) = train([config])
        assert one.weights["encoder.0.weight"] == pytest.approx(alone.weights["encoder.0.weight"], abs=1e-4)


class Number(float):
    """A number with attributes."""

    unit = "s"


class Holder:
    """An object whose attributes are all that it is."""

    def __init__(self, value):
        self.value, self.rate = value, torch.zeros(2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lambda x: x, lambda x: 2 * x),
        (partial(pow, 2), partial(pow, 3)),
        (Number(1), Number(2)),
        (Holder(1).__init__, Holder(1).__init__),
        (max, min),
        ("adam", "muon"),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        (1, 1.0),
    ],
)
def test_what_differs_in_more_than_tensors_is_no_pair(old, new):
    with pytest.raises(ValueError, match=r"."):
        list(graphs.pairs(Holder(old), Holder(new)))


def test_the_tensors_of_equal_objects_are_pairs():
    old, new = (Holder([Holder(max), {"a": torch.ones(1)}, Number(3), "adam"]) for _ in range(2))
    assert [(id(one), id(other)) for one, other in graphs.pairs(old, new)] == [
        (id(old.value[0].rate), id(new.value[0].rate)),
        (id(old.value[1]["a"]), id(new.value[1]["a"])),
        (id(old.rate), id(new.rate)),
    ]


@pytest.mark.usefixtures("kernels")
def test_with_slots_stopped_and_resumed_is_as_if_undisturbed_to_the_bit():
    configs = [tiny(**ADVERSARY, seed=seed, max_steps=5 * seed, adv_steps=7) for seed in (3, 1, 2)]
    undisturbed = train(configs, slots=2)
    recorders, stages = [MemoryRecorder() for _ in configs], []
    while any(recorder.outcome is None for recorder in recorders):
        left = [
            Run(config, recorder, recorder.checkpoints[-1] if recorder.checkpoints else None)
            for config, recorder in zip(configs, recorders, strict=True)
            if recorder.outcome is None
        ]
        stages.append([-1 if run.checkpoint is None else int(run.checkpoint["stage"]) for run in left])
        Trainer(experiment_of(*(run.config for run in left)), left, slots=2).train(stop=after(4))
    assert [0, 1, -1] in stages
    assert_equal(recorders, undisturbed)


@BITS
@pytest.mark.parametrize(
    ("slots", "method", "faulty"),
    [
        (3, "select", lambda state, rows: len(rows) == 2),
        (2, "arrays", lambda state, _row: bool((state.stage == 1).all())),
    ],
    ids=["as the group shrinks", "between two stages"],
)
def test_too_little_memory_after_a_run_ended_mixes_up_no_runs(slots, method, faulty, monkeypatch):
    configs = [tiny(**ADVERSARY, seed=seed, max_steps=5 * seed, adv_steps=7) for seed in (1, 3, 2)]
    undisturbed, usual, failed = train(configs), getattr(TrainState, method), []

    def too_large(state, asked):
        if not failed and faulty(state, asked):
            failed.append(asked)
            raise MemoryError
        return usual(state, asked)

    monkeypatch.setattr(TrainState, method, too_large)
    found = train(configs, slots=slots)
    assert failed
    assert_equal(found, undisturbed)


def test_if_the_first_runs_do_not_fit_the_log_says_how_many_do(monkeypatch, caplog):
    configs = [tiny(seed=seed, max_steps=5, eval_every=5) for seed in range(7)]
    usual = TrainState.joined

    def joined(states):
        if len(states) > 3:
            raise MemoryError
        return usual(states)

    monkeypatch.setattr(TrainState, "joined", joined)
    assert all(one.outcome for one in train(configs, slots=6))
    assert caplog.messages == [
        "6 runs do not fit into the memory; 3 at a time are tried",
        "3 runs at a time fit into the memory: launch with --slots 3",
    ]


def test_a_run_that_has_not_begun_leaves_no_checkpoint():
    configs = [tiny(seed=seed) for seed in range(3)]
    assert [len(one.checkpoints) for one in train(configs, slots=1, stop=after(7))] == [1, 0, 0]
