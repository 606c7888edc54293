"""Rows, planes and policy indices of chess positions, against values derived by hand."""

import itertools

import chess
import numpy as np
import pytest

from imagination.chess import boards
from imagination.chess.config import DecoderConfig
from imagination.schema import ConfigError, build

E4 = "rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1"
PASSING = "4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2"
BACK_RANK = [4, 2, 3, 5, 6, 3, 2, 4]  # rook, knight, bishop, queen, king, bishop, knight, rook


def test_the_first_position() -> None:
    row = boards.encode(chess.Board())
    opponents = [kind + 6 for kind in BACK_RANK]
    assert row[:64].tolist() == [*BACK_RANK, *[1] * 8, *[0] * 32, *[7] * 8, *opponents]
    assert row[64:].tolist() == [15, boards.NONE, 0, 0]  # all four castling rights, nothing else


def test_black_sees_the_board_from_its_own_side() -> None:
    row = boards.encode(chess.Board(E4))
    assert row[:8].tolist() == BACK_RANK  # its own pieces are below, its queen left of its king
    # White's pawn on e4 is the opponent's on the fifth rank: file 4 of rank 4.
    assert row[4 * 8 + 4] == 7
    assert row[boards.BLACK] == 1


@pytest.mark.parametrize("fen", [chess.STARTING_FEN, E4, PASSING, "r3k2r/8/8/8/8/8/8/R3K2R b Kq - 3 9"])
def test_a_row_is_decoded_to_the_position_as_white(fen: str) -> None:
    board = chess.Board(fen)
    seen = board if board.turn else board.mirror()
    back = boards.decode(boards.encode(board))
    assert back.board_fen() == seen.board_fen()
    assert (back.castling_rights, back.ep_square) == (seen.castling_rights, seen.ep_square)
    assert set(back.legal_moves) == set(seen.legal_moves)


def test_turned_is_what_the_other_player_sees() -> None:
    board = chess.Board(E4)
    black, white = boards.squares(board, chess.BLACK), boards.squares(board, chess.WHITE)
    assert boards.turned(black).tolist() == white.tolist()
    assert boards.turned(boards.turned(black)).tolist() == black.tolist()


def test_the_policy_has_the_moves_of_leela_in_its_order() -> None:
    """The checksum of lc0's list, each move followed by a newline, by FNV-1a in 64 bits."""
    assert len(boards.moves()) == 1858
    digest = 0xCBF29CE484222325
    for byte in "".join(f"{move}\n" for move in boards.moves()).encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    assert digest == 0x32DCAF215253E599


@pytest.mark.parametrize(
    ("fen", "move", "wanted"),
    [
        (chess.STARTING_FEN, "e2e4", "e2e4"),
        (E4, "e7e5", "e2e4"),  # black's, from its own side
        ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1g1", "e1h1"),  # castling goes to the rook
        ("r3k2r/8/8/8/8/8/8/R3K2R b KQkq - 0 1", "e8c8", "e1a1"),
        ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1f1", "e1f1"),
        ("7k/P7/8/8/8/8/8/7K w - - 0 1", "a7a8q", "a7a8q"),
        ("7k/P7/8/8/8/8/8/7K w - - 0 1", "a7a8n", "a7a8"),  # a knight has no letter
        ("7K/8/8/8/8/8/p7/7k b - - 0 1", "a2a1b", "a7a8b"),
        (PASSING, "e5d6", "e5d6"),
    ],
)
def test_moves_of_the_policy(fen: str, move: str, wanted: str) -> None:
    board = chess.Board(fen)
    index = boards.index(board, chess.Move.from_uci(move))
    assert boards.moves()[index] == wanted
    assert index in boards.legal(boards.encode(board))


def test_the_legal_moves_of_the_first_position() -> None:
    # 16 moves of pawns and 4 of knights.
    (mask,) = boards.legal_masks(boards.encode(chess.Board())[None])
    found = {boards.moves()[index] for index in np.flatnonzero(mask)}
    pawns = {f"{file}2{file}{rank}" for file in "abcdefgh" for rank in "34"}
    assert found == pawns | {"b1a3", "b1c3", "g1f3", "g1h3"}


def test_the_board_after_a_move_is_seen_by_the_player_who_moved() -> None:
    found = boards.successors(boards.encode(chess.Board()))
    assert len(found) == 20
    assert (
        found[boards.moves().index("e2e4")].tolist() == boards.squares(chess.Board(E4), chess.WHITE).tolist()
    )


