"""Encoder, residual time step and decoder of the Game of Life networks (paper section 2.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from imagination.life.config import LifeStateConfig
from imagination.training import layers


class LifeNetwork:
    """The state network of R runs that share its shape; it holds no parameters, only how to use them.

    h_0 = encoder(s_1), then h_t = h_{t-1} + step(h_{t-1}) for every timestep; the decoder reads any of them.

    Attributes:
        layout: names and shapes of one run's parameters.
    """

    def __init__(self, config: LifeStateConfig) -> None:
        self._config = config
        width = {"channels": config.channels, "kernel": config.kernel}
        shapes = layers.convolution_shapes(
            "encoder", layers=config.enc_layers, channels_in=1, channels_out=config.channels, **width
        )
        for name in dict.fromkeys(self._step_names()):
            shapes |= layers.convolution_shapes(
                name,
                layers=config.step_layers,
                channels_in=config.channels,
                channels_out=config.channels,
                **width,
            )
        shapes |= layers.convolution_shapes(
            "decoder", layers=config.dec_layers, channels_in=config.channels, channels_out=1, **width
        )
        self.layout = layers.ParameterLayout(shapes)

    def _step_names(self) -> list[str]:
        """The step network of each timestep: always the same one, or one each (`rnn: false`)."""
        return ["step" if self._config.rnn else f"step{t}" for t in range(1, self._config.model_t + 1)]

    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> list[Tensor]:
        """h_0 .. h_T, T = model_t.

        Args:
            parameters: by name, each `[R, ...]`.
            first: s_1, bool or 0/1 `[R, B, H, W]`.

        Returns:
            T + 1 tensors, each `[B, R*C, H, W]`.
        """
        config = self._config
        x = layers.fold(first).float()
        encoded = layers.convolutions(parameters, "encoder", x, layers=config.enc_layers)
        # Here, not at the boards: a tensor of one channel has both layouts at once and passes neither on.
        form = layers.memory_format(first.device)
        hidden = [encoded.contiguous(memory_format=form)]
        for name in self._step_names():
            change = layers.convolutions(parameters, name, hidden[-1], layers=config.step_layers)
            hidden.append(hidden[-1] + change if config.residual else change)
        return hidden

    def decode(self, parameters: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """The decoder's linear output, float32 `[R, B, H, W]`, for a hidden state `[B, R*C, H, W]`."""
        output = layers.convolutions(
            parameters, "decoder", hidden, layers=self._config.dec_layers, linear_end=True
        )
        return layers.unfold(output).to(torch.float32)
