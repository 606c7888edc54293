"""The convolutional LSTM and the count head, against plain numpy in float64."""

import math

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from training_helpers import tiny_count

from imagination.life.networks import CountNetwork
from imagination.training import layers


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(network, *seeds):
    """By name, `[R, ...]`; with biases, which would be zero at the start of training."""
    drawn = network.layout.glorot_uniform(torch.tensor(seeds))
    return network.layout.unpack(drawn + 0.1 * random(*drawn.shape))


def boards(runs, side=6, batch=4):
    return random(runs, batch, side, side, seed=3) < 0


def of_run(x, run, runs):
    """One run of `[B, R*C, H, W]`, float64 `[B, C, H, W]`."""
    return x.numpy().astype(np.float64).reshape(len(x), runs, -1, *x.shape[2:])[:, run]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_reference_convolution_by_explicit_loops(kernel, stride):
    x, weight, bias = (
        random(*shape).double().numpy() for shape in [(2, 3, 4, 5), (2, 3, kernel, kernel), (2,)]
    )
    found = reference.convolution(x, weight, bias, stride=stride)
    assert found.shape == (2, 2, -(-4 // stride), -(-5 // stride))
    for b, o, row, column in np.ndindex(found.shape):
        total = bias[o]
        for c, i, j in np.ndindex(3, kernel, kernel):
            at = row * stride + i - kernel // 2, column * stride + j - kernel // 2
            if 0 <= at[0] < 4 and 0 <= at[1] < 5:  # outside the board everything is zero
                total += x[(b, c, *at)] * weight[o, c, i, j]
        assert found[b, o, row, column] == pytest.approx(total)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("has_input", "has_state"), [(True, True), (True, False), (False, True)])
def test_one_step_is_what_double_precision_computes(runs, has_input, has_state):
    layout = layers.ParameterLayout(layers.lstm_shapes("cell", channels=3, kernel=3))
    named = layout.unpack(random(runs, layout.size, seed=1) / 2)
    x, h, c = (random(4, runs * 3, 5, 5, seed=seed) for seed in (2, 3, 4))
    state = (h, c.unflatten(1, (runs, 3))) if has_state else None
    new_h, new_c = layers.lstm_step(named, "cell", x if has_input else None, state)
    new = new_h, new_c.flatten(1, 2)
    # What is left out is zero.
    x, h, c = x * has_input, h * has_state, c * has_state
    for run in range(runs):
        expected = reference.lstm_step(
            reference.plain(named, run), "cell", *(of_run(each, run, runs) for each in (x, h, c))
        )
        for ours, wanted in zip(new, expected, strict=True):
            np.testing.assert_allclose(of_run(ours, run, runs), wanted, rtol=1e-4, atol=1e-5)


def test_an_untrained_cell_remembers():
    # Without weights the gates are sigmoid(0) = .5, but for the forget gate: sigmoid(1) = .7311. From c = 1 and
    # whatever h: c' = .7311 * 1 + .5 * tanh(0), h' = .5 * tanh(.7311).
    layout = layers.ParameterLayout(layers.lstm_shapes("cell", channels=1, kernel=3))
    named = layout.unpack(torch.zeros(1, layout.size))
    h, c = layers.lstm_step(named, "cell", None, (random(1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2)))
    assert c.flatten().tolist() == pytest.approx([0.7310586] * 4)
    assert h.flatten().tolist() == pytest.approx([0.5 * math.tanh(0.7310586)] * 4)


def test_the_gates_are_input_forget_cell_output():
    # Biases alone, one channel: i = sigmoid(.1), f = sigmoid(.2 + 1), g = tanh(.3), o = sigmoid(.4); c was 2.
    layout = layers.ParameterLayout(layers.lstm_shapes("cell", channels=1, kernel=1))
    named = layout.unpack(torch.tensor([[0.0] * 8 + [0.1, 0.2, 0.3, 0.4]]))
    h, c = layers.lstm_step(named, "cell", None, (torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 2.0)))
    wanted = 2 / (1 + math.exp(-1.2)) + math.tanh(0.3) / (1 + math.exp(-0.1))
    assert c.item() == pytest.approx(wanted)
    assert h.item() == pytest.approx(math.tanh(wanted) / (1 + math.exp(-0.4)))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_t": 1},
        {"model_t": 3, "lstm_layers": 1},
        {"model_t": 3},  # two layers
        {"model_t": 2, "lstm_layers": 3, "enc_layers": 2, "kernel": 5},
    ],
)
@pytest.mark.parametrize("runs", [1, 3])
def test_the_network_reads_the_encoding_once_and_zeros_afterwards(changes, runs):
    config = tiny_count(**changes)
    network = CountNetwork(config)
    named, first = parameters(network, *range(runs)), boards(runs)
    hidden = network.hidden_states(named, first)
    assert len(hidden) == config.model_t + 1
    for run in range(runs):
        expected = reference.count_hidden(config, reference.plain(named, run), first[run].numpy())
        for ours, wanted in zip(hidden, expected, strict=True):
            np.testing.assert_allclose(of_run(ours, run, runs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers_of_head", [1, 3])
@pytest.mark.parametrize("runs", [1, 2])
def test_the_count_head_is_what_double_precision_computes(layers_of_head, runs):
    config = tiny_count(count_layers=layers_of_head)
    network = CountNetwork(config)
    named, hidden = parameters(network, *range(runs)), random(4, runs * 3, 6, 6, seed=5)
    found = network.count(named, hidden)
    assert found.shape == (runs, 4)
    for run in range(runs):
        wanted = reference.count(config, reference.plain(named, run), of_run(hidden, run, runs))
        np.testing.assert_allclose(found[run].numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_linear_layer_reads_channel_after_channel_row_after_row(layout):
    # Two runs of three channels, boards of 2x4: pixel (row, column) of channel c is weight number 8 c + 4 row + column.
    x = random(2, 2 * 3, 2, 4).contiguous(memory_format=layout)
    for run, c, row, column in np.ndindex(2, 3, 2, 4):
        weight = torch.zeros(2, 1, 24)
        weight[run, 0, 8 * c + 4 * row + column] = 1
        named = {"head.weight": weight, "head.bias": torch.tensor([[10.0], [20.0]])}
        found = layers.linear(named, "head", x)
        expected = torch.tensor([[10.0, 10.0], [20.0, 20.0]])
        expected[run] += x[:, 3 * run + c, row, column]
        torch.testing.assert_close(found, expected)


def test_parameters_are_counted_by_hand():
    # 3x3 kernels, 3 channels, boards of 6x6: encoder 1*3*9 + 3 = 30; an LSTM layer has 4*3 gates, each of 3*9 weights
    # of the input and as many of the hidden state, and a bias: 12*27*2 + 12 = 660; count head 3*3*9 + 3 = 84 and its
    # linear layer 3*36 + 1 = 109; decoder 3*9 + 1 = 28.
    assert CountNetwork(tiny_count()).layout.size == 30 + 2 * 660 + 84 + 109 + 28
