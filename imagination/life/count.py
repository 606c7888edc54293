"""The counting task: predict how many cells of s_m live, then decode the LSTM's states (paper section 3.2, Table 4)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from imagination import metrics
from imagination.life import networks, sampler
from imagination.life.baselines import baseline_correlations
from imagination.life.config import LifeCountConfig
from imagination.life.experiment import LifeExperiment
from imagination.life.posthoc import posthoc_stage
from imagination.life.samples import mean, samples
from imagination.runner import Needed
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.runner import GradientRunner


class LifeCount(LifeExperiment[LifeCountConfig]):
    """R runs of the counting task.

    The count head is trained at h_0 (living cells of s_1) and at h_T (of s_m). The board decoder is trained only at
    h_0, on s_1. Neither ever sees an intermediate state, and the decoder never sees the final one.
    """

    network: networks.CountNetwork
    untrained = slice(1, None)  # h_T, too, because the decoder never sees the final state

    def __init__(
        self,
        configs: Sequence[LifeCountConfig],
        device: torch.device,
        *,
        needs: Sequence[Mapping[str, Needed]] = (),
    ) -> None:
        super().__init__(configs, device, needs=needs)
        self.network = networks.CountNetwork(self.shape)
        self.layout = self.network.layout
        self._count_weight = torch.tensor([c.count_weight for c in configs], device=device)
        self._area = self.shape.board**2

    @override
    def next_stage(self) -> Experiment | None:
        widths = [layer * self.shape.disc_width for layer in range(1, self.shape.disc_layers + 1)]
        return posthoc_stage(self, widths)

    @override
    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Losses and training accuracy of a batch whose first states are `data` (bool `[R, B, H, W]`).

        The accuracy is the share of boards whose rounded count of s_m is right.
        """
        named = self.layout.unpack(parameters)
        sequence, _, second = self.sequences(data)
        with self.autocast():
            hidden = self.network.hidden_states(named, sequence[0])
            counts = [self.network.count(named, h) for h in (hidden[0], hidden[-1])]
            first = self.decode(named, hidden[0])
        wanted = [self._living(state) for state in (sequence[0], sequence[-1])]
        errors = [(count - share).square().mean(1) for count, share in zip(counts, wanted, strict=True)]
        loss = self._count_weight * (errors[0] + errors[1]) + self.supervised([first], sequence)
        accuracy = self._is_right(counts[1].detach(), wanted[1]).double().mean(1)
        return Forward(
            loss=loss,
            accuracy=accuracy,
            carry=second,
            traced=lambda: {"count": accuracy, **self.traced(named, hidden, sequence)},
        )

    def _living(self, boards: Tensor) -> Tensor:
        """Living cells as a share of the board: `[..., H, W]` to float32 `[...]`."""
        return boards.sum((-2, -1)).float() / self._area

    def _is_right(self, count: Tensor, wanted: Tensor) -> Tensor:
        """Whether each rounded count is right; both are shares of the board."""
        return ((count - wanted) * self._area).abs() < 0.5

    @override
    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """The squared error `[R]` of the sigmoid output at h_0 against s_1."""
        return (self.decoded(outputs[0]) - sequence[0].float()).square().mean((1, 2, 3))

    @override
    def decoded(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    @override
    @torch.no_grad()
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Sequence[Evaluation]:
        """Each run's metrics and samples on the evaluation set of its board and gol, in float32.

        `correlation` is the paper's value. For each true state except the first it takes the best of h_0 .. h_T, then
        the mean over the true states, then the larger value of both decoders. `correlation_aligned` compares h_i
        only with s_{i+1}, and exists where gol = model_t.
        """
        config = self.shape
        where = self.evaluation_set()
        truth = sampler.evaluation_states(config.gol, **where)
        baselines = baseline_correlations(config.gol, config.model_t, **where)
        chunks, counts = [], []
        for hidden, decoded in self.evaluation_chunks(weights, truth, check):
            counts.append(self.network.count(weights, hidden[-1]))
            chunks.append(decoded)
        right = self._is_right(torch.cat(counts, dim=1), self._living(truth[:, -1]))
        boards = self.boards_by_run(weights, chunks)
        return [self._evaluation(each, truth, right[run], baselines) for run, each in enumerate(boards)]

    def _evaluation(
        self,
        boards: Mapping[str, Tensor],
        truth: Tensor,
        right: Tensor,
        baselines: Mapping[str, float | None],
    ) -> Evaluation:
        """A run's evaluation, from its decoders' boards `[N, T + 1, H, W]` and whether its counts are right, `[N]`."""
        published = {
            name: mean(metrics.matthews(decoded, truth[:, 1:]).amax(0)) or 0.0
            for name, decoded in boards.items()
        }
        aligned = {name: self._aligned(decoded, truth) for name, decoded in boards.items()}
        best = max(published, key=lambda name: published[name])
        values = {
            "correlation": published[best],
            "correlation_plain": published["plain"],
            "correlation_adv": published.get("adversarial"),
            "correlation_aligned": aligned["plain"],
            "correlation_aligned_adv": aligned.get("adversarial"),
            "eval_accuracy": mean(right.double()),
            "autoencoder_accuracy": mean(metrics.pixel_accuracy(boards["plain"][:, 0], truth[:, 0])),
            **baselines,
        }
        # A true state without a living cell has no coefficient. A sequence with only such states has no score.
        scores = {
            name: metrics.matthews_per_board(decoded, truth[:, 1:]).amax(1).nanmean(1)
            for name, decoded in boards.items()
        }
        return Evaluation(values, samples(boards, truth, scores, best=best))

    def _aligned(self, decoded: Tensor, truth: Tensor) -> float | None:
        if self.shape.gol != self.shape.model_t:
            return None
        return mean(metrics.matthews(decoded[:, 1:], truth[:, 1:]).diagonal())


RUNNER = GradientRunner(LifeCount)
