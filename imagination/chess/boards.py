"""Positions as rows of small numbers, as a network's input planes, and moves as indices of Leela's policy.

Everything is seen by the player to move: a black player's board is turned upside down and its colours are swapped.
Squares count from 0 (a1) by files, then ranks, to 63 (h8). The rules are those of the package `chess`.

A row is uint8 `[68]`: a class for each square (0: empty; 1 to 6: own pawn, knight, bishop, rook, queen, king; 7 to 12:
the opponent's), then what `CASTLING`, `EN_PASSANT`, `CLOCK` and `BLACK` name.
"""

from functools import cache

import chess
import numpy as np
from numpy.typing import NDArray

from imagination.schema import ConfigError

Rows = NDArray[np.uint8]

CLASSES = 13
CASTLING, EN_PASSANT, CLOCK, BLACK = 64, 65, 66, 67
"""Columns of a row: bits for the castling rights (own queen's side, own king's side, the opponent's), the square of an
en-passant capture (64: none), plies since a capture or pawn's move, and whether black moves."""
ROW = 68
NONE = 64

PLANES = 18
"""Input planes of our networks: 12 kinds of pieces, 4 castling rights, en passant, and ones (the board's edges)."""
LEELA_PLANES = 112
"""Those of Leela's networks: 8 boards of 13 planes, then 8 of castling, colour, clock, zeros and ones."""

POLICY_PLANES = 80
"""Planes of the policy's last convolution; the moves are in the first 73."""

_RIGHTS = (chess.BB_A1, chess.BB_H1, chess.BB_A8, chess.BB_H8)
_PROMOTIONS = {chess.QUEEN: "q", chess.ROOK: "r", chess.BISHOP: "b"}  # a knight is the move without a letter


def parse(fen: str) -> chess.Board:
    """The position of a FEN.

    Raises:
        ConfigError: it is none, or describes a position that cannot be played.
    """
    try:
        board = chess.Board(fen)
    except ValueError as error:
        raise ConfigError(f"fen: '{fen}' is no FEN ({error})", key="fen") from None
    if not board.is_valid() or not any(board.legal_moves):
        raise ConfigError(f"fen: '{fen}' is no position in which a legal move exists", key="fen")
    return board


def squares(board: chess.Board, player: chess.Color) -> Rows:
    """The classes `[64]` of the board's squares, as this player sees them."""
    flip = 0 if player == chess.WHITE else 56
    found = np.zeros(64, np.uint8)
    for square, piece in board.piece_map().items():
        found[square ^ flip] = piece.piece_type + (0 if piece.color == player else 6)
    return found


def encode(board: chess.Board) -> Rows:
    """The row of a position."""
    seen = board if board.turn == chess.WHITE else board.mirror()
    passing = seen.ep_square if seen.has_legal_en_passant() else None
    rights = sum(1 << bit for bit, rook in enumerate(_RIGHTS) if seen.clean_castling_rights() & rook)
    rest = [rights, NONE if passing is None else passing, min(seen.halfmove_clock, 255), not board.turn]
    return np.append(squares(board, board.turn), np.array(rest, np.uint8))


def decode(row: Rows) -> chess.Board:
    """The position of a row, with white to move."""
    board = chess.Board(None)
    for square in np.flatnonzero(row[:64]):
        kind = int(row[square])
        board.set_piece_at(int(square), chess.Piece((kind - 1) % 6 + 1, kind <= 6))
    board.castling_rights = sum(rook for bit, rook in enumerate(_RIGHTS) if row[CASTLING] >> bit & 1)
    board.ep_square = None if row[EN_PASSANT] == NONE else int(row[EN_PASSANT])
    board.halfmove_clock = int(row[CLOCK])
    return board


def turned(classes: Rows) -> Rows:
    """Squares `[..., 64]` as the other player sees them."""
    upside_down = classes.reshape(*classes.shape[:-1], 8, 8)[..., ::-1, :].reshape(classes.shape)
    return np.where(upside_down == 0, 0, (upside_down + 5) % 12 + 1).astype(np.uint8)


def filled(now: Rows, before: Rows, after: Rows) -> NDArray[np.bool_]:
    """The squares `[..., 64]` where a move puts a piece. Neither an empty board nor the present one is right there.

    Args:
        now: the present board.
        before: the board before the move: the present one, or one that follows.
        after: the board after it.
    """
    found: NDArray[np.bool_] = (before != after) & (after != 0) & (after != now)
    return found


def usual(squares: Rows) -> Rows:
    """The most frequent class of each square, `[64]`, in boards `[N, 64]`."""
    counts = (squares[..., None] == np.arange(CLASSES, dtype=np.uint8)).sum(0)
    found: Rows = counts.argmax(1).astype(np.uint8)
    return found


@cache
def _directions() -> dict[tuple[int, int, str], int]:
    """The planes of a convolutional policy by files and ranks of a move, and its promotion.

    They are each direction of a queen with each distance, a knight's jumps, and promotions other than to a knight.
    """
    queen = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    knight = [(1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2)]
    planes = [(x * n, y * n, "") for x, y in queen for n in range(1, 8)]
    planes += [(x, y, "") for x, y in knight]
    planes += [(x, 1, letter) for x in (-1, 0, 1) for letter in "rbq"]
    return {direction: plane for plane, direction in enumerate(planes)}


