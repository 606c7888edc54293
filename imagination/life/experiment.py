"""The state task: predict s_m from s_1, then read the hidden states in between (paper sections 2 and 3.1).

`LifeState` is what the trainer runs: R runs whose tensors have equal shapes. Learning rates, seeds, the reset
probability, the losses' kinds and weights may differ between them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagination import metrics
from imagination.life import rules, sampler
from imagination.life.config import LifeStateConfig
from imagination.life.networks import LifeNetwork
from imagination.recorder import Arrays
from imagination.training.loop import Evaluation, Forward

_CHUNK = 500  # evaluation sequences per forward pass
_SAMPLES = 4  # sequences kept for pictures beside the best, the median and the worst


@dataclass(frozen=True)
class LifeForward(Forward):
    """One training batch seen through the networks of R runs, with what the trace needs.

    Attributes:
        sequence: s_1 .. s_m, bool `[m, R, B, H, W]`.
        hidden: h_0 .. h_T, each `[B, R*C, H, W]`.
        last: decoder output at h_T, `[R, B, H, W]`.
    """

    sequence: Tensor
    hidden: list[Tensor]
    last: Tensor


class LifeState:
    """R runs of the state task; see `imagination.training.loop.Experiment` for what each method owes.

    Args:
        configs: one config per run; their `pack_keys` must be equal.
        device: where the tensors live.
    """

    def __init__(self, configs: Sequence[LifeStateConfig], device: torch.device) -> None:
        self.configs = list(configs)
        self.device = device
        self._shape = configs[0]
        self._network = LifeNetwork(self._shape)
        self.layout = self._network.layout
        self._seeds = torch.tensor([c.seed for c in configs], dtype=torch.int64, device=device)
        self._reset = self._column([c.reset for c in configs])
        self._autoencoder = torch.tensor([c.ae for c in configs], device=device)
        self._squared = torch.tensor([c.loss == "l2" for c in configs], device=device)
        # Known on the host, so that no step has to wait for the device to learn it.
        self._any_autoencoder = any(c.ae for c in configs)
        self._losses = {c.loss for c in configs}

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def select(self, kept: Sequence[int]) -> "LifeState":
        """The same experiment with these runs alone."""
        return LifeState([self.configs[index] for index in kept], self.device)

    def initial_parameters(self) -> Tensor:
        """Fresh parameters, float32 `[R, P]`."""
        return self.layout.glorot_uniform(self._seeds)

    def initial_data(self) -> Tensor:
        """First states of the first batch, bool `[R, B, H, W]`."""
        return sampler.start(self._seeds, self._reset, batch=self._shape.batch, board=self._shape.board)

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> LifeForward:
        """Losses and training accuracy of a batch whose first states are `data` (bool `[R, B, H, W]`)."""
        named = self.layout.unpack(parameters)
        sequence = rules.states(data, self._shape.gol)
        with self._autocast():
            hidden = self._network.hidden_states(named, sequence[0])
            last = self._network.decode(named, hidden[-1])
        loss = self._loss(last, sequence[-1])
        if self._any_autoencoder:
            with self._autocast():
                first = self._network.decode(named, hidden[0])
            both = (loss + self._loss(first, sequence[0])) / 2
            loss = torch.where(self._autoencoder, both, loss)
        accuracy = metrics.pixel_accuracy(self._decoded(last), sequence[-1]).mean(1)
        return LifeForward(loss, accuracy, sequence, hidden, last)

    def _autocast(self) -> torch.autocast:
        enabled = self._shape.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss per run `[R]`: BCE with logits, or the squared error of the linear output."""
        wanted = target.float()
        kinds = {
            "bce": lambda: F.binary_cross_entropy_with_logits(output, wanted, reduction="none"),
            "l2": lambda: (output - wanted).square(),
        }
        # Runs with both losses may share a pack; where all agree, only theirs is computed.
        if len(self._losses) == 1:
            (kind,) = self._losses
            pixels = kinds[kind]()
        else:
            pixels = torch.where(self._squared[:, None, None, None], kinds["l2"](), kinds["bce"]())
        return pixels.mean((1, 2, 3))

    def _decoded(self, output: Tensor) -> Tensor:
        """Decoder outputs `[R, ...]` on the boards' scale, alive above .5: a logit's sigmoid, or as it is."""
        squared = self._squared.reshape(-1, *[1] * (output.ndim - 1))
        return torch.where(squared, output, output.sigmoid())

    def next_data(self, forward: Forward, steps: Tensor) -> Tensor:
        """First states of the batch of each run's step (`steps`, int64 `[R]`)."""
        assert isinstance(forward, LifeForward)
        return sampler.advance(forward.sequence[1], self._seeds, self._reset, steps)

    @torch.no_grad()
    def similarities(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """The learning-order trace: pixel similarity of every decoded state with its true state, each `[R]`.

        `state1` is decoded from h_0, `state{T+1}` from h_T; these two are compared with s_1 and s_m. In between,
        where gol = model_t state i is compared with s_i. Where they differ no state is *the* right one: the most
        similar true intermediate state counts, and without any there is no value.
        """
        assert isinstance(forward, LifeForward)
        named = self.layout.unpack(parameters)
        with self._autocast():
            earlier = [self._network.decode(named, hidden) for hidden in forward.hidden[:-1]]
        similar: dict[str, Tensor] = {}
        for index, output in enumerate([*earlier, forward.last]):
            truth = self._truths_for(index, forward.sequence)
            if len(truth):
                decoded = self._decoded(output)
                values = [metrics.pixel_accuracy(decoded, state).mean(1) for state in truth]
                similar[f"state{index + 1}"] = torch.stack(values).amax(0)
        return similar

    def _truths_for(self, index: int, sequence: Tensor) -> Tensor:
        """The true states `[k, R, B, H, W]` that the decoded hidden state `index` is compared with."""
        if index == 0:
            return sequence[:1]
        if index == self._shape.model_t:
            return sequence[-1:]
        if self._shape.gol == self._shape.model_t:
            return sequence[index : index + 1]
        return sequence[1:-1]

    @torch.no_grad()
    def evaluate(self, parameters: Tensor, *, check: Callable[[], None] = lambda: None) -> Evaluation:
        """Metrics and samples of a single run (R = 1) on the evaluation set of its board and gol, in float32.

        `check` is called before every 500 sequences; what it raises goes through.
        """
        config = self._shape
        truth = sampler.evaluation_states(
            config.gol, board=config.eval_board, sequences=config.eval_sequences, device=self.device
        )
        decoded = torch.cat(list(self._decoded_chunks(parameters, truth, check)))
        score = metrics.interpretability(decoded[:, 1:-1], truth[:, 1:-1])
        aligned = (
            _mean(metrics.pixel_accuracy(decoded[:, 1:-1], truth[:, 1:-1])) if self._is_aligned() else None
        )
        plain = _mean(score)
        values = {
            "metric": plain,
            "metric_plain": plain,
            "metric_adv": None,
            "metric_dataset": _number(metrics.interpretability_dataset(decoded[:, 1:-1], truth[:, 1:-1])),
            "aligned_accuracy": aligned,
            "eval_accuracy": _mean(metrics.pixel_accuracy(decoded[:, -1], truth[:, -1])),
            "autoencoder_accuracy": _mean(metrics.pixel_accuracy(decoded[:, 0], truth[:, 0])),
            **trivial_decoders(
                config.gol,
                config.model_t,
                board=config.eval_board,
                sequences=config.eval_sequences,
                device=self.device,
            ),
        }
        return Evaluation(values, {"plain": _sample(decoded, truth, score)})

    def _is_aligned(self) -> bool:
        return self._shape.gol == self._shape.model_t and self._shape.gol > 1

    def _decoded_chunks(
        self, parameters: Tensor, truth: Tensor, check: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Decoded boards float32 `[n, T + 1, H, W]` of the sequences in `truth`, a chunk at a time."""
        named = self.layout.unpack(parameters)
        for states in truth.split(_CHUNK):
            check()
            hidden = self._network.hidden_states(named, states[None, :, 0])
            outputs = [self._decoded(self._network.decode(named, h))[0] for h in hidden]
            yield torch.stack(outputs, dim=1)


@lru_cache(maxsize=32)
def trivial_decoders(
    gol: int, model_t: int, *, board: int, sequences: int, device: torch.device
) -> dict[str, float | None]:
    """The metric that decoders get which imagine nothing, on the evaluation set of (board, gol).

    `baseline_repeat` gives back s_1 at every timestep, `baseline_dead` an empty board, and `baseline_shifted`
    the true state one step ahead of the aligned one (the final state at most).
    """
    truth = sampler.evaluation_states(gol, board=board, sequences=sequences, device=device).float()
    between, n = truth[:, 1:-1], model_t - 1
    ahead = [truth[:, min(i + 1, gol)] for i in range(1, n + 1)]
    decoders = {
        "baseline_repeat": truth[:, :1].expand(-1, n, -1, -1),
        "baseline_dead": torch.zeros_like(truth[:, :1]).expand(-1, n, -1, -1),
        "baseline_shifted": torch.stack(ahead, dim=1) if ahead else truth[:, :0],
    }
    return {name: _mean(metrics.interpretability(boards, between)) for name, boards in decoders.items()}


def _mean(values: Tensor) -> float | None:
    return _number(values.mean().item())


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sample(decoded: Tensor, truth: Tensor, score: Tensor) -> Arrays:
    """The first few sequences, and the best, the median and the worst by the metric."""
    order = score.argsort(stable=True)
    ranked = [int(order[-1]), int(order[len(order) // 2]), int(order[0])]
    chosen = torch.tensor(list(range(min(_SAMPLES, len(score)))) + ranked, device=score.device)
    return {
        "decoded": decoded[chosen].half().cpu().numpy(),
        "truth": truth[chosen].byte().cpu().numpy(),
        "score": score[chosen].cpu().numpy().astype(np.float64),
    }
