"""Padded packs: a narrow run trains among wider ones as it does alone, and its results have its own width."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from store_helpers import Prompt
from sweep_helpers import ME, small, task_of
from training_helpers import (
    CPU,
    TINY,
    after,
    padding_of,
    tiny,
    tiny_count,
    train,
    trained,
)

from imagination import registry
from imagination.schema import rebuild
from imagination.training.layers import Gates, ParameterLayout
from jobs.evaluate import evaluate
from jobs.worker import run_pack
from results_db.store.sql import open_store

SMALLER = {name: getattr(TINY, name) for name in ("gol", "model_t", "board", "batch", "step_layers")}
MUON, ADVERSARY = {"optimizer": "muon"}, {"gan": "posthoc", "eval_every": 5, "adv_layers": 2}


def preset(name, **changes):
    return replace(rebuild(type(TINY), registry.preset("life_state", name)), **SMALLER, **changes)


KINDS = {
    "fast": preset("fast"),
    "fast without RNN": preset("fast", rnn=False),
    "small": preset("small"),
    "small without RNN": preset("small", rnn=False),
    "joint": tiny(gan="joint", enc_layers=2, dec_layers=2),
    "tied muon, 1x1": tiny(**MUON, tied=True, enc_layers=2, residual=False, kernel=1),
    "posthoc": tiny(**ADVERSARY),
    "count": tiny_count(),
    "count muon": tiny_count(**MUON, count_layers=2),
    "count posthoc": tiny_count(**ADVERSARY),
}


def close(found, wanted, *, within):
    """Whether the distance of two vectors is within this share of the second one's norm."""
    return torch.linalg.vector_norm(found - wanted) <= within * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.usefixtures("kernels")
def test_padded_and_alone_agree_over_fifty_steps_and_the_padding_stays_zero(kind):
    narrow, wide = replace(kind, channels=3, seed=1), replace(kind, channels=6, seed=2)
    before, alone = trained([narrow], steps=0).state, trained([narrow], steps=50).state
    group = trained([narrow, wide], steps=50)
    assert torch.equal(trained([narrow, wide], steps=0).run(0).parameters, before.parameters)
    found = group.run(0)
    assert not close(alone.parameters, before.parameters, within=1e-2)
    assert close(found.parameters, alone.parameters, within=1e-5)
    for name in ("mean", "variance"):  # where rounding turns the sign before a LeakyReLU, a gradient jumps
        assert close(getattr(found, name), getattr(alone, name), within=1e-3), name
    padding = padding_of(group)
    assert padding.any()
    for values in (group.state.parameters, group.state.mean, group.state.variance):
        assert not values[0, padding].any()
    assert len(padding) == trained([wide], steps=0).experiment.layout.size
    assert torch.equal(group.run(1).parameters, group.state.parameters[1:])


def test_the_columns_of_a_narrower_network():
    def layout(width):
        shapes = {"gates": Gates((4 * width, 1)), "kernel": (width, width), "linear": (1, width * 2)}
        return ParameterLayout({**shapes, "bias": (width,), "end": (1,)})

    found = layout(2).unpack(layout(2).columns_of(layout(1))[None])
    assert found["gates"][0, :, 0].tolist() == [True, False] * 4
    assert found["kernel"][0].tolist() == [[True, False], [False, False]]
    assert found["linear"][0].tolist() == [[True, True, False, False]]  # channels come before pixels
    assert found["bias"][0].tolist() == [True, False]
    assert found["end"].all()
    assert layout(2).columns_of(layout(2)).all()


def test_runs_of_other_widths_do_not_influence_a_run_to_the_bit():
    narrow, wide = tiny(channels=3, seed=1), tiny(channels=6, seed=2)
    usual = trained([narrow, wide], steps=10)
    for row, changed in ((0, replace(wide, seed=3)), (1, replace(narrow, seed=3))):
        absurd = replace(changed, lr=1e38, clip_by="none")
        for other in (changed, absurd):
            found = trained([narrow, other] if row == 0 else [other, wide], steps=10)
            assert torch.equal(found.state.parameters[row], usual.state.parameters[row])
            assert bool(found.state.parameters[1 - row].isfinite().all()) == (other is changed)


ENDING = [
    tiny(**ADVERSARY, channels=3, seed=1, max_steps=20, adv_steps=12),
    tiny(**ADVERSARY, channels=6, seed=2, max_steps=10, adv_steps=7),  # the widest, and the first to end
    tiny(**ADVERSARY, channels=5, seed=3, max_steps=15, adv_steps=12),
]


def assert_as_alone(found):
    """Check that these runs of `ENDING` ended with the shapes and, within rounding, the weights that they get alone."""
    for one, config in zip(found, ENDING, strict=True):
        (alone,) = train([config])
        assert one.outcome == alone.outcome == "step_limit"
        for name, values in alone.weights.items():
            assert one.weights[name].shape == values.shape
            np.testing.assert_allclose(one.weights[name], values, rtol=1e-3, atol=1e-5)
        runner = registry.load(registry.declaration("life_state").runner)
        again = runner.evaluate(config, one.weights, device=CPU, needs={})
        assert again.items() <= one.metrics.items()


@pytest.mark.parametrize("slots", [None, 2])
def test_a_padded_pack_trains_to_the_end_of_every_run(slots):
    assert_as_alone(train(ENDING, slots=slots))


def test_a_run_continues_in_any_pack():
    packed = train(ENDING, stop=after(12))  # the widest is in its second stage
    checkpoints = [recorder.checkpoints[-1] for recorder in packed]
    assert [int(each["stage"]) for each in checkpoints] == [0, 1, 0]
    found = [train([c], checkpoints=[k])[0] for c, k in zip(ENDING, checkpoints, strict=True)]
    assert_as_alone(found)
    alone = [train([config], stop=after(12))[0].checkpoints[-1] for config in ENDING]
    for one, other in zip(checkpoints, alone, strict=True):
        assert {name: values.shape for name, values in one.items()} == {
            name: values.shape for name, values in other.items()
        }
    assert_as_alone(train(ENDING, checkpoints=alone))


@pytest.mark.usefixtures("kernels")
def test_stopped_and_resumed_is_as_if_undisturbed_to_the_bit():
    undisturbed, checkpoints = train(ENDING), [None] * len(ENDING)
    for _ in range(2):
        stopped = train(ENDING, checkpoints=checkpoints, stop=after(7))
        checkpoints = [recorder.checkpoints[-1] for recorder in stopped]
    for one, other in zip(train(ENDING, checkpoints=checkpoints), undisturbed, strict=True):
        assert one.metrics == other.metrics
        assert all(np.array_equal(values, other.weights[name]) for name, values in one.weights.items())


def test_stored_weights_are_of_the_runs_own_width(tmp_path):
    store = open_store(str(tmp_path / "a.db"), create=True)
    runs = [small(channels=channels, seed=channels) for channels in (3, 6)]
    task = task_of(store, *runs)
    task = replace(task, pack=replace(task.pack, padded=True))
    with closing(Prompt(store)) as delivery:
        run_pack(
            type(task).decode(task.encode()), delivery, device=CPU, provenance=ME, report=lambda event: None
        )
    for run in runs:
        (path,) = (tmp_path / "a.files").rglob(f"*{run.run_id}*.safetensors")
        assert load_file(path)["encoder.0.bias"].shape == (run.config["channels"],)
        stored = store.run(run.run_id)["metrics"]
        assert evaluate(store, run.run_id, run.config, device=CPU).items() <= stored.items()
    store.close()
