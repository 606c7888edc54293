"""Games of a real Stockfish: the same seed gives the same positions, also after an interruption."""

import itertools
import sys
from pathlib import Path

import chess
import numpy as np
import pytest
from chess_helpers import config_of, needs_stockfish, trained
from training_helpers import MemoryRecorder

from imagination.chess import boards, stockfish
from imagination.chess.positions import Positions
from imagination.schema import ConfigError

pytestmark = needs_stockfish

SMALL = {"games": 4, "held_games": 3, "nodes": 30, "plies": 12}


@pytest.fixture(scope="module")
def played() -> MemoryRecorder:
    (recorder,) = trained(config_of("chess_positions", **SMALL))
    return recorder


def test_the_same_seed_gives_the_same_positions_and_another_seed_others(played) -> None:
    (again,) = trained(config_of("chess_positions", **SMALL))
    (other,) = trained(config_of("chess_positions", **SMALL, seed=1))
    for name in ("played", "held"):
        for key, values in played.artifacts[name].items():
            assert np.array_equal(values, again.artifacts[name][key]), (name, key)
        assert not np.array_equal(played.artifacts[name]["rows"], other.artifacts[name]["rows"])


def test_an_interrupted_run_goes_on_with_the_next_game(played) -> None:
    asked = itertools.count()
    (first,) = trained(config_of("chess_positions", **SMALL), stop=lambda: next(asked) > 2)
    (saved,) = first.checkpoints
    assert 0 < saved["step"] < 7
    (second,) = trained(config_of("chess_positions", **SMALL), checkpoint=saved)
    assert len(second.progressed) == 7 - saved["step"]
    for name in ("played", "held"):
        for key, values in played.artifacts[name].items():
            assert np.array_equal(values, second.artifacts[name][key]), (name, key)


def test_each_position_follows_by_the_move_of_the_one_before(played) -> None:
    every = [Positions.of(played.artifacts[name]) for name in ("played", "held")]
    assert [np.unique(one.games).tolist() for one in every] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [played.metrics[name] for name in ("played", "held_out")] == [len(one) for one in every]
    for positions in every:
        assert np.allclose(positions.chances.sum(1), 1)
        for at in positions.followed(1):
            following = boards.turned(positions.rows[at + 1, :64])
            assert np.array_equal(boards.successors(positions.rows[at])[positions.moves[at]], following)


def test_followed_keeps_to_the_game() -> None:
    games = np.array([0, 0, 0, 1, 1])
    positions = Positions(np.zeros((5, boards.ROW), np.uint8), games, np.zeros((5, 3), np.float32), games)
    assert positions.followed(1).tolist() == [0, 1, 3]
    assert positions.followed(2).tolist() == [0]


def test_stockfish_takes_the_queen() -> None:
    # Black's queen on d5 is attacked by the rook on d1, and nothing protects it.
    with stockfish.player(version="15.1", nodes=500) as player:
        move, chances = player(chess.Board("7k/8/8/3q4/8/8/6PP/3R3K w - - 0 1"), 0)
    assert move.uci() == "d1d5"
    assert chances.wins > 900


def test_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^stockfish: 9\.9 is not the version here, Stockfish \S+;"):
        trained(config_of("chess_positions", **SMALL, stockfish="9.9"))


def test_only_runs_that_play_games_need_stockfish(monkeypatch) -> None:
    stockfish.check([config_of("chess_positions")])
    with pytest.raises(ConfigError, match=r"^stockfish: 9\.9 is not the version here"):
        stockfish.check([config_of("chess_positions"), config_of("chess_positions", stockfish="9.9")])
    monkeypatch.setattr(stockfish, "find", lambda: pytest.fail("it was looked for"))
    stockfish.check([config_of("chess_network"), config_of("chess_probe"), config_of("chess_decoder")])


def test_a_machine_without_stockfish_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(stockfish, "_DEBIAN", "/nowhere")
    with pytest.raises(ConfigError, match="sudo apt-get install stockfish"):
        stockfish.check([config_of("chess_positions")])


def test_a_program_that_is_no_engine_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(stockfish, "find", lambda: "/bin/true")
    with pytest.raises(ConfigError, match="/bin/true does not start as an engine"):
        stockfish.check([config_of("chess_positions")])


@pytest.mark.parametrize("values", [{"fen": chess.STARTING_FEN}, {}])
def test_without_the_rules_of_chess_a_spec_is_one_line(monkeypatch, values) -> None:
    """Such as on a login node, for a spec that names a position or a file of Leela."""
    for name in ("boards", "leela"):
        monkeypatch.delitem(sys.modules, f"imagination.chess.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "chess", None)

    def checked() -> None:
        config_of("chess_decoder", **values).check_needs({"network": Path("a.pb.gz")})

    with pytest.raises(ConfigError, match=r"not installed here, chess; pip install imagine-sweep\[chess\]"):
        checked()
