"""The paper's procedure on a frozen network: what it learns, what it reports, and that it can be interrupted."""

import itertools

import chess
import numpy as np
import pytest
from chess_helpers import Left, config_of, trained
from test_chess_network import NEEDS, TINY

from imagination.chess import boards

SMALL = {"share": 0.6, "max_steps": 40, "batch": 16, "width": 16, "trace_every": 10}


@pytest.fixture(scope="module")
def needs():
    config = config_of("chess_network", **{**TINY, "blocks": 2, "max_steps": 100})
    (recorder,) = trained(config, needs=NEEDS)
    return {"network": Left(config, recorder), "positions": NEEDS["positions"]}


def decoded(needs, **changes):
    (recorder,) = trained(config_of("chess_decoder", "tiny", **{**SMALL, **changes}), needs=needs)
    return recorder


@pytest.mark.parametrize("adversary", [True, False])
def test_it_learns_the_present_board_and_reports_every_layer_and_ply(needs, adversary) -> None:
    found = decoded(needs, adversary=adversary, max_steps=150)
    assert found.metrics["present"] > 0.8
    assert found.metrics["steps"] == 150
    for ply in (1, 2, 3):
        for name in ("squares", "changed"):
            layers, values = zip(*found.traces[f"{name}_{ply}"], strict=True)
            assert layers == (0, 1, 2)
            assert found.metrics[f"{name}_{ply}"] == max(values[1:])
    # Every ply changes 2 to 4 of 64 squares, and may change one back.
    copies = [found.metrics[f"copy_{ply}"] for ply in (1, 2, 3)]
    assert 1 > copies[0] > copies[1] > copies[2] > 1 - 12 / 64
    assert len(found.traces["loss"]) == 15


def test_without_the_next_board_and_the_adversary_other_layers_are_left_alone(needs) -> None:
    plain = decoded(needs, adversary=False, next_board=False, max_steps=150)
    taught = decoded(needs, adversary=False, next_board=True, max_steps=150)
    assert taught.metrics["changed_1"] > plain.metrics["changed_1"]


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
    assert shown["decoded"].shape == (3, 64)
    assert shown["line"].shape == (3, 64)
    named = decoded(needs, fen=chess.STARTING_FEN).samples["boards"]
    assert np.array_equal(named["board"], boards.squares(chess.Board(), chess.WHITE))
    assert named["line"].shape == (0, 64)
