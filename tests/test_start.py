"""Runs that begin with the network of another run (`start`)."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from chess_helpers import Left
from sweep_helpers import answer, opened
from training_helpers import CPU, tiny, tiny_count, train

from imagination import registry
from imagination.life.count import LifeCount
from imagination.life.state import RUNNER, LifeState
from imagination.schema import ConfigError
from jobs.needs import find
from jobs.pack import group
from sweeps.spec.expand import expand
from sweeps.spec.load import load


class Weights(Left):
    """The final weights of a run, as what another run needs."""

    def __init__(self, config, recorder):
        super().__init__(config, recorder)
        self.left["weights"] = recorder.weights


def started(experiment, config, earlier, *others):
    """The first stage of other runs and of a run that starts from `earlier`, and what `earlier` recorded."""
    (recorder,) = train([earlier])
    configs = [*others, config]
    needs = [*({} for _ in others), {"start": Weights(earlier, recorder)}]
    return experiment(configs, CPU, needs=needs), recorder


@pytest.mark.parametrize(
    ("experiment", "earlier", "later"),
    [
        (LifeState, tiny(gan="posthoc", adv_steps=5), tiny(gol=3, model_t=3)),
        (LifeState, tiny(tied=True, channels=5), tiny(tied=True, channels=5, gan="joint")),
        (LifeState, tiny(gan="joint"), tiny(gan="joint", board=12)),
        (LifeState, tiny(rnn=False), tiny(rnn=False, gol=4)),
        (LifeCount, tiny_count(gol=1, model_t=1), tiny_count(gan="posthoc", adv_steps=5)),
    ],
    ids=["state", "a discriminator", "another's discriminator", "no rnn", "count"],
)
def test_it_begins_with_the_network_of_the_other(experiment, earlier, later):
    """Only the discriminator of a joint training is fresh, and so are the other runs of the pack."""
    stage, recorder = started(experiment, later, earlier, later)
    weights = recorder.weights
    fresh, begun = stage.initial_parameters()
    assert torch.equal(fresh, experiment([later], CPU).initial_parameters()[0])
    network = stage.network.layout.shapes
    assert network.keys() <= weights.keys()
    fresh_by_name = stage.layout.unpack(fresh[None])
    for name, value in stage.layout.unpack(begun[None]).items():
        wanted = torch.from_numpy(weights[name]) if name in network else fresh_by_name[name][0]
        assert torch.equal(value[0], wanted)
    # Also alone, as runs of a pack begin that wait for a place.
    assert torch.equal(stage.select([1]).initial_parameters()[0], begun)
    assert torch.equal(stage.select([0]).initial_parameters()[0], fresh)


def test_it_trains_on_from_there():
    """Both have the same task, so its first accuracy is near the other's last. Fresh weights have 34% there."""
    earlier = tiny(max_steps=400, eval_every=400, lr=0.01)
    stage, recorder = started(LifeState, tiny(max_steps=1, eval_every=1, trace_every=1), earlier)
    (again,) = train(stage.configs, experiment=stage)
    assert recorder.metrics["train_accuracy"] > 0.8
    assert again.metrics["train_accuracy"] == pytest.approx(recorder.metrics["train_accuracy"], abs=0.15)
    assert again.metrics["steps"] == 1
    moved = max(np.abs(again.weights[name] - value).max() for name, value in recorder.weights.items())
    assert 0 < moved <= 0.01  # one step of Adam moves no weight by more than its rate


@pytest.mark.parametrize(
    ("later", "earlier", "said"),
    [
        (tiny(), tiny(channels=6, tied=True), "channels 6 instead of 4, tied true instead of false"),
        (tiny(rnn=False), tiny(rnn=False, model_t=3), "model_t 3 instead of 2"),
        (
            tiny_count(),
            tiny_count(count_layers=2, board=7),
            "count_layers 2 instead of 1, board 7 instead of 6",
        ),
    ],
)
def test_a_start_with_another_network_is_refused(later, earlier, said):
    with pytest.raises(ConfigError, match=said):
        later.check_needs({"start": earlier})


@pytest.mark.parametrize(
    ("later", "earlier"),
    [(tiny(gol=3, model_t=3, ae=False, lr=1e-4), tiny()), (tiny_count(gol=1, model_t=4), tiny_count())],
)
def test_a_start_may_differ_in_everything_else(later, earlier):
    later.check_needs({"start": earlier})


SPEC = """
name: chain
experiment: life_state
preset: fast
base: {eval_sequences: 100, channels: 12}
cells: [{gol: 2, model_t: 2}]
needs:
  start: {experiment: life_state, preset: fast, eval_sequences: 100, channels: 12, gol: 1, model_t: 1, same: [seed]}
"""


@pytest.mark.slow
def test_a_spec_trains_the_start_first(tmp_path):
    """In step 0 the second run decodes its first state, as its start has learned. Fresh weights show noise."""
    (tmp_path / "s.yaml").write_text(SPEC)
    assert answer("launch", "s.yaml", "--db", "a.db", "--json", folder=tmp_path).json["stored"] == 2
    first, second = expand(load(tmp_path / "s.yaml")).runs
    assert second.needs == {"start": first.run_id}
    with closing(opened(tmp_path)) as store:
        steps, values = store.traces(second.run_id)["state1"]
        other = replace(registry.rebuilt(second.config), step_layers=4)
        (unmet,) = find([other], store)
    assert steps[0] == 0
    assert values[0] >= 0.99
    # `python -m jobs.train` reads no spec, so this is the only check of its runs.
    assert str(unmet).startswith("start: its network has step_layers 5 instead of 4")


def test_a_run_and_its_start_never_share_a_pack(tmp_path):
    """They would wait for each other. Both have the same shape, and the rates may differ in a pack."""
    need = "{experiment: life_state, lr: 0.01, same: [seed]}"
    (tmp_path / "s.yaml").write_text(f"experiment: life_state\nneeds: {{start: {need}}}\nruns: 3\n")
    packs = group(iter(expand(load(tmp_path / "s.yaml")).runs), size=16)
    assert [len(pack.runs) for pack in packs] == [3, 3]


def test_a_network_that_does_not_fit_is_refused_at_any_depth(tmp_path):
    inner = "{experiment: life_state, channels: 8, same: [seed]}"
    outer = f"{{experiment: life_state, gol: 2, model_t: 2, same: [seed], needs: {{start: {inner}}}}}"
    (tmp_path / "s.yaml").write_text(f"experiment: life_state\nneeds: {{start: {outer}}}\n")
    refused = answer("plan", "s.yaml", "--db", "a.db", folder=tmp_path)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "start: its network has channels 8 instead of 20; give these keys the same values" in refused.err


def test_the_pace_of_a_run_with_a_start_is_measured_without_it():
    assert RUNNER.pace([tiny(start="0" * 64)], device=CPU, within_s=0.05) is not None
