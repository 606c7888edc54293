"""The state task: predict s_m from s_1, then decode the hidden states in between (paper sections 2 and 3.1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from imagination import metrics
from imagination.life import networks, sampler
from imagination.life.baselines import baseline_metrics
from imagination.life.config import LifeStateConfig
from imagination.life.experiment import LifeExperiment
from imagination.life.posthoc import posthoc_stage
from imagination.life.samples import mean, number, samples
from imagination.runner import Needed
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Optimizer
from imagination.training.runner import GradientRunner

_DISCRIMINATOR_WIDTHS = [4, 8, 16]  # the authors' code


class LifeState(LifeExperiment[LifeStateConfig]):
    """R runs of the state task. With `gan: joint` the network is also trained against a discriminator."""

    untrained = slice(1, -1)  # the intermediate states

    def __init__(
        self,
        configs: Sequence[LifeStateConfig],
        device: torch.device,
        *,
        needs: Sequence[Mapping[str, Needed]] = (),
    ) -> None:
        is_joint = configs[0].gan == "joint"
        super().__init__(configs, device, real_boards=is_joint, needs=needs)
        self.network = networks.StateNetwork(self.shape)
        self._autoencoder = torch.tensor([c.ae for c in configs], device=device)
        self._squared = torch.tensor([c.loss == "l2" for c in configs], device=device)
        # On the host, so that no step waits for the device.
        self._any_autoencoder = any(c.ae for c in configs)
        self._losses = {c.loss for c in configs}
        self._discriminator: Discriminator | None = None
        shapes = self.network.layout.shapes
        if is_joint:
            self._discriminator = Discriminator(_DISCRIMINATOR_WIDTHS, board=self.shape.board)
            self._ramp = Ramp(configs, device)
            shapes = {**shapes, **self._discriminator.shapes}
        self.layout = ParameterLayout(shapes)

    @override
    def next_stage(self) -> Experiment | None:
        return posthoc_stage(self, _DISCRIMINATOR_WIDTHS)

    @override
    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The network's optimisers, and with `gan: joint` the discriminator's."""
        groups = super().optimizers()
        if self._discriminator is not None:
            columns = self.layout.columns(self._discriminator.shapes)
            groups.append((columns, self.discriminator_optimizer()))
        return groups

    @override
    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Losses and training accuracy of a batch whose first states are `data` (bool `[R, L, H, W]`)."""
        named = self.layout.unpack(parameters)
        sequence, real, second = self.sequences(data)
        with self.autocast():
            hidden = self.network.hidden_states(named, sequence[0])
            last = self.decode(named, hidden[-1])
            first = self.decode(named, hidden[0]) if self._any_autoencoder else last
        loss = self.supervised([first, last], sequence)
        if self._discriminator is not None:
            with self.autocast():
                untrained = [self.decode(named, h) for h in hidden[self.untrained]]
            between = torch.cat(untrained, dim=1)  # [R, (T - 1) B, H, W]
            generator, discriminator = self._discriminator.losses(
                named, real=real.float(), fake=self.decoded(between), seeds=self.seeds, steps=steps
            )
            loss = loss + self._ramp.weight(steps) * generator + discriminator
        accuracy = metrics.pixel_accuracy(self.decoded(last), sequence[-1]).mean(1)
        return Forward(
            loss=loss,
            accuracy=accuracy,
            carry=second,
            traced=lambda: self.traced(named, hidden, sequence),
        )

    @override
    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """The loss `[R]` of s_m at h_T; with the autoencoder, the mean of this loss and that of s_1 at h_0."""
        first, last = outputs
        loss = self._loss(last, sequence[-1])
        if self._any_autoencoder:
            both = (loss + self._loss(first, sequence[0])) / 2
            loss = torch.where(self._autoencoder, both, loss)
        return loss

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss per run `[R]`: BCE with logits, or the squared error of the linear output."""
        wanted = target.float()
        if self._losses == {"l2"}:
            pixels = (output - wanted).square()
        else:
            pixels = F.binary_cross_entropy_with_logits(output, wanted, reduction="none")
        if len(self._losses) == 2:  # runs with different losses share this pack
            pixels = torch.where(self._squared[:, None, None, None], (output - wanted).square(), pixels)
        return pixels.mean((1, 2, 3))

    @override
    def decoded(self, output: Tensor) -> Tensor:
        """The sigmoid of a logit, or the unchanged linear output (`loss: l2`)."""
        if self._losses == {"bce"}:
            return output.sigmoid()
        squared = self._squared.reshape(-1, *[1] * (output.ndim - 1))
        return torch.where(squared, output, output.sigmoid())

    @override
    @torch.no_grad()
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Sequence[Evaluation]:
        """Each run's metrics and samples on the evaluation set of its board and gol, in float32."""
        where = self.evaluation_set()
        truth = sampler.evaluation_states(self.shape.gol, **where)
        baselines = baseline_metrics(self.shape.gol, self.shape.model_t, **where)
        chunks = [boards for _, boards in self.evaluation_chunks(weights, truth, check)]
        return [self._evaluation(boards, truth, baselines) for boards in self.boards_by_run(weights, chunks)]

    def _evaluation(
        self, boards: Mapping[str, Tensor], truth: Tensor, baselines: Mapping[str, float | None]
    ) -> Evaluation:
        """A run's evaluation, from its decoders' boards `[N, T + 1, H, W]`."""
        config, between = self.shape, truth[:, 1:-1]
        imagined = {name: decoded[:, 1:-1] for name, decoded in boards.items()}
        scores = {name: metrics.interpretability(each, between) for name, each in imagined.items()}
        means = {name: mean(score) for name, score in scores.items()}
        best = max(means, key=lambda name: means[name] or 0.0)
        shown = boards.get("plain", boards[best])  # the network's own decoder
        values = {
            "metric": means[best],
            "metric_plain": means.get("plain"),
            "metric_adv": means.get("adversarial"),
            "metric_dataset": _largest(
                number(metrics.interpretability_dataset(each, between)) for each in imagined.values()
            ),
            "metric_slip": _largest(self._slip(each, truth) for each in imagined.values()),
            "aligned_accuracy": (  # decoded state i against s_i, over the intermediate states
                mean(metrics.pixel_accuracy(shown[:, 1:-1], between))
                if config.gol == config.model_t
                else None
            ),
            "eval_accuracy": mean(metrics.pixel_accuracy(shown[:, -1], truth[:, -1])),
            "autoencoder_accuracy": mean(metrics.pixel_accuracy(shown[:, 0], truth[:, 0])),
            **baselines,
        }
        return Evaluation(values, samples(boards, truth, scores, best=best))

    def _slip(self, imagined: Tensor, truth: Tensor) -> float | None:
        """The metric with the authors' index slip, which exists where gol > model_t; None elsewhere.

        For 3/2 their code scores against states 2 and 4 of 4; for other timesteps its behaviour is unknown. Here the
        final state always replaces the last intermediate state.
        """
        if self.shape.gol <= self.shape.model_t:
            return None
        slipped = torch.cat((truth[:, 1:-2], truth[:, -1:]), dim=1)
        return mean(metrics.interpretability(imagined, slipped))


RUNNER = GradientRunner(LifeState)


def _largest(values: Iterable[float | None]) -> float | None:
    """The largest value over the decoders, as in the paper; None if no decoder has a value."""
    return max((value for value in values if value is not None), default=None)
