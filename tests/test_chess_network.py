"""The network learns the moves that it is given, goes on after an interruption, and is scored on legal moves."""

import itertools

import chess
import numpy as np
import pytest
import torch
from chess_helpers import config_of, trained

from imagination import saving
from imagination.chess import boards, network, training
from imagination.chess.positions import Positions
from imagination.runner import Needed

pytestmark = pytest.mark.slow

GAMES = 60
ORDER = np.random.default_rng(5).permutation(1858)


class Given(Needed):
    """Positions of games that a rule plays: the legal move that is first in an order. Openings are random."""

    def arrays(self, name="weights"):
        rng = np.random.default_rng(3 if name == "held" else 4)
        rows, moves = [], []
        for _ in range(GAMES):
            board = chess.Board()
            for ply in range(18):
                legal = list(board.legal_moves)
                move = min(legal, key=lambda one: ORDER[boards.index(board, one)])
                if ply < 8:
                    move = legal[rng.integers(len(legal))]
                else:
                    rows.append(boards.encode(board))
                    moves.append(boards.index(board, move))
                board.push(move)
        chances = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (len(rows), 1))
        return Positions(np.array(rows), np.array(moves), chances, np.repeat(np.arange(GAMES), 10)).arrays()


NEEDS = {"positions": Given(None, {}, {})}
TINY = {
    "blocks": 1,
    "filters": 8,
    "lr": 0.01,
    "max_steps": 40,
    "batch": 40,
    "precision": "float32",
    "trace_every": 10,
}


def test_it_learns_a_rule_and_says_so() -> None:
    (recorder,) = trained(config_of("chess_network", **{**TINY, "max_steps": 150}), needs=NEEDS)
    assert recorder.metrics["policy_accuracy"] > 0.6
    first, *_, last = (value for _, value in recorder.traces["loss_policy"])
    assert last < first / 2
    assert recorder.metrics["value_error"] < 0.1  # every position has the same chances
    assert recorder.metrics["steps"] == 150


def test_it_goes_on_where_it_stopped() -> None:
    config = config_of("chess_network", **TINY)
    (whole,) = trained(config, needs=NEEDS)
    asked = itertools.count()
    (first,) = trained(config, needs=NEEDS, stop=lambda: next(asked) > 30)
    (saved,) = first.checkpoints
    assert 0 < saved["step"] < 40
    (second,) = trained(config, needs=NEEDS, checkpoint=saved)
    for name, value in whole.artifacts["network"].items():
        assert np.array_equal(value, second.artifacts["network"][name]), name
    assert whole.metrics == second.metrics


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_that_was_left_is_the_network_that_was_scored(precision) -> None:
    config = config_of("chess_network", **{**TINY, "precision": precision})
    (recorder,) = trained(config, needs=NEEDS)
    model = network.new(config)
    saving.load(model, recorder.artifacts["network"])
    held = Positions.of(NEEDS["positions"].arrays("held"))
    assert training.evaluate(model.eval(), held) == {
        name: recorder.metrics[name] for name in ("policy_accuracy", "policy_loss", "value_error")
    }


def test_only_legal_moves_count(monkeypatch) -> None:
    """The likeliest move is illegal; of the legal ones a2a3 is likelier than a2a4."""
    row = boards.encode(chess.Board())[None]
    logits = torch.zeros(1, 1858)
    for move, value in {"a1a8": 9.0, "a2a3": 2.0, "a2a4": 1.0}.items():
        logits[0, boards.moves().index(move)] = value
    monkeypatch.setattr(network, "policy", lambda model, rows: (logits, torch.tensor([0.75])))
    for move, wanted in {"a2a3": 1.0, "a2a4": 0.0}.items():
        chances = np.array([[0.5, 0.5, 0.0]], np.float32)  # a score of .5 + .25
        held = Positions(row, np.array([boards.moves().index(move)]), chances, np.array([0]))
        found = training.evaluate(None, held)
        assert (found["policy_accuracy"], found["value_error"]) == (wanted, 0.0)
