"""The chess engine whose moves the networks learn. Torch-free."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import chess
import chess.engine

from imagination.schema import ConfigError

_DEBIAN = "/usr/games"  # where Debian puts it, which is not on the PATH of every user
_HASH_MB = 16


def find() -> str:
    """The path of the program.

    Raises:
        ConfigError: it is not installed.
    """
    path = shutil.which("stockfish", path=os.pathsep.join([os.environ.get("PATH", ""), _DEBIAN]))
    if path is None:
        raise ConfigError(
            "chess_positions needs Stockfish, which is not installed here; "
            "on Debian or Ubuntu: sudo apt-get install stockfish"
        )
    return path


def check() -> None:
    """Raises ConfigError if it is not installed."""
    find()


class Player:
    """Stockfish in one thread, with a new memory for every game; so equal games have equal moves."""

    def __init__(self, engine: chess.engine.SimpleEngine, *, nodes: int) -> None:
        self._engine, self._limit = engine, chess.engine.Limit(nodes=nodes)

    def best(self, board: chess.Board, game: int) -> tuple[chess.Move, chess.engine.Wdl]:
        """The move that it plays, and how it sees the player's chances of a win, a draw and a loss, in thousandths."""
        played = self._engine.play(board, self._limit, game=game, info=chess.engine.INFO_SCORE)
        assert played.move is not None
        return played.move, played.info["score"].relative.wdl(model="sf15.1", ply=board.ply())


@contextmanager
def player(*, version: str, nodes: int) -> Iterator[Player]:
    """Starts Stockfish, and ends it.

    Raises:
        ConfigError: it is not installed, or has another version.
    """
    with chess.engine.SimpleEngine.popen_uci(find()) as engine:
        name = engine.id.get("name", "")
        if name.split()[-1:] != [version]:
            raise ConfigError(
                f"stockfish: {version} is not the version here, {name or 'unknown'}; install that version, "
                "or set stockfish to the one here"
            )
        engine.configure({"Threads": 1, "Hash": _HASH_MB})
        yield Player(engine, nodes=nodes)
