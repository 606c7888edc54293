"""`chess_positions`: games of Stockfish against itself, as rows of positions with the moves that it plays."""

from dataclasses import dataclass
from typing import Any

import chess
import numpy as np
from numpy.typing import NDArray

from imagination.chess import boards
from imagination.chess.config import PositionsConfig
from imagination.chess.stockfish import Player, player
from imagination.function import FunctionRecorder
from imagination.recorder import Arrays

_PLAYED, _HELD = 0, 1
"""Streams of random openings. A game depends on the seed, its stream and its number alone."""


@dataclass(frozen=True)
class Positions:
    """The positions of games, in the order of play.

    Attributes:
        rows: uint8 `[N, 68]`, see `boards`.
        moves: int64 `[N]`, the policy index of the move that Stockfish plays.
        chances: float32 `[N, 3]`, of the player's win, draw and loss, as Stockfish sees them.
        games: int64 `[N]`, the number of the game.
    """

    rows: boards.Rows
    moves: NDArray[np.int64]
    chances: NDArray[np.float32]
    games: NDArray[np.int64]

    @classmethod
    def of(cls, arrays: Arrays) -> "Positions":
        """From the arrays of an artifact."""
        named: dict[str, Any] = {name: arrays[name] for name in ("rows", "moves", "chances", "games")}
        return cls(**named)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the arrays of an artifact."""
        return vars(self)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> "Positions":
        return Positions(**{name: value[which] for name, value in vars(self).items()})

    def followed(self, plies: int) -> NDArray[np.int64]:
        """The indices of the positions after which the game has this many more."""
        last = np.arange(len(self)) + plies < len(self)
        same = np.roll(self.games, -plies) == self.games
        return np.flatnonzero(last & same)

    def after(self, at: NDArray[np.int64], ply: int) -> boards.Rows:
        """The boards `[N, 64]` this many plies after some positions, as the players see them who move there."""
        found = self.rows[at + ply, :64]
        return boards.turned(found) if ply % 2 else found


def run(config: PositionsConfig, recorder: FunctionRecorder) -> None:
    """Plays the games, and leaves the artifacts `played` and `held`."""
    found = {name: np.asarray(value) for name, value in (recorder.restored or _nothing()).items()}
    with player(version=config.stockfish, nodes=config.nodes) as stockfish:
        for number in range(int(found["step"]), config.total_steps):
            recorder.checkpoint(found)
            stream, game = (_PLAYED, number) if number < config.games else (_HELD, number - config.games)
            rng = np.random.default_rng([config.seed, stream, game])
            played = _play(stockfish, config, rng=rng, number=number)
            for name, values in played.arrays().items():
                found[name] = np.concatenate([found[name], values])
            found["step"] = np.array(number + 1)
            recorder.progress(number + 1, {"positions": len(found["rows"])})
    every = Positions.of(found)
    held = every.games >= config.games
    recorder.artifact("played", every[~held].arrays())
    recorder.artifact("held", every[held].arrays())
    seen = {row.tobytes() for row in every.rows[~held, : boards.CLOCK]}
    recorder.metric("played", len(every) - held.sum())
    recorder.metric("held_out", held.sum())
    again = [row.tobytes() in seen for row in every.rows[held, : boards.CLOCK]]
    recorder.metric("repeated", sum(again) / len(again))


def _nothing() -> Arrays:
    rows, chances = np.zeros((0, boards.ROW), np.uint8), np.zeros((0, 3), np.float32)
    empty = np.zeros(0, np.int64)
    return {"step": np.array(0), **Positions(rows, empty, chances, empty).arrays()}


def _play(stockfish: Player, config: PositionsConfig, *, rng: np.random.Generator, number: int) -> Positions:
    """One game after an opening of random moves; the opening's positions are left out."""
    board = _opening(config.opening, rng)
    rows: list[boards.Rows] = []
    moves: list[int] = []
    chances: list[list[float]] = []
    while len(moves) < config.plies and not board.is_game_over(claim_draw=True):
        move, wdl = stockfish(board, number)
        rows.append(boards.encode(board))
        moves.append(boards.index(board, move))
        chances.append([part / wdl.total() for part in wdl])
        board.push(move)
    return Positions(
        np.array(rows), np.array(moves), np.array(chances, np.float32), np.full(len(moves), number)
    )


def _opening(plies: int, rng: np.random.Generator) -> chess.Board:
    """A position after this many random moves, in which the game goes on."""
    while True:
        board = chess.Board()
        for _ in range(plies):
            legal = list(board.legal_moves)
            if not legal:
                break
            board.push(legal[rng.integers(len(legal))])
        if not board.is_game_over(claim_draw=True):
            return board
