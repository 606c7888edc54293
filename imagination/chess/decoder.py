"""`chess_decoder`: the paper's procedure, one decoder of boards for all layers of a frozen network (section 3.3)."""

from collections.abc import Iterator

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
    decoder = _decoder(network.filters, config.width).to(recorder.device)
    _train(config, recorder, network, decoder, held[at[learned.numpy()]])
    _score(recorder, network, decoder, held, at[tested.numpy()])
    _show(config, recorder, network, decoder, held, int(at[tested[0]]))


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


def _train(
    config: DecoderConfig,
    recorder: FunctionRecorder,
    network: Network,
    decoder: nn.Module,
    learned: Positions,
) -> None:
    discriminator = _discriminator(config.width).to(recorder.device)
    optimizers = {
        name: torch.optim.Adam(module.parameters(), lr=config.lr, betas=(0.5, 0.99))
        for name, module in {"generator": decoder, "judge": discriminator}.items()
    }
    parts = ({"decoder": decoder, "discriminator": discriminator}, optimizers)
    step = 0 if recorder.restored is None else saving.restore(recorder.restored, *parts)
    for rows, others in _batches(config, learned.rows, step=step):
        if step % _SAVE_EVERY == 0 or recorder.stopping:
            recorder.checkpoint(saving.state(step, *parts))
        with torch.no_grad():
            layers = list(network.layers(network.encode(rows)))
        loss = F.cross_entropy(decoder(layers[0]), _classes(rows[:, :64], recorder.device))
        if config.next_board:
            following = _classes(_chosen(network, layers[-1], rows), recorder.device)
            loss = loss + F.cross_entropy(decoder(layers[-1]), following)
        board_loss = loss.item()
        if config.adversary:
            fake = decoder(torch.cat(layers[1:])).softmax(1)
            loss = loss + config.adv_weight * F.softplus(-discriminator(fake)).mean()
        _update(optimizers["generator"], loss)
        if config.adversary:
            real = F.one_hot(_classes(others[:, :64], recorder.device), boards.CLASSES).movedim(-1, 1).float()
            known, judged = discriminator(real), discriminator(fake.detach())
            _update(optimizers["judge"], F.softplus(-known).mean() + F.softplus(judged).mean())
        step += 1
        if step % config.trace_every == 0:
            recorder.progress(step, {"loss": board_loss})
            recorder.trace("loss", step, board_loss)
    recorder.metric("steps", step)


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


def _classes(squares: boards.Rows, device: torch.device) -> Tensor:
    """Squares `[N, 64]` as classes int64 `[N, 8, 8]`."""
    return torch.from_numpy(squares.astype(np.int64)).reshape(-1, 8, 8).to(device)


def _decoded(network: Network, decoder: nn.Module, rows: boards.Rows) -> boards.Rows:
    """The boards that every layer gives, `[layers, N, 64]`."""
    parts = []
    with torch.no_grad():
        for planes in network.batches(rows):
            found = [decoder(layer).argmax(1).flatten(1) for layer in network.layers(planes)]
            parts.append(torch.stack(found).cpu())
    return torch.cat(parts, 1).numpy().astype(np.uint8)


def _score(
    recorder: FunctionRecorder,
    network: Network,
    decoder: nn.Module,
    held: Positions,
    at: NDArray[np.int64],
) -> None:
    """Metrics, and traces whose steps are layers."""
    found, now = _decoded(network, decoder, held.rows[at]), held.rows[at, :64]
    recorder.metric("present", (found[0] == now).mean())
    for ply in range(1, PLIES + 1):
        after = held.after(at, ply)
        right, differs = found == after, after != now
        by_layer = {"squares": right.mean((1, 2)), "changed": right[:, differs].mean(1)}
        for name, values in by_layer.items():
            for layer, value in enumerate(values):
                recorder.trace(f"{name}_{ply}", layer, value)
            recorder.metric(f"{name}_{ply}", values[1:].max())
        recorder.metric(f"copy_{ply}", 1 - differs.mean())


def _show(
    config: DecoderConfig,
    recorder: FunctionRecorder,
    network: Network,
    decoder: nn.Module,
    held: Positions,
    at: int,
) -> None:
    """Leaves one position, its decoded boards by layer, and the boards that follow (none if the config names it)."""
    row = boards.encode(boards.parse(config.fen)) if config.fen else held.rows[at]
    plies = range(1, PLIES + 1 if not config.fen else 1)
    line = [held.after(np.array([at]), ply)[0] for ply in plies]
    recorder.sample(
        "boards",
        {
            "board": row[:64],
            "decoded": _decoded(network, decoder, row[None])[:, 0],
            "line": np.array(line, np.uint8).reshape(-1, 64),
        },
    )
