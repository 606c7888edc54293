"""Configs of the chess experiments. Torch-free: specs are checked against them on the login node."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from imagination.schema import ConfigError, RunConfig, Scalar, need, plain, require, setting


@dataclass(frozen=True, kw_only=True)
class PositionsConfig(RunConfig):
    """Games that Stockfish plays against itself, after an opening of random moves.

    Attributes:
        stockfish: its version. The games of another version are others.
        nodes: nodes that it searches per move, in one thread.
        games: games whose positions networks learn from.
        held_games: further games, for networks' accuracy, probes and decoders.
        opening: random moves of a game's opening; its positions are left out.
        plies: the most moves of a game after its opening.
    """

    experiment: str = setting("chess_positions", choices=("chess_positions",))
    stockfish: str = setting("15.1")
    nodes: int = setting(1000, low=1)
    games: int = setting(10_000, low=1)
    held_games: int = setting(400, low=1)
    opening: int = setting(8, low=0, high=40)
    plies: int = setting(80, low=4, high=400)

    @property
    @override
    def total_steps(self) -> int:
        return self.games + self.held_games


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(RunConfig):
    """An AlphaZero-style residual network that learns Stockfish's moves.

    Attributes:
        positions: the games that it learns from.
        blocks: residual blocks.
        filters: channels of every block.
        squeeze: width of the squeeze-excitation's hidden layer.
        batch: positions per step.
        max_steps: steps of training.
        lr: peak learning rate of AdamW, which falls linearly to zero after the warm-up.
        warmup: share of `max_steps` over which the rate rises to the peak.
        decay: weight decay.
        value_weight: weight of the value's loss; the policy's weighs 1.
        precision: of the convolutions in training steps; evaluation is always float32.
        trace_every: steps between two points of the traces.
    """

    experiment: str = setting("chess_network", choices=("chess_network",))
    positions: str = need("chess_positions")
    blocks: int = setting(6, low=1, high=100)
    filters: int = setting(64, low=1, high=1024)
    squeeze: int = setting(16, low=1, high=1024)
    batch: int = setting(128, low=1)
    max_steps: int = setting(6000, low=1, high=2**30)
    lr: float = setting(3e-3, above=0)
    warmup: float = setting(0.05, low=0, high=0.9)
    decay: float = setting(1e-4, low=0)
    value_weight: float = setting(0.3, low=0)
    precision: str = setting("bfloat16", choices=("float32", "bfloat16"))
    trace_every: int = setting(50, low=1)

    @property
    @override
    def total_steps(self) -> int:
        return self.max_steps


@dataclass(frozen=True, kw_only=True)
class FrozenConfig(RunConfig):
    """Keys of every experiment on a frozen network.

    Attributes:
        network: the network: a run, or a file in Leela's format.
        positions: its held-out games are used, and no others.
    """

    network: str = need("chess_network", asset=True)
    positions: str = need("chess_positions")

    @override
    def check_needs(self, needed: Mapping[str, Any]) -> None:
        network = needed.get("network")
        if isinstance(network, Path):
            leela = _module("leela")
            self.check_blocks(leela.shape_of(leela.read(network))["blocks"])
        elif network is not None:
            self.check_blocks(network.blocks)

    def check_blocks(self, blocks: int) -> None:
        """Raises ConfigError if the values do not fit a network with so many blocks."""


_LEAST_PENALTY = 1e-4
_OWN: dict[str, Scalar] = {"moves": "network", "ply": 1, "features": "trained"}
_LENS: dict[str, Scalar] = {**_OWN, "shuffled": False, "penalty": 0.0}
_ONLY: dict[str, dict[str, Scalar]] = {
    "move": {"ply": 1},
    "board": {"ply": 1},
    "cause": _OWN,
    "lens": _LENS,
    "tuned": _LENS,
}
"""The only values that make sense with a target."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(FrozenConfig):
    """A closed-form probe of one layer. Runs on one network share a pack, and its forward pass.

    Attributes:
        layer: the layer that it reads: 0 is the first convolution, k the block k.
        features: what it reads: the layer of the `trained` network, of one with `random` weights, the `input` planes
            (`layer` 0), or these and the board after the network's own move (`next`, `layer` 0).
        target: what it says: the square `from` or `to` which a move goes; the `move`, by the scores of its two squares;
            the `board` after it; the network's move by its own policy head on this layer (`lens`), or on the layer
            mapped to the last one (`tuned`); or `cause`: how often the layer, moved along the probes' directions of
            another move, makes the network choose that.
        moves: whose moves it is asked about: those that the `network` would play for both sides, or those that
            `stockfish` plays.
        ply: which of them: 1 the player's own, 2 the reply, 3 the next own one.
        shuffled: whether its training targets are shuffled, which shows what chance gives.
        penalty: of the ridge, in units of the features' mean variance times the number of samples, at least .0001; 0:
            the best of .01, .1, 1 and 10 for prediction.
        share: share of the held-out games that it learns from; the others test it. The seed deals them.
        strength: of `cause`: the length of the added direction, in norms of the layer's deviation from its mean.
        seed: deals the games, and draws random weights, shuffles and directions.
    """

    experiment: str = setting("chess_probe", choices=("chess_probe",))
    layer: int = setting(0, low=0, high=100, packs=True)
    features: str = setting("trained", choices=("trained", "random", "input", "next"))
    target: str = setting(
        "from", choices=("from", "to", "move", "board", "lens", "tuned", "cause"), packs=True
    )
    moves: str = setting("network", choices=("network", "stockfish"), packs=True)
    ply: int = setting(1, low=1, high=3, packs=True)
    shuffled: bool = setting(False, packs=True)
    penalty: float = setting(0.0, low=0, before=0.0, packs=True)
    share: float = setting(0.8, above=0, high=0.95, packs=True)
    strength: float = setting(0.5, above=0, packs=True)

    @override
    def check(self) -> None:
        require(
            self.features not in ("input", "next") or self.layer == 0,
            f"layer: {self.layer} with features '{self.features}', which have no layers; set layer to 0",
            keys=("layer", "features"),
        )
        require(
            self.penalty == 0 or self.penalty >= _LEAST_PENALTY,
            f"penalty: {plain(self.penalty)} is too small for the solver; give 0 or at least {_LEAST_PENALTY}",
            keys=("penalty",),
        )
        for key, only in _ONLY.get(self.target, {}).items():
            given = getattr(self, key)
            require(
                given == only,
                f"{key}: {plain(given)} with target '{self.target}'; set {key} to {plain(only)}",
                keys=(key, "target"),
            )

    @override
    def check_blocks(self, blocks: int) -> None:
        require(
            self.layer <= blocks,
            f"layer: {self.layer} is beyond the network's last block, {blocks}; give a layer from 0 to {blocks}",
            keys=("layer",),
        )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(FrozenConfig):
    """The paper's procedure: a decoder of boards on the frozen network, which all layers share (section 3.3).

    Attributes:
        features: whose layers it decodes: those of the `trained` network, or of one with `random` weights.
        adversary: whether a discriminator makes the boards that are decoded from later layers look real.
        next_board: whether it also learns the board after the move, from the last layer, as in the paper.
        width: channels of the decoder and of the discriminator.
        batch: positions per step.
        max_steps: steps of training.
        lr: learning rate of both.
        adv_weight: weight of the generator's loss; the board's loss weighs 1.
        share: share of the held-out games that it learns from; the others test it.
        fen: the position that figures show; default: the first one of the test.
        trace_every: steps between two points of the trace `loss`.
    """

    experiment: str = setting("chess_decoder", choices=("chess_decoder",))
    features: str = setting("trained", choices=("trained", "random"))
    adversary: bool = setting(True)
    next_board: bool = setting(True)
    width: int = setting(64, low=1, high=1024)
    batch: int = setting(128, low=1)
    max_steps: int = setting(1500, low=1, high=2**30)
    lr: float = setting(2e-3, above=0)
    adv_weight: float = setting(0.1, low=0)
    share: float = setting(0.8, above=0, high=0.95)
    fen: str = setting("")
    trace_every: int = setting(50, low=1)

    @property
    @override
    def total_steps(self) -> int:
        return self.max_steps

    @override
    def check_blocks(self, blocks: int) -> None:
        require(
            blocks > 1,
            "network: its only block is its last one; give a network with layers between the first and the last",
            keys=("network",),
        )

    @override
    def check(self) -> None:
        if self.fen:
            _module("boards").parse(self.fen)


