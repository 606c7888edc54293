"""The state task: predict s_m from s_1, then read the hidden states in between (paper sections 2 and 3.1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from imagination import metrics
from imagination.life import networks, sampler
from imagination.life.baselines import trivial_metric
from imagination.life.config import LifeStateConfig
from imagination.life.data import LifeForward, similarity_truths
from imagination.life.experiment import LifeExperiment
from imagination.life.samples import mean, number, samples
from imagination.training import adversary
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.experiment import Evaluation, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Optimizer

_DISCRIMINATOR_WIDTHS = [4, 8, 16]  # the authors' code


@dataclass(frozen=True, kw_only=True)
class StateForward(LifeForward):
    """One training batch of the state task.

    Attributes:
        hidden: h_0 .. h_T, each `[B, R*C, H, W]`.
        last: decoder output at h_T, `[R, B, H, W]`.
    """

    hidden: list[Tensor]
    last: Tensor


class LifeState(LifeExperiment[LifeStateConfig]):
    """R runs of the state task; with `gan: joint` the network is trained against a discriminator as well."""

    def __init__(self, configs: Sequence[LifeStateConfig], device: torch.device) -> None:
        super().__init__(configs, device)
        self.network = networks.StateNetwork(self.shape)
        self._autoencoder = torch.tensor([c.ae for c in configs], device=device)
        self._squared = torch.tensor([c.loss == "l2" for c in configs], device=device)
        # Known on the host, so that no step has to wait for the device to learn it.
        self._any_autoencoder = any(c.ae for c in configs)
        self._losses = {c.loss for c in configs}
        self._discriminator: Discriminator | None = None
        shapes = self.network.layout.shapes
        if self.shape.gan == "joint":
            self._discriminator = Discriminator(self.discriminator_widths(), board=self.shape.board)
            self._ramp = Ramp(configs, device)
            shapes = {**shapes, **self._discriminator.shapes}
        self._layout = ParameterLayout(shapes)

    @property
    def layout(self) -> ParameterLayout:
        """See `LifeExperiment`."""
        return self._layout

    @property
    def untrained(self) -> slice:
        """See `LifeExperiment`: the intermediate states."""
        return slice(1, -1)

    def discriminator_widths(self) -> list[int]:
        """See `LifeExperiment`."""
        return _DISCRIMINATOR_WIDTHS

    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The network's optimiser, and a joint discriminator's."""
        groups = super().optimizers()
        if self._discriminator is not None:
            own = self.layout.columns(self._discriminator.shapes)
            groups.append((own, adversary.discriminator_optimizer(self.configs, self.device)))
        return groups

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> StateForward:
        """Losses and training accuracy of a batch whose first states are `data` (bool `[R, L, H, W]`)."""
        named = self.layout.unpack(parameters)
        sequence, real, second = self.data.unfold(data)
        with self.autocast():
            hidden = self.network.hidden_states(named, sequence[0])
            last = self._decode(named, hidden[-1])
            first = self._decode(named, hidden[0]) if self._any_autoencoder else last
        loss = self.supervised([first, last], sequence)
        if self._discriminator is not None:
            fake = self._decoded_between(named, hidden)
            generator, discriminator = self._discriminator.losses(
                named, real=real.float(), fake=fake, seeds=self.data.seeds, steps=steps
            )
            loss = loss + self._ramp.weight(steps) * generator + discriminator
        accuracy = metrics.pixel_accuracy(self.decoded(last), sequence[-1]).mean(1)
        return StateForward(
            loss=loss, accuracy=accuracy, sequence=sequence, second=second, hidden=hidden, last=last
        )

    def _decode(self, named: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        return networks.decode(named, hidden, name=networks.DECODER, depth=self.shape.dec_layers)

    def _decoded_between(self, named: Mapping[str, Tensor], hidden: list[Tensor]) -> Tensor:
        """The decoded intermediate states of a batch, `[R, (T - 1) B, H, W]`."""
        with self.autocast():
            output = self._decode(named, torch.cat(hidden[1:-1]))
        return self.decoded(output)

    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """See `LifeExperiment`: s_m at h_T and, with the autoencoder, s_1 at h_0; their mean."""
        first, last = outputs
        loss = self._loss(last, sequence[-1])
        if self._any_autoencoder:
            both = (loss + self._loss(first, sequence[0])) / 2
            loss = torch.where(self._autoencoder, both, loss)
        return loss

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

    def decoded(self, output: Tensor) -> Tensor:
        """See `LifeExperiment`: a logit's sigmoid, or the linear output as it is."""
        squared = self._squared.reshape(-1, *[1] * (output.ndim - 1))
        return torch.where(squared, output, output.sigmoid())

    @torch.no_grad()
    def traced(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """The learning-order trace: pixel similarity of every decoded state with its true state, each `[R]`.

        `state1` is decoded from h_0, `state{T+1}` from h_T; where several true states are candidates the most
        similar one counts, and without any there is no value (see `similarity_truths`).
        """
        assert isinstance(forward, StateForward)
        named = self.layout.unpack(parameters)
        with self.autocast():
            earlier = [self._decode(named, hidden) for hidden in forward.hidden[:-1]]
        similar: dict[str, Tensor] = {}
        for index, output in enumerate([*earlier, forward.last]):
            truth = similarity_truths(self.shape, index, forward.sequence)
            if len(truth):
                board = self.decoded(output)
                values = [metrics.pixel_accuracy(board, state).mean(1) for state in truth]
                similar[f"state{index + 1}"] = torch.stack(values).amax(0)
        return similar

    @torch.no_grad()
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Metrics and samples of a single run (R = 1) on the evaluation set of its board and gol, in float32."""
        config = self.shape
        where = {"board": config.eval_board, "sequences": config.eval_sequences, "device": self.device}
        truth = sampler.evaluation_states(config.gol, **where)
        chunks = [boards for _, boards in self.evaluation_chunks(weights, truth, check)]
        boards = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        scores = {
            name: metrics.interpretability(decoded[:, 1:-1], truth[:, 1:-1])
            for name, decoded in boards.items()
        }
        means = {name: mean(score) for name, score in scores.items()}
        best = max(means, key=lambda name: means[name] or 0.0)
        shown = boards.get("plain", boards[best])  # the network's own decoder
        values = {
            "metric": means[best],
            "metric_plain": means.get("plain"),
            "metric_adv": means.get("adversarial"),
            "metric_dataset": _largest(self._by_dataset(board, truth) for board in boards.values()),
            "metric_slip": _largest(self._slip(board, truth) for board in boards.values()),
            "aligned_accuracy": self._aligned(shown, truth),
            "eval_accuracy": mean(metrics.pixel_accuracy(shown[:, -1], truth[:, -1])),
            "autoencoder_accuracy": mean(metrics.pixel_accuracy(shown[:, 0], truth[:, 0])),
            **trivial_metric(config.gol, config.model_t, **where),
        }
        return Evaluation(values, samples(boards, truth, scores, best=best))

    def _by_dataset(self, decoded: Tensor, truth: Tensor) -> float | None:
        return number(metrics.interpretability_dataset(decoded[:, 1:-1], truth[:, 1:-1]))

    def _aligned(self, decoded: Tensor, truth: Tensor) -> float | None:
        """Pixel accuracy of the decoded state i against s_i, over the intermediate ones; None if gol != model_t."""
        if self.shape.gol != self.shape.model_t:
            return None
        return mean(metrics.pixel_accuracy(decoded[:, 1:-1], truth[:, 1:-1]))

    def _slip(self, decoded: Tensor, truth: Tensor) -> float | None:
        """The authors' index slip where gol > model_t: the last intermediate state is scored as the final one.

        For 3/2 their code scores against states 2 and 4 of 4; for other timesteps nobody knows, and the same is
        done: the last of the intermediate states gives way to the final one.
        """
        if self.shape.gol <= self.shape.model_t:
            return None
        slipped = torch.cat((truth[:, 1:-2], truth[:, -1:]), dim=1)
        return mean(metrics.interpretability(decoded[:, 1:-1], slipped))


def _largest(values: Iterable[float | None]) -> float | None:
    """The larger of both decoders, as the paper reports a metric."""
    return max((value for value in values if value is not None), default=None)
