"""`chess_network`: a network learns the moves that Stockfish plays, and its chances."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagination import saving
from imagination.chess import boards, network
from imagination.chess.config import NetworkConfig
from imagination.chess.network import Network
from imagination.chess.positions import Positions
from imagination.function import FunctionRecorder

SAVE_EVERY = 20
"""Steps between two offers of a checkpoint, because a GPU must copy it."""


def run(config: NetworkConfig, recorder: FunctionRecorder) -> None:
    """Trains the network, and leaves it as the artifact `network`."""
    needed = recorder.needs["positions"]
    played, held = (Positions.of(needed.arrays(name)) for name in ("played", "held"))
    torch.manual_seed(config.seed)
    model = network.new(config).to(recorder.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.decay)
    parts = ({"network": model}, {"adam": optimizer})
    step = 0 if recorder.restored is None else saving.restore(recorder.restored, *parts)
    for batch in _batches(played, config, step=step):
        if step % SAVE_EVERY == 0 or recorder.stopping:
            recorder.checkpoint(saving.state(step, *parts))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _rate(step, config)
        losses = _losses(model, batch, config)
        optimizer.zero_grad()
        (losses["policy"] + config.value_weight * losses["value"]).backward()
        optimizer.step()
        step += 1
        if step % config.trace_every == 0:
            values = {name: loss.item() for name, loss in losses.items()}
            recorder.progress(step, values)
            for name, value in values.items():
                recorder.trace(f"loss_{name}", step, value)
    model.eval()
    for name, value in evaluate(model, held).items():
        recorder.metric(name, value)
    recorder.metric("steps", step)
    recorder.artifact("network", saving.arrays(model))


def policy(model: Network, rows: boards.Rows) -> tuple[Tensor, Tensor]:
    """The logits of the moves `[N, 1858]` and the expected scores `[N]`, on the CPU."""
    moves, scores = [], []
    with torch.no_grad():
        for planes in model.batches(rows):
            logits, values = model(planes)
            moves.append(logits.cpu())
            win, draw, _ = values.softmax(1).cpu().unbind(1)
            scores.append(win + draw / 2)
    return torch.cat(moves), torch.cat(scores)


def evaluate(model: Network, held: Positions) -> dict[str, float]:
    """The metrics of a network on held-out positions."""
    logits, scores = policy(model, held.rows)
    wanted = torch.from_numpy(held.moves)
    legal = logits.masked_fill(~torch.from_numpy(boards.legal_masks(held.rows)), -torch.inf)
    expected = torch.from_numpy(held.chances) @ torch.tensor([1, 0.5, 0])
    return {
        "policy_accuracy": (legal.argmax(1) == wanted).double().mean().item(),
        "policy_loss": F.cross_entropy(logits, wanted).item(),
        "value_error": (scores - expected).abs().mean().item(),
    }


def _batches(played: Positions, config: NetworkConfig, *, step: int) -> Iterator[Positions]:
    """The positions of each step from `step` on. Every epoch has its own order, which depends on the seed alone."""
    batch = min(config.batch, len(played))
    per_epoch = len(played) // batch
    order, epoch = np.arange(0), -1
    for number in range(step, config.max_steps):
        if number // per_epoch != epoch:
            epoch = number // per_epoch
            order = np.random.default_rng([config.seed, epoch]).permutation(len(played))
        at = number % per_epoch * batch
        yield played[order[at : at + batch]]


def _losses(model: Network, batch: Positions, config: NetworkConfig) -> dict[str, Tensor]:
    device = model.places.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        moves, values = model(model.encode(batch.rows))
    return {
        "policy": F.cross_entropy(moves.float(), torch.from_numpy(batch.moves).to(device)),
        "value": F.cross_entropy(values.float(), torch.from_numpy(batch.chances).to(device)),
    }


def _rate(step: int, config: NetworkConfig) -> float:
    """The learning rate of a step as a share of its peak."""
    rising = config.warmup * config.max_steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return (config.max_steps - step) / (config.max_steps - rising)