def _module(name: str) -> Any:
    """A module of this folder that knows the rules of chess.

    Raises:
        ConfigError: the package that knows them is not installed.
    """
    try:
        return importlib.import_module(f"imagination.chess.{name}")
    except ImportError as error:
        raise ConfigError(
            f"chess needs a package that is not installed here, {error.name}; pip install imagine-sweep[chess]"
        ) from None


_TINY_GAMES: dict[str, Scalar] = {"nodes": 20, "games": 40, "held_games": 20, "opening": 1, "plies": 12}
_TINY: dict[str, Scalar] = {
    "blocks": 2,
    "filters": 16,
    "squeeze": 4,
    "batch": 64,
    "max_steps": 250,
    "lr": 1e-2,
    "precision": "float32",
}
# For tests: after one random move few games differ, so that a small network knows most positions in seconds.

POSITIONS_PRESETS: dict[str, dict[str, Scalar]] = {"full": {}, "tiny": _TINY_GAMES}
NETWORK_PRESETS: dict[str, dict[str, Scalar]] = {"small": {}, "tiny": _TINY}
DECODER_PRESETS: dict[str, dict[str, Scalar]] = {
    "paper": {},
    "tiny": {"width": 8, "batch": 32, "max_steps": 30, "trace_every": 10},
}
