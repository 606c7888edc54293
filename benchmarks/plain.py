"""The same task in the plain way: standard modules in the default layout, boards from numpy, one run per process.

    python benchmarks/plain.py [--seed 0] [KEY=VALUE ...]

Trains the state task until the mean accuracy of an interval reaches `accuracy`, and prints steps, accuracy, and the
metric on an evaluation set as large as ours, as JSON. Values are those of the preset `fast`; `preset=paper_bce` has the
authors' Adam and settings.
"""

import argparse
import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from imagination import registry
from imagination.life.config import LifeStateConfig
from imagination.metrics import interpretability
from imagination.schema import rebuild

Boards = NDArray[np.bool_]


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    given: dict[str, Any] = dict(word.split("=", 1) for word in options.values)
    preset = given.pop("preset", "fast")
    kinds = {name: type(value) for name, value in asdict(LifeStateConfig()).items()}
    changed = {name: kinds[name](value) for name, value in given.items()}
    config: LifeStateConfig = rebuild(LifeStateConfig, {**registry.preset("life_state", preset), **changed})
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    network = Network(config)
    steps, accuracy = train(network, config, options.seed)
    metric = evaluate(network, config, options.seed)
    print(json.dumps({"steps": steps, "accuracy": round(accuracy, 4), "metric": round(metric, 4)}))


class Network(nn.Module):
    """Encoder, a shared step network with a residual sum, decoder."""

    def __init__(self, c: LifeStateConfig) -> None:
        super().__init__()

        def convolution(into: int, out: int) -> nn.Conv2d:
            layer = nn.Conv2d(into, out, c.kernel, padding="same")
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            return layer

        def stack(depth: int, into: int) -> nn.Sequential:
            pairs = pairwise([into, *[c.channels] * depth])
            return nn.Sequential(*(m for i, o in pairs for m in (convolution(i, o), nn.LeakyReLU(0.3))))

        self.encoder, self.step = stack(c.enc_layers, 1), stack(c.step_layers, c.channels)
        self.decoder = nn.Sequential(stack(c.dec_layers - 1, c.channels), convolution(c.channels, 1))
        self.timesteps = c.model_t

    def hidden(self, first: Tensor) -> list[Tensor]:
        """The hidden states h_0 to h_T, from s_1 `[B, 1, H, W]`."""
        states = [self.encoder(first)]
        for _ in range(self.timesteps):
            states.append(states[-1] + self.step(states[-1]))
        return states

    def forward(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of s_1 and of s_m, from s_1 `[B, 1, H, W]`."""
        states = self.hidden(first)
        return self.decoder(states[0]), self.decoder(states[-1])


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(0.95).add_(p.grad)
                x = (p.grad + 0.95 * momentum).flatten(1)
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    square = x @ x.T
                    x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
                p.sub_(group["lr"] * x.reshape(p.shape))


def train(network: Network, c: LifeStateConfig, seed: int) -> tuple[int, float]:
    """Steps and the last interval's accuracy."""
    draw = np.random.default_rng(seed)
    optimizers = _optimizers(network, c)
    firsts = draw.random((c.batch, c.board, c.board)) < 0.5
    total = 0.0
    for step in range(c.max_steps):
        states = _states(firsts, c.gol)
        inputs, target = (_tensor(s) for s in (firsts, states[-1]))
        first, last = network(inputs)
        loss_of = F.mse_loss if c.loss == "l2" else F.binary_cross_entropy_with_logits
        loss = (loss_of(last, target) + loss_of(first, inputs)) / 2 if c.ae else loss_of(last, target)
        network.zero_grad()
        loss.backward()
        for optimizer, rate in optimizers:
            if isinstance(optimizer, torch.optim.Adam):
                _clip(optimizer, c)
            for group in optimizer.param_groups:
                group["lr"] = rate * _schedule(c, step)
            optimizer.step()
        total += float(((last > _alive(c)) == target.bool()).float().mean())
        anew = draw.random(c.batch) < c.reset
        firsts = np.where(anew[:, None, None], draw.random(firsts.shape) < 0.5, states[1])
        if (step + 1) % c.eval_every == 0:
            accuracy, total = total / c.eval_every, 0.0
            if accuracy >= c.accuracy:
                return step + 1, accuracy
    return c.max_steps, accuracy


@torch.no_grad()
def evaluate(network: Network, c: LifeStateConfig, seed: int) -> float:
    """The mean metric over new boards, in batches of the training's size."""
    draw = np.random.default_rng(seed + 2**32)
    scores = []
    for done in range(0, c.eval_sequences, c.batch):
        count = min(c.batch, c.eval_sequences - done)
        first = draw.random((count, c.eval_board, c.eval_board)) < 0.5
        truth = np.stack(_states(first, c.gol)[1:-1], axis=1)
        between = network.hidden(_tensor(first))[1:-1]
        decoded = torch.cat([network.decoder(h) for h in between], dim=1)
        scores.append(interpretability(decoded, torch.from_numpy(truth), threshold=_alive(c)))
    return float(torch.cat(scores).mean())


def _alive(c: LifeStateConfig) -> float:
    return 0.5 if c.loss == "l2" else 0.0


def _tensor(boards: Boards) -> Tensor:
    return torch.from_numpy(boards.astype(np.float32))[:, None]


def _states(first: Boards, later: int) -> list[Boards]:
    states = [first]
    for _ in range(later):
        states.append(_next(states[-1]))
    return states


def _optimizers(network: Network, c: LifeStateConfig) -> list[tuple[torch.optim.Optimizer, float]]:
    hidden = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]
    if c.optimizer == "adam":
        hidden = []
    others = [p for p in network.parameters() if not any(p is one for one in hidden)]
    found: list[tuple[torch.optim.Optimizer, float]] = [(torch.optim.Adam(others, lr=c.lr, eps=1e-7), c.lr)]
    return [*found, (Muon(hidden, c.muon_lr), c.muon_lr)] if hidden else found


def _clip(optimizer: torch.optim.Optimizer, c: LifeStateConfig) -> None:
    parameters = optimizer.param_groups[0]["params"]
    if c.clip_by == "norm":
        nn.utils.clip_grad_norm_(parameters, c.clip)
    elif c.clip_by == "value":
        nn.utils.clip_grad_value_(parameters, c.clip)


def _schedule(c: LifeStateConfig, step: int) -> float:
    warmup = c.warmup * c.max_steps
    rise = min(1.0, (step + 1) / max(1.0, warmup))
    fall = (c.max_steps - step) / (c.max_steps - warmup) if c.schedule == "linear" else 1.0
    return min(rise, max(0.0, min(1.0, fall)))


def _next(boards: Boards) -> Boards:
    """One step of Life."""
    padded = np.pad(boards.astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
    high, wide = boards.shape[1:]
    near = sum(padded[:, y : y + high, x : x + wide] for y in range(3) for x in range(3))
    return np.asarray((near == 3) | ((near == 4) & boards))


if __name__ == "__main__":
    main()
