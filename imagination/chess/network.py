"""Residual networks with squeeze-excitation, as AlphaZero and Leela have them: ours, and those of Leela's files."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from imagination import saving
from imagination.chess import boards, leela
from imagination.chess.config import NetworkConfig
from imagination.runner import Needed

OVER = -1
"""The move where none is legal: the game has ended in mate or stalemate."""

AT_ONCE = 512
"""Positions that are evaluated in one forward pass."""
VALUE_PLANES, VALUE_WIDTH = 32, 128


class Block(nn.Module):
    """Two convolutions, squeeze-excitation, and the sum with the block's input."""

    def __init__(self, filters: int, squeeze: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _convolution(filters, filters), _convolution(filters, filters)
        self.squeeze, self.excite = nn.Linear(filters, squeeze), nn.Linear(squeeze, 2 * filters)

    @override
    def forward(self, x: Tensor) -> Tensor:
        found = self.conv2(F.relu(self.conv1(x)))
        scale, shift = self.excite(F.relu(self.squeeze(found.mean((2, 3)))))[..., None, None].chunk(2, 1)
        return F.relu(torch.sigmoid(scale) * found + shift + x)


class Network(nn.Module):
    """A network from input planes to the policy `[N, 1858]` and the value's logits `[N, 3]` (win, draw, loss).

    Layer 0 is the first convolution's output, layer k that of block k; each is `[N, filters, 8, 8]`.
    """

    places: Tensor

    def __init__(
        self,
        *,
        planes: int = boards.PLANES,
        blocks: int,
        filters: int,
        squeeze: int,
        value_planes: int = VALUE_PLANES,
        value_width: int = VALUE_WIDTH,
        values: int = 3,
    ) -> None:
        super().__init__()
        self.planes, self.filters = planes, filters
        self.input = _convolution(planes, filters)
        self.blocks = nn.ModuleList(Block(filters, squeeze) for _ in range(blocks))
        self.policy1 = _convolution(filters, filters)
        self.policy = nn.Conv2d(filters, boards.POLICY_PLANES, 3, padding=1)
        self.value = _convolution(filters, value_planes, kernel=1)
        self.value1, self.value2 = nn.Linear(64 * value_planes, value_width), nn.Linear(value_width, values)
        self.register_buffer("places", torch.from_numpy(boards.policy_map()), persistent=False)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *_, last = self.layers(x)
        return self.moves(last), self.values(last)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """Every layer, from input planes."""
        x = F.relu(self.input(x))
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def after(self, x: Tensor, layer: int) -> Tensor:
        """The last layer, from another one."""
        for block in self.blocks[layer:]:
            x = block(x)
        return x

    def moves(self, last: Tensor) -> Tensor:
        """The policy head: a logit `[N, 1858]` for every move, from the last layer."""
        planes: Tensor = self.policy(F.relu(self.policy1(last)))
        return planes.flatten(1)[:, self.places]

    def values(self, last: Tensor) -> Tensor:
        """The value head."""
        logits: Tensor = self.value2(F.relu(self.value1(F.relu(self.value(last)).flatten(1))))
        return logits

    def encode(self, rows: boards.Rows) -> Tensor:
        """The input planes of positions, on this network's device."""
        made = boards.planes(rows) if self.planes == boards.PLANES else boards.leela_planes(rows)
        return torch.from_numpy(made).to(self.places.device, memory_format=torch.channels_last)

    def batches(self, rows: boards.Rows) -> Iterator[Tensor]:
        """The same in parts that fit the memory."""
        yield from map(self.encode, np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)))


def new(config: NetworkConfig) -> Network:
    """A network of this config, with random weights of torch's present seed."""
    made = Network(blocks=config.blocks, filters=config.filters, squeeze=config.squeeze)
    return _channels_last(made)


def frozen(needed: Needed, *, device: torch.device, random: int | None = None) -> Network:
    """The network of a run or of a file in Leela's format, for evaluation.

    Args:
        needed: the run or the file.
        device: where to put it.
        random: None, or the seed of random weights, in place of those that were learned.
    """
    state = leela.read(needed.files["file"]) if needed.config is None else needed.arrays("network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if random is None else random)
        network = Network(**leela.shape_of(state))
    if random is None:
        saving.load(network, state)
    network.requires_grad_(False).eval()
    return _channels_last(network.to(device))


def policy(network: Network, rows: boards.Rows) -> tuple[Tensor, Tensor]:
    """The logits of the moves `[N, 1858]` and the expected scores `[N]`, on the CPU."""
    moves, scores = [], []
    with torch.no_grad():
        for planes in network.batches(rows):
            logits, values = network(planes)
            moves.append(logits.cpu())
            scores.append(_expected(values).cpu())
    return torch.cat(moves), torch.cat(scores)


def _expected(values: Tensor) -> Tensor:
    """The expected scores `[N]`, from 0 to 1, of values `[N, 3]` or, as older networks have them, `[N, 1]`."""
    if values.shape[1] == 1:
        return (values[:, 0].tanh() + 1) / 2
    win, draw, _ = values.softmax(1).unbind(1)
    return win + draw / 2


def line(
    network: Network, rows: boards.Rows, logits: Tensor | None = None
) -> Iterator[tuple[NDArray[np.int64], boards.Rows]]:
    """Ply by ply, the moves `[N]` that the network would play for both sides, and the boards `[N, 64]` after them.

    A move is the best legal one as the player sees it who makes it; `OVER` where no move is legal. Boards are as the
    players see them who are to move in `rows`.

    Args:
        network: the network.
        rows: the positions.
        logits: its policy there, if it is known.
    """
    rows, after, going_on = rows.copy(), rows[:, :64], np.arange(len(rows))
    for ply in itertools.count():
        found = policy(network, rows[going_on])[0] if logits is None else logits
        moves = np.full(len(rows), OVER)
        for at, values in zip(going_on, found.numpy(), strict=True):
            if legal := boards.legal(rows[at]):
                moves[at] = best = max(legal, key=values.__getitem__)
                rows[at] = boards.played(rows[at], legal[best])
        going_on = np.flatnonzero(moves != OVER)
        after = after.copy()
        after[going_on] = rows[going_on, :64] if ply % 2 else boards.turned(rows[going_on, :64])
        yield moves, after
        logits = None


def _channels_last(network: Network) -> Network:
    """The network with its kernels in the order that convolutions are fastest with."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    return network


def _convolution(before: int, after: int, *, kernel: int = 3) -> nn.Sequential:
    """A convolution with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after)
    )
