"""The adversary of a decoder: a discriminator that tells real boards from decoded ones (paper section 2.2).

Generator and discriminator share one parameter vector and one update. Each loss sees the other side's parameters
detached, so the sum of the losses gives each side its own gradient.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imagination.training import draws, gpu, judge, layers, native, philox
from imagination.training.blocks import Blocks
from imagination.training.config import TrainingConfig
from imagination.training.optimizer import column
from imagination.training.pixels import Pixels

DROPOUT = 0.3
NAME = "discriminator"

_HALF_WORD = 2**16
_DROPPED = round(DROPOUT * _HALF_WORD)
_KEPT = 1 / (1 - _DROPPED / _HALF_WORD)


class Discriminator:
    """Stride-2 convolutions, each with LeakyReLU and dropout, then one linear output: the logit of "real".

    Attributes:
        widths: channels of each convolution.
        shapes: names and shapes of one run's parameters.
    """

    def __init__(self, widths: Sequence[int], *, board: int, kernel: int = 3) -> None:
        self.widths = list(widths)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._kernel = kernel
        self._sides: list[int] = []  # of the boards after each convolution
        width_in, side = 1, board
        for layer, width in enumerate(widths):
            self.shapes[f"{NAME}.{layer}.weight"] = (width, width_in, kernel, kernel)
            self.shapes[f"{NAME}.{layer}.bias"] = (width,)
            width_in, side = width, -(-side // 2)
            self._sides.append(side)
        self.shapes[f"{NAME}.linear.weight"] = (1, width_in * side * side)
        self.shapes[f"{NAME}.linear.bias"] = (1,)

    def masks(self, boards: Mapping[str, Tensor], *, seeds: Tensor, steps: Tensor) -> list[list[Tensor]]:
        """For each stream the dropout factors of every convolution's output, in that output's layout.

        Args:
            boards: by stream, `real` or `fake`, each `[R, N, H, W]`; equal seeds, steps and streams give equal masks.
            seeds: int64 `[R]`.
            steps: int64 `[R]`.
        """
        wanted = {
            _stream(stream, layer): (each.shape[1], self._sides[layer], width)
            for stream, each in boards.items()
            for layer, width in enumerate(self.widths)
        }
        if gpu.takes(seeds):
            masks = [draws.Mask(philox.number(name), *form) for name, form in wanted.items()]
            found = draws.dropout(seeds, steps, masks, dropped=_DROPPED, kept=_KEPT)
        else:
            found = [_dropout(seeds, steps, name, *form) for name, form in wanted.items()]
        depth = len(self.widths)
        return [found[first : first + depth] for first in range(0, len(found), depth)]

    def logits(self, parameters: Mapping[str, Tensor], boards: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """The logit `[R, N]` of every board, float `[R, N, H, W]`, with the dropout factors of `masks`."""
        x = layers.fold(boards, parameters[f"{NAME}.0.weight"], compiled=False)
        for layer, mask in enumerate(masks):
            weight, bias = (parameters[f"{NAME}.{layer}.{part}"] for part in ("weight", "bias"))
            if isinstance(x, Pixels):
                found = x.convolutions([weight], [bias], slopes=[layers.LEAKY_SLOPE], stride=2)
                x = Pixels(found.values * mask)
            else:
                assert isinstance(x, Tensor)
                x = F.leaky_relu(layers.convolve(x, weight, bias, stride=2), layers.LEAKY_SLOPE) * mask
        return layers.linear(parameters, f"{NAME}.linear", x)

    def losses(
        self, parameters: Mapping[str, Tensor], *, real: Tensor, fake: Tensor, seeds: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The generator's and the discriminator's loss, each `[R]`: binary cross-entropy with logits.

        The generator's loss has a gradient only for `fake`, the discriminator's only for its own parameters. Both use
        the same dropout masks for the fake boards.

        Args:
            parameters: by name, each `[R, ...]`.
            real: boards of other chains, float `[R, N, H, W]`.
            fake: decoded boards, float `[R, M, H, W]`.
            seeds: int64 `[R]`.
            steps: int64 `[R]`.
        """
        linear = parameters[f"{NAME}.linear.weight"]
        if self._kernel == 3 and native.usable(linear) and not gpu.takes(linear):
            fooled, judged, known = self._compiled(parameters, real=real, fake=fake, seeds=seeds, steps=steps)
        else:
            fooled, judged, known = self._plain(parameters, real=real, fake=fake, seeds=seeds, steps=steps)
        generator = F.softplus(-fooled).mean(1)
        discriminator = F.softplus(-known).mean(1) + F.softplus(judged).mean(1)
        return generator, discriminator

    def _plain(
        self, parameters: Mapping[str, Tensor], *, real: Tensor, fake: Tensor, seeds: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of the fake boards for the generator, of the fake boards, and of the real boards."""
        frozen = {name: value.detach() for name, value in parameters.items() if name.startswith(NAME)}
        of_fake, of_real = self.masks({"fake": fake, "real": real}, seeds=seeds, steps=steps)
        fooled = self.logits(frozen, fake, of_fake)
        judged = self.logits(parameters, fake.detach(), of_fake)
        known = self.logits(parameters, real, of_real)
        return fooled, judged, known

    def _compiled(
        self, parameters: Mapping[str, Tensor], *, real: Tensor, fake: Tensor, seeds: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_plain`, all boards in one pass."""
        both = [Blocks.fold(fake), Blocks.fold(real)]
        middle, end = both[0].groups, both[0].groups + both[1].groups
        factors = []
        for layer, width in enumerate(self.widths):
            side = self._sides[layer]
            shape = (len(seeds), end, width, side + 2, side + 2, native.LANES)
            factors.append(torch.empty(shape))
            for stream, groups in (("fake", range(middle)), ("real", range(middle, end))):
                number = philox.number(_stream(stream, layer))
                native.dropout(
                    factors[-1], seeds, steps, stream=number, groups=groups, dropped=_DROPPED, kept=_KEPT
                )
        for_generator, own = judge.logits(
            torch.cat([each.values for each in both], dim=1),
            factors,
            [parameters[f"{NAME}.{layer}.weight"] for layer in range(len(self.widths))],
            [parameters[f"{NAME}.{layer}.bias"] for layer in range(len(self.widths))],
            parameters[f"{NAME}.linear.weight"],
            parameters[f"{NAME}.linear.bias"],
        )
        ends = middle * native.LANES
        fakes, reals = fake.shape[1], real.shape[1]
        return for_generator[:, :fakes], own[:, :fakes], own[:, ends : ends + reals]


class Ramp:
    """The weight of the generator's loss, which rises linearly from 0 over the share `adv_ramp` of `adv_steps`."""

    def __init__(self, configs: Sequence[TrainingConfig], device: torch.device) -> None:
        self._weight = column([c.adv_weight for c in configs], device)
        self._rise = column([c.adv_ramp * c.adv_steps for c in configs], device)

    def weight(self, steps: Tensor) -> Tensor:
        """The weight `[R]` of the update after `steps` (int64 `[R]`) updates."""
        done = steps.float()
        risen = torch.where(self._rise > 0, (done / self._rise.clamp(min=1)).clamp(max=1), 1.0)
        return self._weight * risen


def _stream(kind: str, layer: int) -> str:
    return f"dropout.{kind}.{layer}"


def _dropout(seeds: Tensor, steps: Tensor, stream: str, lanes: int, side: int, width: int) -> Tensor:
    """Dropout factors float32 `[N, R*C, h, w]`, 0 or 1 / keep probability, from 16 random bits each."""
    count = width * side**2
    words = philox.words(seeds, steps, stream=stream, lanes=lanes, count=-(-count // 2))
    halves = torch.stack((words & (_HALF_WORD - 1), words >> 16), dim=-1).flatten(2)[..., :count]
    factors = (halves >= _DROPPED).float() * _KEPT
    return factors.transpose(0, 1).reshape(lanes, -1, side, side)
