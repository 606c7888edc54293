"""The counting task: predict how many cells of s_m live; then read the LSTM's states (paper section 3.2, Table 4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagination import metrics
from imagination.life import networks, sampler
from imagination.life.baselines import trivial_correlation
from imagination.life.config import LifeCountConfig
from imagination.life.data import LifeForward, similarity_truths
from imagination.life.experiment import LifeExperiment
from imagination.life.samples import mean, samples
from imagination.training.experiment import Evaluation, Forward
from imagination.training.layers import ParameterLayout


@dataclass(frozen=True, kw_only=True)
class CountForward(LifeForward):
    """One training batch of the counting task.

    Attributes:
        hidden: h_0 .. h_T, each `[B, R*C, H, W]`.
        right: share of boards whose rounded count is right, `[R]`.
    """

    hidden: list[Tensor]
    right: Tensor


class LifeCount(LifeExperiment[LifeCountConfig]):
    """R runs of the counting task.

    The count head is trained at h_0 (living cells of s_1) and at h_T (of s_m), the board decoder on s_1 at h_0
    alone: neither ever sees an intermediate state, and the decoder never the final one.
    """

    network: networks.CountNetwork

    def __init__(self, configs: Sequence[LifeCountConfig], device: torch.device) -> None:
        super().__init__(configs, device)
        self.network = networks.CountNetwork(self.shape)
        self._count_weight = torch.tensor([c.count_weight for c in configs], device=device)
        self._area = self.shape.board**2

    @property
    def layout(self) -> ParameterLayout:
        """See `LifeExperiment`."""
        return self.network.layout

    @property
    def untrained(self) -> slice:
        """See `LifeExperiment`: all but the first, for the decoder never sees the final board."""
        return slice(1, None)

    def discriminator_widths(self) -> list[int]:
        """See `LifeExperiment`."""
        return [layer * self.shape.disc_width for layer in range(1, self.shape.disc_layers + 1)]

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> CountForward:
        """Losses and training accuracy of a batch whose first states are `data` (bool `[R, B, H, W]`).

        The accuracy is the share of boards whose rounded count of s_m is right.
        """
        named = self.layout.unpack(parameters)
        sequence, _, second = self.data.unfold(data)
        with self.autocast():
            hidden = self.network.hidden_states(named, sequence[0])
            counts = [self.network.count(named, h) for h in (hidden[0], hidden[-1])]
            first = self._decode(named, hidden[0])
        wanted = [self._living(state) for state in (sequence[0], sequence[-1])]
        errors = [(count - share).square().mean(1) for count, share in zip(counts, wanted, strict=True)]
        loss = self._count_weight * (errors[0] + errors[1]) + self.supervised([first], sequence)
        right = self._is_right(counts[1].detach(), wanted[1]).double().mean(1)
        return CountForward(
            loss=loss, accuracy=right, right=right, sequence=sequence, second=second, hidden=hidden
        )

    def _decode(self, named: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        return networks.decode(named, hidden, name=networks.DECODER, depth=self.shape.dec_layers)

    def _living(self, boards: Tensor) -> Tensor:
        """Living cells as a share of the board: `[..., H, W]` to float32 `[...]`."""
        return boards.sum((-2, -1)).float() / self._area

    def _is_right(self, count: Tensor, wanted: Tensor) -> Tensor:
        """Which rounded counts are right; both are shares of the board."""
        return ((count - wanted) * self._area).abs() < 0.5

    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """See `LifeExperiment`: the squared error of the sigmoid output against s_1, at h_0 alone."""
        return (self.decoded(outputs[0]) - sequence[0].float()).square().mean((1, 2, 3))

    def decoded(self, output: Tensor) -> Tensor:
        """See `LifeExperiment`."""
        return output.sigmoid()

    @torch.no_grad()
    def traced(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """Pixel similarity of every decoded state, as in the state task; nothing but `state1` is trained."""
        assert isinstance(forward, CountForward)
        named = self.layout.unpack(parameters)
        similar: dict[str, Tensor] = {}
        for index, hidden in enumerate(forward.hidden):
            truth = similarity_truths(self.shape, index, forward.sequence)
            if len(truth):
                with self.autocast():
                    output = self._decode(named, hidden)
                board = self.decoded(output)
                values = [metrics.pixel_accuracy(board, state).mean(1) for state in truth]
                similar[f"state{index + 1}"] = torch.stack(values).amax(0)
        return {"count": forward.right, **similar}

    @torch.no_grad()
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Metrics and samples of a single run (R = 1) on the evaluation set of its board and gol, in float32.

        `correlation` is what the paper publishes: for each true state but the first the best over the model's
        states h_0 .. h_T, averaged over the true states, the larger of both decoders. `correlation_aligned` takes
        h_i for s_{i+1} without choosing, and exists where gol = model_t.
        """
        config = self.shape
        where = {"board": config.board, "sequences": config.eval_sequences, "device": self.device}
        truth = sampler.evaluation_states(config.gol, **where)
        wanted = self._living(truth[:, -1])
        parts: dict[str, list[Tensor]] = {}
        right = []
        for hidden, boards in self.evaluation_chunks(weights, truth, check):
            right.append(self.network.count(weights, hidden[-1])[0])
            for name, decoded in boards.items():
                parts.setdefault(name, []).append(decoded)
        boards = {name: torch.cat(decoded) for name, decoded in parts.items()}
        published = {
            name: mean(metrics.matthews(decoded, truth[:, 1:]).amax(0)) or 0.0
            for name, decoded in boards.items()
        }
        best = max(published, key=lambda name: published[name])
        values = {
            "correlation": published[best],
            "correlation_plain": published["plain"],
            "correlation_adv": published.get("adversarial"),
            "correlation_aligned": self._aligned(boards["plain"], truth),
            "correlation_aligned_adv": (
                self._aligned(boards["adversarial"], truth) if "adversarial" in boards else None
            ),
            "eval_accuracy": mean(self._is_right(torch.cat(right), wanted).double()),
            "autoencoder_accuracy": mean(metrics.pixel_accuracy(boards["plain"][:, 0], truth[:, 0])),
            **trivial_correlation(config.gol, **where),
        }
        # A true state without a living cell has no coefficient; a sequence of such states alone has no score.
        scores = {
            name: metrics.matthews_per_board(decoded, truth[:, 1:]).amax(1).nanmean(1)
            for name, decoded in boards.items()
        }
        return Evaluation(values, samples(boards, truth, scores, best=best))

    def _aligned(self, decoded: Tensor, truth: Tensor) -> float | None:
        if self.shape.gol != self.shape.model_t:
            return None
        return mean(metrics.matthews(decoded[:, 1:], truth[:, 1:]).diagonal())
