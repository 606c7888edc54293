"""The paper's procedure on a frozen network: what it learns, what it reports, and that it can be interrupted."""

import itertools

import chess
import numpy as np
import pytest
import torch
from chess_helpers import Left, config_of, trained
from test_chess_network import NEEDS, TINY
from training_helpers import CPU

from imagination.chess import boards, decoder, network
from imagination.chess.network import frozen, line, policy
from imagination.chess.positions import Positions
from imagination.probing import split
from imagination.schema import ConfigError

pytestmark = pytest.mark.slow

SMALL = {"share": 0.6, "max_steps": 40, "batch": 16, "width": 16, "trace_every": 10}


@pytest.fixture(scope="module")
def needs():
    config = config_of("chess_network", **{**TINY, "blocks": 3, "max_steps": 100})
    (recorder,) = trained(config, needs=NEEDS)
    return {"network": Left(config, recorder), "positions": NEEDS["positions"]}


def decoded(needs, **changes):
    (recorder,) = trained(config_of("chess_decoder", "tiny", **{**SMALL, **changes}), needs=needs)
    return recorder


@pytest.fixture(scope="module")
def following(needs):
    """The positions, the boards that follow them by name, and which of them are learned and tested."""
    held = Positions.of(NEEDS["positions"].arrays("held"))
    at = held.followed(3)
    rows = held.rows[at]
    _, own = next(line(frozen(needs["network"], device=CPU), rows))
    learned, tested = split(torch.from_numpy(held.games[at]), seed=0, shares=(SMALL["share"],))
    return rows, {"own": own} | {str(ply): held.after(at, ply) for ply in (1, 2, 3)}, learned, tested


@pytest.mark.parametrize("adversary", [True, False])
def test_it_learns_the_present_board_and_reports_every_layer_and_board(needs, following, adversary) -> None:
    found = decoded(needs, adversary=adversary, max_steps=150)
    assert found.metrics["present"] > 0.8
    assert found.metrics["steps"] == 150
    assert found.metrics["best_layer"] in (1, 2)  # not the first, and not the last
    rows, every, learned, tested = following
    for which, after in every.items():
        for name in ("squares", "filled"):
            layers, values = zip(*found.traces[f"{name}_{which}"], strict=True)
            assert layers == (0, 1, 2, 3)
            assert found.metrics[f"{name}_{which}"] == values[int(found.metrics["best_layer"])]
        if which == "own":
            assert found.metrics["filled_last"] == values[-1]
        # How often each square's most frequent class of the learned games is right where a piece arrives.
        usual = np.array([np.bincount(column).argmax() for column in after[learned].T])
        before = {"2": every["1"], "3": every["2"]}.get(which, rows[:, :64])[tested]
        arrived = (after[tested] != before) & (after[tested] > 0) & (after[tested] != rows[tested, :64])
        right = (usual == after[tested])[arrived].mean()
        assert found.metrics[f"filled_usual_{which}"] == pytest.approx(right)
    # Every ply changes 2 to 4 of 64 squares, and may change one back.
    copies = [found.metrics[f"copy_{ply}"] for ply in (1, 2, 3)]
    assert 1 > copies[0] > copies[1] > copies[2] > 1 - 12 / 64
    assert len(found.traces["loss"]) == 15


def test_the_layer_is_chosen_once_on_learned_positions_and_is_neither_the_first_nor_the_last(
    needs, following, monkeypatch
) -> None:
    """Layer 2 is right about learned positions, layer 1 about the tested ones: all metrics are those of layer 2."""
    rows, every, learned, _ = following
    own = {row.tobytes(): board for row, board in zip(rows, every["own"], strict=True)}
    seen = {rows[at].tobytes() for at in learned}

    def told(self, asked):
        now, right = asked[:, :64], np.array([own[row.tobytes()] for row in asked])
        is_learned = asked[0].tobytes() in seen
        return np.array([right, now if is_learned else right, right if is_learned else now, right])

    monkeypatch.setattr(decoder._Decoding, "_decoded", told)
    found = decoded(needs, max_steps=1, trace_every=1).metrics
    assert (found["best_layer"], found["filled_own"], found["filled_last"]) == (2, 0, 1)
    assert found["squares_own"] == found["copy_own"] < 1


def test_the_network_is_asked_once_for_its_moves(needs, following, monkeypatch) -> None:
    """Every position is given to the network once for its move, and then in batches."""
    evaluated = []
    monkeypatch.setattr(network, "policy", lambda one, rows: evaluated.append(len(rows)) or policy(one, rows))
    decoded(needs, adversary=False)
    assert evaluated == [len(following[0])]


def test_the_board_after_the_networks_own_move(needs) -> None:
    network = frozen(needs["network"], device=CPU)
    rows = NEEDS["positions"].arrays("held")["rows"][:20]
    logits, _ = policy(network, rows)
    for row, move, board, values in zip(rows, *next(line(network, rows)), logits, strict=True):
        after = boards.decode(row)
        best = max(after.legal_moves, key=lambda one: values[boards.index(boards.decode(row), one)])
        assert move == boards.index(after, best)
        after.push(best)
        assert board.tolist() == boards.squares(after, chess.WHITE).tolist()


def test_the_next_board_is_learned_from_the_last_layer_alone(needs) -> None:
    plain = decoded(needs, adversary=False, next_board=False, max_steps=150)
    taught = decoded(needs, adversary=False, next_board=True, max_steps=150)
    assert taught.metrics["filled_last"] > plain.metrics["filled_last"]


def test_random_weights_are_decoded_as_a_control(needs) -> None:
    found, control = (decoded(needs, features=features).metrics for features in ("trained", "random"))
    assert found["filled_usual_own"] == control["filled_usual_own"]  # the trained network's moves in both
    assert found["present"] != control["present"]


def test_a_network_without_layers_in_between_is_refused() -> None:
    with pytest.raises(ConfigError, match="network: its only block is its last one; give"):
        config_of("chess_decoder").check_blocks(1)


def test_it_goes_on_where_it_stopped(needs) -> None:
    config = config_of("chess_decoder", "tiny", **SMALL)
    (whole,) = trained(config, needs=needs)
    asked = itertools.count()
    (first,) = trained(config, needs=needs, stop=lambda: next(asked) > 30)
    (saved,) = first.checkpoints
    (second,) = trained(config, needs=needs, checkpoint=saved)
    assert 0 < saved["step"] < 40
    assert whole.metrics == second.metrics


def test_the_boards_for_figures(needs) -> None:
    shown = decoded(needs).samples["boards"]
    held = NEEDS["positions"].arrays("held")
    (at,) = np.flatnonzero((held["rows"][:, :64] == shown["board"]).all(1))
    assert np.array_equal(boards.turned(shown["line"][0]), held["rows"][at + 1, :64])
    assert np.array_equal(shown["line"][1], held["rows"][at + 2, :64])
    assert shown["decoded"].shape == (4, 64)
    assert shown["line"].shape == (3, 64)
    row = held["rows"][at][None]
    assert np.array_equal(shown["own"], next(line(frozen(needs["network"], device=CPU), row))[1][0])
    named = decoded(needs, fen=chess.STARTING_FEN).samples["boards"]
    assert np.array_equal(named["board"], boards.squares(chess.Board(), chess.WHITE))
    assert named["line"].shape == (0, 64)
    after = boards.successors(boards.encode(chess.Board())).values()
    assert any(np.array_equal(named["own"], one) for one in after)
