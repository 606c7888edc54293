"""A second implementation of the networks in plain numpy and float64, as the papers write them.

The tests compare with it. It uses no torch, numerical gradients only, and one run at a time.
"""

import numpy as np


def plain(named, run=0):
    """One run's parameters (of a dict of tensors `[R, ...]`) as float64 arrays."""
    return {name: value[run].detach().numpy().astype(np.float64) for name, value in named.items()}


def convolution(x, weight, bias=None, *, stride=1):
    """`[B, C, H, W]` with kernels `[O, C, k, k]`: half a kernel of zeros around, and one product per kernel pixel."""
    kernel = weight.shape[-1]
    side = kernel // 2
    height, width = (-(-length // stride) for length in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (side, side), (side, side)))
    out = np.zeros((len(x), len(weight), height, width))
    for i in range(kernel):
        for j in range(kernel):
            seen = padded[:, :, i : i + x.shape[2] : stride, j : j + x.shape[3] : stride]
            out += np.einsum("bchw,oc->bohw", seen, weight[:, :, i, j])
    return out if bias is None else out + bias[:, None, None]


def leaky(x):
    return np.where(x > 0, x, 0.3 * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def stack(named, name, x, count, *, linear_end=False):
    """The convolutions `name.0`, `name.1`, ..."""
    for layer in range(count):
        x = convolution(x, named[f"{name}.{layer}.weight"], named[f"{name}.{layer}.bias"])
        x = x if linear_end and layer == count - 1 else leaky(x)
    return x


def transposed(x, weight):
    """The adjoint of `convolution`: every pixel of `[B, O, H, W]` is spread by the kernels `[O, C, k, k]`."""
    kernel, (height, width) = weight.shape[-1], x.shape[2:]
    side = kernel // 2
    out = np.zeros((len(x), weight.shape[1], height + 2 * side, width + 2 * side))
    for i in range(kernel):
        for j in range(kernel):
            out[:, :, i : i + height, j : j + width] += np.einsum("bohw,oc->bchw", x, weight[:, :, i, j])
    return out[:, :, side : side + height, side : side + width]


def decode(config, named, hidden):
    """The network's own decoder, `[B, H, W]`."""
    if not getattr(config, "tied", False):
        return stack(named, "decoder", hidden, config.dec_layers, linear_end=True)[:, 0]
    for layer in reversed(range(config.enc_layers)):
        bias = named[f"decoder.{config.enc_layers - 1 - layer}.bias"]
        hidden = transposed(hidden, named[f"encoder.{layer}.weight"]) + bias[:, None, None]
        hidden = leaky(hidden) if layer else hidden
    return hidden[:, 0]


def linear(named, name, x):
    """One number per board: all channels of `[B, C, H, W]`, each row by row, against one weight each."""
    return x.reshape(len(x), -1) @ named[f"{name}.weight"][0] + named[f"{name}.bias"][0]


def lstm_step(named, name, x, h, c):
    """A convolutional LSTM cell (Shi et al., 2015, without peepholes); 1 is added to the forget gate."""
    gates = convolution(x, named[f"{name}.input.weight"], named[f"{name}.bias"])
    gates = gates + convolution(h, named[f"{name}.hidden.weight"])
    i, f, g, o = np.split(gates, 4, axis=1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def state_hidden(config, named, first):
    """h_0 .. h_T of the state task's network for boards `[B, H, W]`."""
    hidden = [stack(named, "encoder", first[:, None].astype(np.float64), config.enc_layers)]
    for timestep in range(1, config.model_t + 1):
        change = stack(named, "step" if config.rnn else f"step{timestep}", hidden[-1], config.step_layers)
        hidden.append(hidden[-1] + change if config.residual else change)
    return hidden


def count_hidden(config, named, first):
    """h_0 .. h_T of the counting task's network: the encoding is read once, then zeros."""
    encoded = stack(named, "encoder", first[:, None].astype(np.float64), config.enc_layers)
    zeros = np.zeros_like(encoded)
    cells = [(zeros, zeros)] * config.lstm_layers
    hidden = [encoded]
    for timestep in range(config.model_t):
        x = encoded if timestep == 0 else zeros
        for layer in range(config.lstm_layers):
            cells[layer] = lstm_step(named, f"lstm{layer + 1}", x, *cells[layer])
            x = cells[layer][0]
        hidden.append(x)
    return hidden


def count(config, named, hidden):
    """The count head, a share of the board per board."""
    return linear(named, "count.linear", stack(named, "count", hidden, config.count_layers))


def derivative(function, x, *, entries=None, epsilon=1e-6):
    """Central differences of a number-valued function at the array `x`, for these flat entries (or all)."""
    flat = x.reshape(-1)
    chosen = range(flat.size) if entries is None else entries
    slopes = np.zeros(len(chosen))
    for place, entry in enumerate(chosen):
        kept = flat[entry]
        flat[entry] = kept + epsilon
        above = function()
        flat[entry] = kept - epsilon
        slopes[place] = (above - function()) / (2 * epsilon)
        flat[entry] = kept
    return slopes


def adam(parameters, gradient, mean, variance, *, lr, step):
    """Kingma and Ba's Adam after `step` updates: the new parameters, mean and variance (epsilon 1e-7)."""
    mean = 0.9 * mean + 0.1 * gradient
    variance = 0.999 * variance + 0.001 * gradient**2
    unbiased = mean / (1 - 0.9 ** (step + 1)), variance / (1 - 0.999 ** (step + 1))
    return parameters - lr * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-7), mean, variance
