"""Probes of frozen networks: exact where the answer is known, no better than chance on shuffled targets."""

import itertools

import numpy as np
import pytest
import torch
from chess_helpers import Left, config_of, trained
from test_chess_network import NEEDS, TINY
from training_helpers import CPU, MemoryRecorder

from imagination.chess import boards
from imagination.chess.probe import RUNNER, Layer, Probes
from imagination.runner import Run
from imagination.schema import ConfigError


@pytest.fixture(scope="module")
def needs():
    """A network that learned the rule of `NEEDS`, and those positions."""
    config = config_of("chess_network", **{**TINY, "blocks": 2, "max_steps": 300})
    (recorder,) = trained(config, needs=NEEDS)
    return {"network": Left(config, recorder), "positions": NEEDS["positions"]}


def probe(**changes):
    return config_of("chess_probe", **changes)


def measured(needs, **changes):
    (recorder,) = trained(probe(**{"share": 0.6, **changes}), needs=needs)
    assert recorder.outcome == "done"
    return recorder.metrics


def test_the_rule_is_read_from_the_network_but_not_from_shuffled_targets(needs) -> None:
    right = measured(needs, layer=2, target="from")
    wrong = measured(needs, layer=2, target="from", shuffled=True)
    assert set(right) == {"probe_accuracy", "usual"}
    assert right["probe_accuracy"] > wrong["probe_accuracy"]
    assert right["probe_accuracy"] > right["usual"] == wrong["usual"]


def test_targets_are_those_of_the_moves_that_follow(needs) -> None:
    layer = Layer(Run(probe(), MemoryRecorder(), None, needs), device=CPU)
    probes = Probes(layer, probe())
    held = layer.held
    for place, at in enumerate(layer.at[:20]):
        for ply in (1, 2, 3):
            move = boards.moves()[held.moves[at + ply - 1]]
            # The reply is black's where white moves: the same squares from the other side.
            seen = [int(probes._squares(side, ply)[place]) for side in ("from", "to")]
            names = [f"{'abcdefgh'[square % 8]}{square // 8 + 1}" for square in seen]
            if ply == 2:
                names = [name[0] + str(9 - int(name[1])) for name in names]
            assert "".join(names) == move[:4]
        after = boards.successors(held.rows[at])
        played = int(held.moves[at])
        assert probes._after(1)[place].tolist() == after[played].tolist()
        assert probes._after(2)[place].tolist() == held.rows[at + 2, :64].tolist()


def test_a_board_probe_is_measured_beside_copying(needs) -> None:
    found = measured(needs, layer=1, target="board")
    assert 0.9 < found["usual"] < 1  # one move changes 2 to 4 of 64 squares
    assert 0 <= found["changed"] <= 1
    assert found["chance"] <= found["successor"] + 1
    assert found["chance_mrr"] > found["chance"] > 1 / 60
    assert found["successor_mrr"] >= found["successor"]
    assert set(measured(needs, layer=1, target="board", ply=2)) == {
        "probe_accuracy",
        "usual",
        "changed",
    }


def test_successors_rank_by_the_likelihood_of_their_boards(needs) -> None:
    """A decoder that is sure of the right board ranks it first; one that is sure of another ranks that first."""
    layer = Layer(Run(probe(target="board"), MemoryRecorder(), None, needs), device=CPU)
    probes = Probes(layer, probe(target="board"))
    moves = layer.held.moves[layer.at[probes._test.numpy()]]
    rows = layer.rows[probes._test.numpy()]
    right = [boards.successors(row)[int(move)] for row, move in zip(rows, moves, strict=True)]
    wrong = [
        next(board for other, board in boards.successors(row).items() if other != move)
        for row, move in zip(rows, moves, strict=True)
    ]
    for wanted, first in ((right, 1.0), (wrong, 0.0)):
        sure = torch.nn.functional.one_hot(torch.from_numpy(np.array(wanted)).long(), boards.CLASSES).float()
        assert probes._successors(sure)["successor"] == first


def test_at_the_last_layer_the_lens_is_the_network(needs) -> None:
    lens = measured(needs, layer=2, target="lens")
    tuned = measured(needs, layer=2, target="tuned")
    assert lens["agreement"] == 1
    assert (
        tuned["agreement"] > 0.95
    )  # the best map from a layer to itself changes nothing, but for the penalty
    early = measured(needs, layer=0, target="lens")
    assert early["agreement"] <= measured(needs, layer=0, target="tuned")["agreement"]


def test_the_probes_directions_flip_moves_more_than_random_ones(needs) -> None:
    found = measured(needs, layer=0, target="cause", strength=1.0)
    assert found["flips"] > 3 * found["flips_random"]


def test_a_pack_measures_what_each_run_measures_alone(needs) -> None:
    every = [
        probe(layer=1, seed=seed, target=target, share=0.6)
        for seed, target in itertools.product((0, 1), ("from", "board", "tuned"))
    ]
    together = trained(*every, needs=needs)
    for config, recorder in zip(every, together, strict=True):
        assert recorder.metrics == measured(needs, layer=1, seed=config.seed, target=config.target)
    assert together[0].metrics != together[3].metrics  # seeds deal other games


@pytest.mark.parametrize("features", ["random", "input"])
def test_controls(needs, features) -> None:
    found = [measured(needs, features=features, target="from", seed=seed) for seed in (0, 1)]
    assert all(0 <= one["probe_accuracy"] <= 1 for one in found)
    assert found[0] != measured(needs, target="from")


def test_a_stop_leaves_the_open_runs(needs) -> None:
    recorders = [MemoryRecorder() for _ in range(3)]
    runs = [
        Run(probe(target=target), recorder, None, needs)
        for target, recorder in zip(("from", "to", "lens"), recorders, strict=True)
    ]
    asked = itertools.count()
    assert not RUNNER.train(runs, device=CPU, stop=lambda: next(asked) >= 2, checkpoint_every_s=60)
    assert [recorder.outcome for recorder in recorders] == ["done", "done", None]


def test_a_layer_that_the_network_lacks_is_refused(needs) -> None:
    with pytest.raises(
        ConfigError, match="layer: 3 is beyond the network's last block, 2; give a layer from 0 to 2"
    ):
        measured(needs, layer=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": "input", "layer": 1},
        {"target": "lens", "ply": 2},
        {"target": "cause", "features": "random"},
        {"target": "tuned", "shuffled": True},
    ],
)
def test_values_that_contradict_each_other(changes) -> None:
    with pytest.raises(ConfigError):
        probe(**changes)