@cache
def moves() -> tuple[str, ...]:
    """The 1858 moves of Leela's policy, in its order: those of queens and knights, then promotions."""
    names = chess.SQUARE_NAMES
    pairs = [(start, end) for start in range(64) for end in range(64)]
    plain = [names[one] + names[two] for one, two in pairs if (*_shift(one, two), "") in _directions()]
    last = [(one, two) for one, two in pairs if one // 8 == 6 and two // 8 == 7 and abs(one + 8 - two) < 2]
    return (*plain, *(names[one] + names[two] + letter for one, two in last for letter in "qrb"))


def _shift(start: int, end: int) -> tuple[int, int]:
    return end % 8 - start % 8, end // 8 - start // 8


@cache
def _indices() -> dict[str, int]:
    return {move: index for index, move in enumerate(moves())}


@cache
def ends() -> NDArray[np.int64]:
    """The squares `[1858, 2]` from and to which the moves go; castling goes to its rook's square."""
    return np.array([[chess.parse_square(move[:2]), chess.parse_square(move[2:4])] for move in moves()])


def index(board: chess.Board, move: chess.Move) -> int:
    """The policy index of a legal move. Castling is the king's move to its rook's square."""
    end = move.to_square
    if board.is_castling(move):
        end = chess.square(7 if chess.square_file(end) == 6 else 0, chess.square_rank(end))
    flip = 0 if board.turn == chess.WHITE else 56
    letter = _PROMOTIONS.get(move.promotion, "") if move.promotion else ""
    return _indices()[chess.square_name(move.from_square ^ flip) + chess.square_name(end ^ flip) + letter]


def legal(row: Rows) -> dict[int, chess.Move]:
    """The legal moves of a position by policy index, as moves of `decode(row)`."""
    board = decode(row)
    return {index(board, move): move for move in board.legal_moves}


def legal_masks(rows: Rows) -> NDArray[np.bool_]:
    """Whether each move of the policy is legal, `[N, 1858]`."""
    masks = np.zeros((len(rows), len(moves())), np.bool_)
    for mask, row in zip(masks, rows, strict=True):
        mask[list(legal(row))] = True
    return masks


def successors(row: Rows) -> dict[int, Rows]:
    """The squares `[64]` after every legal move, by policy index, as the player sees them who moved."""
    board = decode(row)
    found = {}
    for number, move in legal(row).items():
        board.push(move)
        found[number] = squares(board, chess.WHITE)
        board.pop()
    return found


def played(row: Rows, move: chess.Move) -> Rows:
    """The position after one of the `legal` moves, as the player sees it who moves next."""
    board = decode(row)
    board.push(move)
    found = encode(board)
    found[BLACK] = not row[BLACK]
    return found


def policy_map() -> NDArray[np.int64]:
    """Where each move is in the output of a convolutional policy, as index `[1858]` into its planes `[80, 8, 8]`.

    The plane is the move's direction, the square in it the move's first.
    """
    found = [
        _directions()[(*_shift(start, end), move[4:])] * 64 + start
        for move, (start, end) in zip(moves(), ends().tolist(), strict=True)
    ]
    return np.array(found)


def planes(rows: Rows) -> NDArray[np.float32]:
    """The input of our networks, `[N, 18, 8, 8]`."""
    found = np.zeros((len(rows), PLANES, 64), np.float32)
    found[:, :12] = pieces(rows[:, :64])
    found[:, 12:16] = (rows[:, CASTLING, None, None] >> np.arange(4)[:, None]) & 1
    found[:, 16] = rows[:, EN_PASSANT, None] == np.arange(64)
    found[:, 17] = 1
    return found.reshape(len(rows), PLANES, 8, 8)


def leela_planes(rows: Rows) -> NDArray[np.float32]:
    """The input of Leela's networks, `[N, 112, 8, 8]`, without earlier boards: as lc0 does for a FEN.

    The present board stands in their places, without the pawn's move that an en-passant capture answers. For the first
    position of a game they are empty.
    """
    found = np.zeros((len(rows), LEELA_PLANES, 64), np.float32)
    now = pieces(rows[:, :64])
    earlier = now.copy()
    (passing,) = np.nonzero(rows[:, EN_PASSANT] != NONE)
    target = rows[passing, EN_PASSANT].astype(
        np.int64
    )  # the pawn went from the square above it to the one below
    earlier[passing, 6, target - 8] = 0
    earlier[passing, 6, target + 8] = 1
    first = (rows[:, :64] == squares(chess.Board(), chess.WHITE)).all(1) & (rows[:, CASTLING] == 15)
    earlier[first & (rows[:, BLACK] == 0)] = 0
    for board in range(8):
        found[:, 13 * board : 13 * board + 12] = earlier if board else now
    found[:, 104:108] = (rows[:, CASTLING, None, None] >> np.arange(4)[:, None]) & 1
    found[:, 108] = rows[:, BLACK, None]
    found[:, 109] = rows[:, CLOCK, None]
    found[:, 111] = 1
    return found.reshape(len(rows), LEELA_PLANES, 8, 8)


def pieces(classes: Rows) -> NDArray[np.float32]:
    """A plane for each kind of piece, `[N, 12, 64]`, of squares `[N, 64]`."""
    same: NDArray[np.bool_] = classes[:, None] == np.arange(1, CLASSES)[:, None]
    return same.astype(np.float32)
