"""The adversarial decoder: trained on the frozen hidden states of a trained network (paper section 2.2).

A new decoder learns the network decoder's targets, and to decode the hidden states that have none into boards that a
discriminator takes for real ones. Nothing of it reaches the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagination import metrics
from imagination.life.config import LifeConfig
from imagination.life.data import LifeData, LifeForward, similarity_truths
from imagination.life.networks import ADVERSARY, decode, decoder_shapes
from imagination.training import adversary
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Adam, AdamSettings, Optimizer

if TYPE_CHECKING:
    from imagination.life.experiment import LifeExperiment


@dataclass(frozen=True, kw_only=True)
class PosthocForward(LifeForward):
    """One batch of the adversarial stage.

    Attributes:
        outputs: the adversarial decoder's outputs at h_0 .. h_T, `[T + 1, R, B, H, W]`.
        generator: the generator's loss, `[R]`.
        discriminator: the discriminator's loss, `[R]`.
    """

    outputs: Tensor
    generator: Tensor
    discriminator: Tensor


class PosthocAdversary:
    """R runs in the stage after their networks' training; see `imagination.training.loop.Experiment`.

    The first columns of the parameters are the network's, and belong to no optimiser: they stay as they are.

    Args:
        model: the runs' experiment.
        widths: channels of the discriminator's convolutions.
    """

    stage = 1

    def __init__(self, model: "LifeExperiment[Any]", widths: Sequence[int]) -> None:
        self._model = model
        self._shape: LifeConfig = model.shape
        self.configs: list[Any] = model.configs
        self.device = model.device
        self._data = LifeData(self.configs, self.device, stage=self.stage, real_boards=True)
        self._discriminator = Discriminator(widths, board=self._shape.board)
        self._decoder = decoder_shapes(ADVERSARY, self._shape, depth=self._shape.adv_depth)
        self.layout = ParameterLayout({**model.layout.shapes, **self._decoder, **self._discriminator.shapes})
        self._ramp = Ramp(self.configs, self.device)

    def select(self, kept: Sequence[int]) -> "PosthocAdversary":
        """The same stage with these runs alone."""
        return PosthocAdversary(self._model.select(kept), self._discriminator.widths)

    def next_stage(self) -> Experiment | None:
        """None: this stage is the last."""
        return None

    def updates(self, config: LifeConfig) -> int:
        """How many updates a run of this stage has."""
        return config.adv_steps

    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The decoder's optimiser and the discriminator's; the network's columns have none."""
        decoder = [
            AdamSettings(
                lr=c.adv_lr,
                schedule=c.schedule,
                warmup=c.warmup,
                decay=c.decay,
                max_steps=c.adv_steps,
                clip=c.clip,
                clip_by=c.clip_by,
            )
            for c in self.configs
        ]
        return [
            (self.layout.columns(self._decoder), Adam.of(decoder, self.device)),
            (
                self.layout.columns(self._discriminator.shapes),
                adversary.discriminator_optimizer(self.configs, self.device),
            ),
        ]

    def initial_parameters(self) -> Tensor:
        """Fresh parameters, float32 `[R, P]`; the network's are to be put into its columns."""
        return self.layout.glorot_uniform(self._data.seeds)

    def initial_data(self) -> Tensor:
        """First states of the first batch and of the real boards, bool `[R, 2 B, H, W]`."""
        return self._data.initial()

    def next_data(self, forward: Forward, steps: Tensor) -> Tensor:
        """First states of the batch of each run's step (`steps`, int64 `[R]`)."""
        assert isinstance(forward, LifeForward)
        return self._data.next(forward.second, steps)

    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> PosthocForward:
        """Losses of a batch whose first states are `data` (bool `[R, 2 B, H, W]`)."""
        named = self.layout.unpack(parameters)
        sequence, real, second = self._data.unfold(data)
        outputs = self._outputs(named, sequence[0])
        loss = self._model.supervised([outputs[0], outputs[-1]], sequence)
        judged = outputs[self._model.untrained].transpose(0, 1)
        fake = self._model.decoded(judged).flatten(1, 2)  # [R, k B, H, W]
        generator, discriminator = self._discriminator.losses(
            named, real=real.float(), fake=fake, seeds=self._data.seeds, steps=steps
        )
        total = loss + self._ramp.weight(steps) * generator + discriminator
        return PosthocForward(
            loss=total,
            sequence=sequence,
            second=second,
            outputs=outputs.detach(),
            generator=generator.detach(),
            discriminator=discriminator.detach(),
        )

    def _outputs(self, named: Mapping[str, Tensor], first: Tensor) -> Tensor:
        """The adversarial decoder's outputs at h_0 .. h_T, `[T + 1, R, B, H, W]`."""
        with self._model.autocast():
            with torch.no_grad():
                hidden = torch.cat(self._model.network.hidden_states(named, first))  # [(T + 1) B, R*C, H, W]
            output = decode(named, hidden, name=ADVERSARY, depth=self._shape.adv_depth)
        runs = output.shape[0]
        return output.reshape(runs, self._shape.model_t + 1, -1, *output.shape[2:]).transpose(0, 1)

    @torch.no_grad()
    def traced(self, parameters: Tensor, forward: Forward) -> dict[str, Tensor]:
        """Pixel similarity of every board that the adversarial decoder makes, and both sides' losses."""
        assert isinstance(forward, PosthocForward)
        similar: dict[str, Tensor] = {}
        for index, output in enumerate(self._model.decoded(forward.outputs.transpose(0, 1)).unbind(1)):
            truth = similarity_truths(self._shape, index, forward.sequence)
            if len(truth):
                values = [metrics.pixel_accuracy(output, state).mean(1) for state in truth]
                similar[f"adv_state{index + 1}"] = torch.stack(values).amax(0)
        return {
            **similar,
            "adv_generator_loss": forward.generator,
            "adv_discriminator_loss": forward.discriminator,
        }

    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """The network's evaluation, with both decoders."""
        return self._model.evaluate(weights, check=check)
