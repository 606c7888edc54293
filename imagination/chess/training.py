"""`chess_network`: a network learns the moves that Stockfish plays, and its chances."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imagination import saving
from imagination.chess import boards, network
from imagination.chess.config import NetworkConfig
from imagination.chess.loop import descend, train
from imagination.chess.network import Network
from imagination.chess.positions import Positions
from imagination.function import FunctionRecorder


def run(config: NetworkConfig, recorder: FunctionRecorder) -> None:
    """Trains the network, and leaves it as the artifact `network`."""
    needed = recorder.needs["positions"]
    played, held = (Positions.of(needed.arrays(name)) for name in ("played", "held"))
    torch.manual_seed(config.seed)
    model = network.new(config).to(recorder.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.decay)

    def update(step: int) -> dict[str, Tensor]:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _rate(step, config)
        losses = _losses(model, _batch(played, config, step=step), config)
        descend(optimizer, losses["loss_policy"] + config.value_weight * losses["loss_value"])
        return losses

    train(config, recorder, modules={"network": model}, optimizers={"adam": optimizer}, update=update)
    model.eval()
    for name, value in evaluate(model, held).items():
        recorder.metric(name, value)
    recorder.artifact("network", saving.arrays(model))


def evaluate(model: Network, held: Positions) -> dict[str, float]:
    """The metrics of a network on held-out positions."""
    logits, scores = network.policy(model, held.rows)
    wanted = torch.from_numpy(held.moves)
    legal = logits.masked_fill(~torch.from_numpy(boards.legal_masks(held.rows)), -torch.inf)
    expected = torch.from_numpy(held.chances) @ torch.tensor([1, 0.5, 0])
    return {
        "policy_accuracy": (legal.argmax(1) == wanted).double().mean().item(),
        "policy_loss": F.cross_entropy(logits, wanted).item(),
        "value_error": (scores - expected).abs().mean().item(),
    }


def _batch(played: Positions, config: NetworkConfig, *, step: int) -> Positions:
    """The positions of a step. Every epoch has its own order, which depends on the seed alone."""
    batch = min(config.batch, len(played))
    epoch, place = divmod(step, len(played) // batch)
    order = _order(len(played), config.seed, epoch)
    return played[order[place * batch : (place + 1) * batch]]


@lru_cache(maxsize=1)
def _order(positions: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(positions)


def _losses(model: Network, batch: Positions, config: NetworkConfig) -> dict[str, Tensor]:
    device = model.places.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        moves, values = model(model.encode(batch.rows))
    return {
        "loss_policy": F.cross_entropy(moves.float(), torch.from_numpy(batch.moves).to(device)),
        "loss_value": F.cross_entropy(values.float(), torch.from_numpy(batch.chances).to(device)),
    }


def _rate(step: int, config: NetworkConfig) -> float:
    """The learning rate of a step as a share of its peak."""
    rising = config.warmup * config.max_steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return (config.max_steps - step) / (config.max_steps - rising)
