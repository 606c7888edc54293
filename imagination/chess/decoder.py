"""`chess_decoder`: the paper's procedure, one decoder of boards for all layers of a frozen network (section 3.3)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from imagination import saving
from imagination.chess import boards
from imagination.chess.config import DecoderConfig
from imagination.chess.network import Network, frozen
from imagination.chess.positions import Positions
from imagination.function import FunctionRecorder
from imagination.probing import split

PLIES = 3
_SAVE_EVERY = 20


def run(config: DecoderConfig, recorder: FunctionRecorder) -> None:
    """Trains the decoder, and leaves its accuracy by layer and ply, and the boards of one position."""
    network = frozen(recorder.needs["network"], device=recorder.device)
    held = Positions.of(recorder.needs["positions"].arrays("held"))
    at = held.followed(PLIES)
    learned, tested = split(torch.from_numpy(held.games[at]), seed=config.seed, shares=(config.share,))
    torch.manual_seed(config.seed)
    decoding = _Decoding(config, recorder, network)
    decoding.train(held.rows[at[learned.numpy()]])
    decoding.score(held, at[tested.numpy()])
    decoding.show(held, at[tested.numpy()[:1]])


class _Decoding:
    """The frozen network, and the decoder of its layers."""

    def __init__(self, config: DecoderConfig, recorder: FunctionRecorder, network: Network) -> None:
        self._config, self._recorder, self._network = config, recorder, network
        self._decoder = _decoder(network.filters, config.width).to(recorder.device)

    def train(self, learned: boards.Rows) -> None:
        """Trains the decoder on these positions."""
        config, recorder = self._config, self._recorder
        judge = _discriminator(config.width).to(recorder.device)
        optimizers = {
            name: torch.optim.Adam(module.parameters(), lr=config.lr, betas=(0.5, 0.99))
            for name, module in {"generator": self._decoder, "judge": judge}.items()
        }
        parts = ({"decoder": self._decoder, "discriminator": judge}, optimizers)
        step = 0 if recorder.restored is None else saving.restore(recorder.restored, *parts)
        for rows, others in _batches(config, learned, step=step):
            if step % _SAVE_EVERY == 0 or recorder.stopping:
                recorder.checkpoint(saving.state(step, *parts))
            with torch.no_grad():
                layers = list(self._network.layers(self._network.encode(rows)))
            loss = self._board_loss(layers, rows)
            board_loss = loss.item()
            if config.adversary:
                fake = self._decoder(torch.cat(layers[1:])).softmax(1)
                loss = loss + config.adv_weight * F.softplus(-judge(fake)).mean()
            _update(optimizers["generator"], loss)
            if config.adversary:
                real = F.one_hot(self._classes(others[:, :64]), boards.CLASSES).movedim(-1, 1).float()
                known, judged = judge(real), judge(fake.detach())
                _update(optimizers["judge"], F.softplus(-known).mean() + F.softplus(judged).mean())
            step += 1
            if step % config.trace_every == 0:
                recorder.progress(step, {"loss": board_loss})
                recorder.trace("loss", step, board_loss)
        recorder.metric("steps", step)

    def score(self, held: Positions, at: NDArray[np.int64]) -> None:
        """Leaves metrics, and traces whose steps are layers."""
        found, now = self._decoded(held.rows[at]), held.rows[at, :64]
        self._recorder.metric("present", (found[0] == now).mean())
        for ply in range(1, PLIES + 1):
            after = held.after(at, ply)
            right, differs = found == after, after != now
            by_layer = {"squares": right.mean((1, 2)), "changed": right[:, differs].mean(1)}
            for name, values in by_layer.items():
                for layer, value in enumerate(values):
                    self._recorder.trace(f"{name}_{ply}", layer, value)
                self._recorder.metric(f"{name}_{ply}", values[1:].max())
            self._recorder.metric(f"copy_{ply}", 1 - differs.mean())

    def show(self, held: Positions, at: NDArray[np.int64]) -> None:
        """Leaves one position, its boards by layer, and those that follow (none if the config names it)."""
        fen = self._config.fen
        row = boards.encode(boards.parse(fen)) if fen else held.rows[at[0]]
        line = [] if fen else [held.after(at, ply)[0] for ply in range(1, PLIES + 1)]
        following = np.array(line, np.uint8).reshape(-1, 64)
        decoded = self._decoded(row[None])[:, 0]
        self._recorder.sample("boards", {"board": row[:64], "decoded": decoded, "line": following})

    def _board_loss(self, layers: Sequence[Tensor], rows: boards.Rows) -> Tensor:
        """The cross-entropy of the present board at the first layer, and of the next one at the last."""
        loss = F.cross_entropy(self._decoder(layers[0]), self._classes(rows[:, :64]))
        if not self._config.next_board:
            return loss
        chosen = self._classes(_chosen(self._network, layers[-1], rows))
        return loss + F.cross_entropy(self._decoder(layers[-1]), chosen)

    def _classes(self, squares: boards.Rows) -> Tensor:
        """Squares `[N, 64]` as classes int64 `[N, 8, 8]`."""
        return torch.from_numpy(squares.astype(np.int64)).reshape(-1, 8, 8).to(self._recorder.device)

    def _decoded(self, rows: boards.Rows) -> boards.Rows:
        """The boards that every layer gives, `[layers, N, 64]`."""
        parts = []
        with torch.no_grad():
            for planes in self._network.batches(rows):
                found = [self._decoder(layer).argmax(1).flatten(1) for layer in self._network.layers(planes)]
                parts.append(torch.stack(found).cpu())
        return torch.cat(parts, 1).numpy().astype(np.uint8)


def _decoder(filters: int, width: int) -> nn.Module:
    """From a layer `[N, filters, 8, 8]` to the logits of each square's classes `[N, 13, 8, 8]`."""
    return nn.Sequential(
        nn.Conv2d(filters, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, boards.CLASSES, 3, padding=1)
    )


def _discriminator(width: int) -> nn.Module:
    """From boards `[N, 13, 8, 8]`, each square a distribution over classes, to the logit of "real"."""
    return nn.Sequential(
        nn.Conv2d(boards.CLASSES, width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(8 * width, 1),
    )


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _batches(
    config: DecoderConfig, rows: boards.Rows, *, step: int
) -> Iterator[tuple[boards.Rows, boards.Rows]]:
    """For each step from `step` on its positions, and others as real boards."""
    for number in range(step, config.max_steps):
        drawn = np.random.default_rng([config.seed, number]).integers(len(rows), size=(2, config.batch))
        yield rows[drawn[0]], rows[drawn[1]]


def _chosen(network: Network, last: Tensor, rows: boards.Rows) -> boards.Rows:
    """The boards `[N, 64]` after the network's own moves, as the players see them who move."""
    with torch.no_grad():
        moves = network.moves(last).cpu().numpy()
    found = []
    for row, logits in zip(rows, moves, strict=True):
        legal = boards.legal(row)
        board = boards.decode(row)
        board.push(legal[max(legal, key=logits.__getitem__)])
        found.append(boards.squares(board, player=True))
    return np.array(found)
