"""Encoder, timesteps, decoder and count head of the Game of Life networks (paper section 2.1).

A network object holds no parameters. It computes with the parameters of R runs of equal shapes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor
from typing_extensions import override

from imagination.life.config import LifeConfig, LifeCountConfig, LifeStateConfig
from imagination.training import layers
from imagination.training.layers import Activations, ParameterLayout

DECODER, ADVERSARY = "decoder", "adversary"
"""Names of the decoder trained with the network, and of the adversarial decoder trained after it."""


class Network(Protocol):
    """Computes hidden states from s_1. `layout` has the names and shapes of one run's parameters."""

    layout: ParameterLayout

    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> Sequence[Activations]:
        """h_0 .. h_T, T = model_t, from s_1, bool or 0/1 `[R, B, H, W]`."""


def stack_shapes(
    name: str, config: LifeConfig, *, depth: int, channels_in: int = 0, channels_out: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shapes of a stack of `depth` convolutions `name.0`, `name.1`, ...: weights `[out, in, k, k]`, biases `[out]`.

    The first reads `channels_in` channels and the last has `channels_out`; 0 is the width of the hidden layers.
    """
    width, kernel = config.channels, config.kernel
    widths = [channels_in or width, *[width] * (depth - 1), channels_out or width]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (width_in, width_out) in enumerate(pairwise(widths)):
        shapes[f"{name}.{layer}.weight"] = (width_out, width_in, kernel, kernel)
        shapes[f"{name}.{layer}.bias"] = (width_out,)
    return shapes


def decode(parameters: Mapping[str, Tensor], hidden: Activations, *, name: str, depth: int) -> Tensor:
    """A decoder's linear output, float32 `[R, B, H, W]`, for a hidden state.

    A decoder that has no weights of its own is the encoder in reverse.
    """
    if f"{name}.0.weight" not in parameters:
        parameters = {**parameters, **_transposed_encoder(parameters, name=name, depth=depth)}
    return layers.boards(layers.convolutions(parameters, name, hidden, layers=depth, linear_end=True))


def _transposed_encoder(parameters: Mapping[str, Tensor], *, name: str, depth: int) -> dict[str, Tensor]:
    """Weights for `name`, `[R, in, out, k, k]` of the encoder's `[R, out, in, k, k]`, turned by half a circle."""
    weights = [parameters[f"encoder.{layer}.weight"] for layer in reversed(range(depth))]
    return {
        f"{name}.{layer}.weight": weight.transpose(1, 2).flip(-2, -1) for layer, weight in enumerate(weights)
    }


def _encode(config: LifeConfig, parameters: Mapping[str, Tensor], first: Tensor) -> Activations:
    """h_0 of s_1 `[R, B, H, W]`."""
    folded = layers.fold(first, parameters["encoder.0.weight"])
    encoded = layers.convolutions(parameters, "encoder", folded, layers=config.enc_layers)
    if not isinstance(encoded, Tensor):
        return encoded
    # Setting this layout on the boards has no effect: a tensor of one channel has both layouts.
    return encoded.contiguous(memory_format=layers.memory_format(first.device))


class StateNetwork(Network):
    """The network of the state task.

    h_0 = encoder(s_1), then h_t = h_{t-1} + step(h_{t-1}) for every timestep. The decoder reads any hidden state.
    """

    def __init__(self, config: LifeStateConfig) -> None:
        self._config = config
        shapes = stack_shapes("encoder", config, depth=config.enc_layers, channels_in=1)
        for name in dict.fromkeys(self._step_names()):
            shapes |= stack_shapes(name, config, depth=config.step_layers)
        decoder = stack_shapes(DECODER, config, depth=config.decoder_depth, channels_out=1)
        if config.tied:
            decoder = {name: shape for name, shape in decoder.items() if name.endswith(".bias")}
        self.layout = ParameterLayout(layers.kernels_first({**shapes, **decoder}))

    def _step_names(self) -> list[str]:
        """The name of each timestep's step network; all timesteps share one unless `rnn` is false."""
        return ["step" if self._config.rnn else f"step{t}" for t in range(1, self._config.model_t + 1)]

    @override
    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> Sequence[Activations]:
        config, hidden = self._config, [_encode(self._config, parameters, first)]
        for name in self._step_names():
            hidden.append(
                layers.convolutions(
                    parameters, name, hidden[-1], layers=config.step_layers, residual=config.residual
                )
            )
        return hidden


class CountNetwork(Network):
    """The network of the counting task: stacked convolutional LSTM layers and a count head.

    The LSTM reads the encoding at the first timestep and zeros afterwards; its states start at zero. h_0 is the
    encoding itself, h_t the top layer's output after t timesteps.
    """

    def __init__(self, config: LifeCountConfig) -> None:
        self._config = config
        shapes = stack_shapes("encoder", config, depth=config.enc_layers, channels_in=1)
        for layer in range(config.lstm_layers):
            shapes |= layers.lstm_shapes(f"lstm{layer + 1}", channels=config.channels, kernel=config.kernel)
        shapes |= stack_shapes("count", config, depth=config.count_layers)
        shapes["count.linear.weight"] = (1, config.channels * config.board**2)
        shapes["count.linear.bias"] = (1,)
        shapes |= stack_shapes(DECODER, config, depth=config.dec_layers, channels_out=1)
        self.layout = ParameterLayout(layers.kernels_first(shapes))

    @override
    def hidden_states(self, parameters: Mapping[str, Tensor], first: Tensor) -> Sequence[Activations]:
        hidden = [_encode(self._config, parameters, first)]
        cells: list[tuple[Activations, Tensor] | None] = [None] * self._config.lstm_layers
        for timestep in range(self._config.model_t):
            x = hidden[0] if timestep == 0 else None
            for layer, cell in enumerate(cells):
                x, memory = layers.lstm_step(parameters, f"lstm{layer + 1}", x, cell)
                cells[layer] = (x, memory)
            assert x is not None
            hidden.append(x)
        return hidden

    def count(self, parameters: Mapping[str, Tensor], hidden: Activations) -> Tensor:
        """The count head's output for a hidden state: living cells as a share of the board, `[R, B]`."""
        depth = self._config.count_layers
        x = layers.convolutions(parameters, "count", hidden, layers=depth)
        return layers.linear(parameters, "count.linear", x)
