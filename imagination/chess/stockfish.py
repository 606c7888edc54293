"""The chess engine whose moves the networks learn. Torch-free."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import chess
import chess.engine

from imagination.chess.config import PositionsConfig
from imagination.schema import ConfigError, RunConfig

_DEBIAN = "/usr/games"  # where Debian puts it, which is not on the PATH of every user
_HASH_MB = 16
_CHANCES: Final = "sf15.1"
"""How a score becomes chances, for every version: the package has the models of few."""


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


def check(configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError if runs with these configs play games, and their version is not installed."""
    for version in {config.stockfish for config in configs if isinstance(config, PositionsConfig)}:
        with _started(version):
            pass


Player = Callable[[chess.Board, int], tuple[chess.Move, chess.engine.Wdl]]
"""The best move of a position in the game of this number, and the player's chances in thousandths."""


@contextmanager
def _started(version: str) -> Iterator[chess.engine.SimpleEngine]:
    path = find()
    try:
        started = chess.engine.SimpleEngine.popen_uci(path)
    except (chess.engine.EngineError, OSError) as error:
        raise ConfigError(
            f"chess_positions: {path} does not start as an engine: {error}; install it again"
        ) from None
    with started as engine:
        name = engine.id.get("name", "")
        if name.split()[-1:] != [version]:
            raise ConfigError(
                f"stockfish: {version} is not the version here, {name or 'unknown'}; install that version, "
                "or set stockfish to the one here"
            )
        yield engine


@contextmanager
def player(*, version: str, nodes: int) -> Iterator[Player]:
    """Starts Stockfish in one thread, with a new memory for every game, so that equal games have equal moves.

    Raises:
        ConfigError: it is not installed, or has another version.
    """
    with _started(version) as engine:
        engine.configure({"Threads": 1, "Hash": _HASH_MB})
        limit = chess.engine.Limit(nodes=nodes)

        def best(board: chess.Board, game: int) -> tuple[chess.Move, chess.engine.Wdl]:
            played = engine.play(board, limit, game=game, info=chess.engine.INFO_SCORE)
            assert played.move is not None
            return played.move, played.info["score"].relative.wdl(model=_CHANCES, ply=board.ply())

        yield best
