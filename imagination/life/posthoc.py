"""The adversarial decoder: trained on the frozen hidden states of a trained network (paper section 2.2).

A new decoder learns the targets of the network's own decoder. It also learns to decode the hidden states without a
target into boards that a discriminator cannot tell from real ones. Its gradients never reach the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from imagination.life.config import LifeConfig
from imagination.life.experiment import LifeExperiment, LifeStage
from imagination.life.networks import ADVERSARY, decode, stack_shapes
from imagination.training.adversary import Discriminator, Ramp
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Adam, Optimizer


def posthoc_stage(model: LifeExperiment[Any], widths: Sequence[int]) -> Experiment | None:
    """The stage after the network's training, if the config has one. Arguments as in `PosthocAdversary`."""
    return PosthocAdversary(model, widths) if model.shape.gan == "posthoc" else None


class PosthocAdversary(LifeStage[LifeConfig]):
    """R runs in the stage after their networks' training.

    The first columns of the parameters are the network's. They belong to no optimiser and do not change.

    Args:
        model: the runs' experiment in the stage before.
        widths: channels of the discriminator's convolutions.
    """

    stage = 1

    def __init__(self, model: LifeExperiment[Any], widths: Sequence[int]) -> None:
        super().__init__(model.configs, model.device, real_boards=True)
        self._model = model
        self._discriminator = Discriminator(widths, board=self.shape.board)
        self._decoder = stack_shapes(ADVERSARY, self.shape, depth=self.shape.adv_depth, channels_out=1)
        self.layout = ParameterLayout({**model.layout.shapes, **self._decoder, **self._discriminator.shapes})
        self._ramp = Ramp(self.configs, self.device)

    @override
    def select(self, kept: Sequence[int]) -> "PosthocAdversary":
        return PosthocAdversary(self._model.select(kept), self._discriminator.widths)

    @override
    def updates(self, config: LifeConfig) -> int:
        return config.adv_steps

    @override
    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The decoder's optimiser, on the model's schedule over `adv_steps`, and the discriminator's."""
        decoder = [replace(c, lr=c.adv_lr, max_steps=c.adv_steps) for c in self.configs]
        return [
            (self.layout.columns(self._decoder), Adam(decoder, self.device)),
            (self.layout.columns(self._discriminator.shapes), self.discriminator_optimizer()),
        ]

    @override
    def forward(self, parameters: Tensor, data: Tensor, steps: Tensor) -> Forward:
        """Losses of a batch whose first states are `data` (bool `[R, 2 B, H, W]`)."""
        named = self.layout.unpack(parameters)
        sequence, real, second = self.sequences(data)
        outputs = self._outputs(named, sequence[0])
        loss = self._model.supervised([outputs[0], outputs[-1]], sequence)
        judged = outputs[self._model.untrained].transpose(0, 1)
        fake = self._model.decoded(judged).flatten(1, 2)  # [R, k B, H, W]
        generator, discriminator = self._discriminator.losses(
            named, real=real.float(), fake=fake, seeds=self.seeds, steps=steps
        )

        def traced() -> dict[str, Tensor]:
            boards = self._model.decoded(outputs.transpose(0, 1)).unbind(1)
            return {
                **self.similarity(boards, sequence, name="adv_state"),
                "adv_generator_loss": generator,
                "adv_discriminator_loss": discriminator,
            }

        total = loss + self._ramp.weight(steps) * generator + discriminator
        return Forward(loss=total, carry=second, traced=traced)

    def _outputs(self, named: Mapping[str, Tensor], first: Tensor) -> Tensor:
        """The adversarial decoder's outputs at h_0 .. h_T, `[T + 1, R, B, H, W]`."""
        with self.autocast():
            with torch.no_grad():
                hidden = self._model.network.hidden_states(named, first)
            depth = self.shape.adv_depth
            return torch.stack([decode(named, h, name=ADVERSARY, depth=depth) for h in hidden])

    @override
    def lots(self) -> Sequence[Sequence[int]]:
        return self._model.lots()

    @override
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Sequence[Evaluation]:
        """The networks' evaluations, with both decoders."""
        return self._model.evaluate(weights, check=check)