def test_where_moves_are_in_a_convolutional_policy() -> None:
    places = boards.policy_map()
    assert len(set(places.tolist())) == 1858

    def place(move: str) -> tuple[int, int]:
        plane, square = divmod(int(places[boards.moves().index(move)]), 64)
        return plane, square

    assert place("e2e4") == (1, 12)  # north, distance 2, is the second plane; e2 is file 4 of rank 1
    assert place("h8a1") == (5 * 7 + 6, 63)  # south-west is the sixth direction; distance 7
    assert place("g1f3") == (56 + 7, 6)  # the last of the 8 jumps: one to the left, two up
    assert place("b7a8r") == (64, 49)  # promotions after 56 + 8 planes: to the left first, the rook first
    assert place("h7h8q") == (64 + 3 + 2, 55)


def test_planes() -> None:
    (found,) = boards.planes(boards.encode(chess.Board(PASSING))[None])
    assert found.shape == (18, 8, 8)
    assert found[0].nonzero()[0].tolist() == [4]  # the own pawn on e5
    assert found[6, 4, 3] == 1  # the opponent's pawn on d5
    assert found[12:16].sum() == 0  # no castling
    assert np.argwhere(found[16]).tolist() == [[5, 3]]  # d6
    assert found[17].all()


def test_leelas_planes() -> None:
    fens = [chess.STARTING_FEN, E4, PASSING, "r3k2r/8/8/8/8/8/8/R3K2R b Kq - 3 9"]
    first, second, passing, castling = boards.leela_planes(
        np.array([boards.encode(chess.Board(f)) for f in fens])
    )
    assert first[0, 1].all()  # own pawns on the second rank
    assert first[0].sum() == first[6].sum() == 8
    assert first[13:104].sum() == 0  # nothing came before
    assert first[104:112].sum((1, 2)).tolist() == [64, 64, 64, 64, 0, 0, 0, 64]
    assert np.array_equal(second[:12], second[91:103])  # the same board eight times, without repetitions
    assert second[108].all()  # black moves
    assert passing[6, 4, 3] == 1  # now on d5
    assert (passing[13 + 6, 4, 3], passing[13 + 6, 6, 3]) == (0, 1)  # before, on d7
    # Black has castling on the queen's side (q), white on the king's (K), and three plies passed.
    assert castling[104:108].any((1, 2)).tolist() == [True, False, False, True]
    assert (castling[109] == 3).all()


@pytest.mark.parametrize("fen", ["what", "8/8/8/8/8/8/8/8 w - - 0 1", "7k/5Q2/6K1/8/8/8/8/8 b - - 0 1"])
def test_a_fen_that_is_none_or_has_no_move_is_refused(fen: str) -> None:
    given = {"network": "0" * 64, "positions": "0" * 64}
    with pytest.raises(ConfigError, match=f"fen: '{fen}' is no "):
        build(DecoderConfig, {**given, "fen": fen})


def test_a_move_fills_the_square_that_it_goes_to_unless_the_present_board_has_that_piece_there() -> None:
    """A pawn takes a pawn, and a pawn takes back: where the second one lands, the board is as it was."""
    game = chess.Board("4k3/5p2/4p3/3P4/8/8/8/4K3 w - - 0 1")
    seen = [boards.squares(game, chess.WHITE)]
    for move in ("d5e6", "f7e6", "e1e2"):
        game.push_uci(move)
        seen.append(boards.squares(game, chess.WHITE))
    names = [
        [chess.square_name(int(at)) for at in np.flatnonzero(boards.filled(seen[0], before, after))]
        for before, after in itertools.pairwise(seen)
    ]
    assert names == [["e6"], [], ["e2"]]


@pytest.mark.parametrize("fen", [E4, PASSING, chess.STARTING_FEN])
def test_a_position_after_a_move_is_that_of_the_package_seen_by_the_other_player(fen) -> None:
    """The row, and so the planes of every network, among them Leela's plane of the colour."""
    board = chess.Board(fen)
    row = boards.encode(board)
    for number, seen in boards.legal(row).items():
        (move,) = (move for move in board.legal_moves if boards.index(board, move) == number)
        board.push(move)
        assert boards.played(row, seen).tolist() == boards.encode(board).tolist()
        board.pop()
