"""The chess experiments, as the rest of the program knows them. Torch-free."""

from typing import Any

from imagination.chess.config import (
    DECODER_PRESETS,
    NETWORK_PRESETS,
    POSITIONS_PRESETS,
    DecoderConfig,
    NetworkConfig,
    PositionsConfig,
    ProbeConfig,
)
from imagination.declaration import Command, Declaration, Gate

_PICTURES: dict[str, Any] = {
    "figures": {
        "chess-boards": Command(
            "imagination.chess.figures:chess_boards",
            "Draw a position of a chess_decoder run, the boards that it decodes from each layer, and the boards that "
            "follow.",
        ),
        "chess-heat": Command(
            "imagination.chess.figures:chess_heat",
            "Draw what a probe of `from` or `to` says of each square of one position; a frame marks the right square.",
        ),
    },
    "analyses": {
        "chess-layers": Command(
            "imagination.chess.figures:LAYERS",
            "Print and draw what chess probes and decoders find in each layer, with intervals over runs.",
        )
    },
}

_FOLLOWING = {
    "own": "the board after the network's own move",
    **{str(ply): f"the board after ply {ply} of Stockfish's line" for ply in (1, 2, 3)},
}

_READY = "imagination.chess.stockfish:check"
"""All chess runs need the package `chess`, which this imports; those that play games need Stockfish, too."""

POSITIONS = Declaration(
    name="chess_positions",
    config=PositionsConfig,
    presets=POSITIONS_PRESETS,
    cells=("nodes", "games"),
    shown=("played", "held_out", "repeated"),
    metrics={
        "played": "positions of the games that networks learn from",
        "held_out": "positions of the held-out games",
        "repeated": "share of the held-out positions that also occur in the other games",
    },
    function="imagination.chess.positions:run",
    ready=_READY,
)

NETWORK = Declaration(
    name="chess_network",
    config=NetworkConfig,
    presets=NETWORK_PRESETS,
    cells=("blocks", "filters"),
    shown=("policy_accuracy", "value_error"),
    metrics={
        "policy_accuracy": "share of held-out positions where the best legal move is Stockfish's",
        "policy_loss": "cross-entropy of Stockfish's move on held-out positions, in nats",
        "value_error": "mean distance of the expected score from Stockfish's, from 0 to 1",
        "steps": "training steps when the run ended",
    },
    gate=Gate("policy_accuracy", 0.28),
    function="imagination.chess.training:run",
    ready=_READY,
)

PROBE = Declaration(
    name="chess_probe",
    config=ProbeConfig,
    cells=("target", "moves", "ply", "features", "shuffled", "penalty", "strength", "share", "layer"),
    shown=("probe_accuracy", "filled", "successor", "flips", "flips_other"),
    metrics={
        "probe_accuracy": "share of right squares; lens, tuned: of positions where the move is Stockfish's",
        "usual": "the same for always saying the most frequent square, or for repeating the board",
        "filled": "board: share of right squares among those where the move puts a piece (repeating the board has 0)",
        "filled_usual": "the same for a board that is the same everywhere, of each square's most frequent class",
        "successor": "move, board: how often the right move, or the board after it, ranks above all other legal ones",
        "successor_mrr": "its mean reciprocal rank",
        "chance": "how often a random legal move is right",
        "chance_mrr": "the mean reciprocal rank of a random order",
        "agreement": "lens, tuned: share of positions where the move is the network's own",
        "flips": "cause: how often the network chooses another move when the layer is moved towards that move",
        "flips_other": "the same when the layer is moved towards a third move",
        "flips_random": "the same with random directions of equal length",
    },
    runner="imagination.chess.probe:RUNNER",
    ready=_READY,
    numbers="imagination.chess.paper:PAPER",
    **_PICTURES,
    pack=200,
)

DECODER = Declaration(
    name="chess_decoder",
    config=DecoderConfig,
    presets=DECODER_PRESETS,
    cells=("features", "adversary", "next_board"),
    shown=("filled_own", "filled_usual_own", "filled_last", "squares_own", "copy_own"),
    metrics={
        "present": "share of right squares of the present board, decoded from the first layer",
        "best_layer": "the layer between the first and the last that is best on learned positions",
        "filled_last": "`filled_own` at the last layer, which is trained on that board",
        **{
            name.format(which): line.format(board)
            for which, board in _FOLLOWING.items()
            for name, line in {
                "filled_{}": "right squares of {} among those where its last move puts a piece, at `best_layer`",
                "filled_usual_{}": "the same for one board for all positions, of each square's most frequent class",
                "squares_{}": "share of right squares of {}, at `best_layer`",
                "copy_{}": "the share of right squares that repeating the present board has of {}",
            }.items()
        },
        "steps": "training steps when the run ended",
    },
    function="imagination.chess.decoder:run",
    ready=_READY,
    numbers="imagination.chess.paper:PAPER",
    **_PICTURES,
)
