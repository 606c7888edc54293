"""Encoder, time steps, decoder and count head of the Game of Life networks (paper section 2.1).

A network object holds no parameters. It computes with the parameters of R runs that share its shape.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from imagination.life.config import LifeConfig, LifeCountConfig, LifeStateConfig
from imagination.training import layers
from imagination.training.layers import ParameterLayout

DECODER, ADVERSARY = "decoder", "adversary"
"""Names of the decoder trained with the network, and of the adversarial decoder trained after it."""


class Network(Protocol):
    """Computes hidden states from s_1."""

    layout: ParameterLayout

    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> list[Tensor]:
        """h_0 .. h_T, T = model_t, each `[B, R*C, H, W]`, from s_1, bool or 0/1 `[R, B, H, W]`."""


def decoder_shapes(name: str, config: LifeConfig, *, depth: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a decoder of `depth` convolutions."""
    return _stack_shapes(name, config, depth=depth, channels_out=1)


def _stack_shapes(
    name: str,
    config: LifeConfig,
    *,
    depth: int,
    channels_in: int | None = None,
    channels_out: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of `depth` convolutions, of the config's width unless given."""
    return layers.convolution_shapes(
        name,
        layers=depth,
        channels_in=channels_in or config.channels,
        channels=config.channels,
        channels_out=channels_out or config.channels,
        kernel=config.kernel,
    )


def decode(parameters: Mapping[str, Tensor], hidden: Tensor, *, name: str, depth: int) -> Tensor:
    """A decoder's linear output, float32 `[R, B, H, W]`, for a hidden state `[B, R*C, H, W]`."""
    output = layers.convolutions(parameters, name, hidden, layers=depth, linear_end=True)
    return layers.swap_run_axis(output).to(torch.float32)


def _encode(config: LifeConfig, parameters: Mapping[str, Tensor], first: Tensor) -> Tensor:
    """h_0 `[B, R*C, H, W]` of s_1 `[R, B, H, W]`."""
    encoded = layers.convolutions(
        parameters, "encoder", layers.swap_run_axis(first).float(), layers=config.enc_layers
    )
    # Not set on the boards: a tensor of one channel has both layouts at once and passes neither on.
    return encoded.contiguous(memory_format=layers.memory_format(first.device))


class StateNetwork(Network):
    """The network of the state task.

    h_0 = encoder(s_1), then h_t = h_{t-1} + step(h_{t-1}) for every timestep. The decoder reads any hidden state.

    Attributes:
        layout: names and shapes of one run's parameters.
    """

    def __init__(self, config: LifeStateConfig) -> None:
        self._config = config
        shapes = _stack_shapes("encoder", config, depth=config.enc_layers, channels_in=1)
        for name in dict.fromkeys(self._step_names()):
            shapes |= _stack_shapes(name, config, depth=config.step_layers)
        shapes |= decoder_shapes(DECODER, config, depth=config.dec_layers)
        self.layout = ParameterLayout(layers.kernels_first(shapes))

    def _step_names(self) -> list[str]:
        """The step network of each timestep: one for all, or one each (`rnn: false`)."""
        return ["step" if self._config.rnn else f"step{t}" for t in range(1, self._config.model_t + 1)]

    @override
    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> list[Tensor]:
        config = self._config
        hidden = [_encode(config, parameters, first)]
        for name in self._step_names():
            change = layers.convolutions(parameters, name, hidden[-1], layers=config.step_layers)
            hidden.append(hidden[-1] + change if config.residual else change)
        return hidden


class CountNetwork(Network):
    """The network of the counting task: stacked convolutional LSTM layers and a count head.

    The LSTM reads the encoding at the first timestep and zeros afterwards; its states start at zero. h_0 is the
    encoding itself, h_t the top layer's output after t timesteps.

    Attributes:
        layout: names and shapes of one run's parameters.
    """

    def __init__(self, config: LifeCountConfig) -> None:
        self._config = config
        shapes = _stack_shapes("encoder", config, depth=config.enc_layers, channels_in=1)
        for layer in range(config.lstm_layers):
            shapes |= layers.lstm_shapes(f"lstm{layer + 1}", channels=config.channels, kernel=config.kernel)
        shapes |= _stack_shapes("count", config, depth=config.count_layers)
        shapes["count.linear.weight"] = (1, config.channels * config.board**2)
        shapes["count.linear.bias"] = (1,)
        shapes |= decoder_shapes(DECODER, config, depth=config.dec_layers)
        self.layout = ParameterLayout(layers.kernels_first(shapes))

    @override
    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> list[Tensor]:
        hidden = [_encode(self._config, parameters, first)]
        cells: list[tuple[Tensor, Tensor] | None] = [None] * self._config.lstm_layers
        for timestep in range(self._config.model_t):
            x = hidden[0] if timestep == 0 else None
            for layer, cell in enumerate(cells):
                x, memory = layers.lstm_step(parameters, f"lstm{layer + 1}", x, cell)
                cells[layer] = (x, memory)
            assert x is not None
            hidden.append(x)
        return hidden

    def count(self, parameters: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """The count head's output `[R, B]`, living cells as a share of the board, for `[B, R*C, H, W]`."""
        x = layers.convolutions(parameters, "count", hidden, layers=self._config.count_layers)
        return layers.linear(parameters, "count.linear", x)
