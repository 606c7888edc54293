"""The Life networks, their LSTM cell and count head: shapes, layouts, and agreement with plain numpy in float64."""

import math

import numpy as np
import numpy_helpers as reference
import pytest
import torch
from training_helpers import random, tiny, tiny_count

from imagination.life.networks import CountNetwork, StateNetwork, decode
from imagination.training import layers, native
from imagination.training.blocks import Blocks


def parameters(network, *seeds, biases=0.1):
    """By name, `[R, ...]`; with biases, which are zero when training starts."""
    drawn = network.layout.glorot_uniform(torch.tensor(seeds))
    return network.layout.unpack(drawn + biases * random(*drawn.shape))


def boards(runs, side=6, batch=4):
    return random(runs, batch, side, side, seed=3) < 0


def of_run(x, run, runs):
    """One run of `[B, R*C, H, W]` or of `Blocks`, float64 `[B, C, H, W]`."""
    if isinstance(x, Blocks):
        return x.unfold()[run].numpy().astype(np.float64)
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


# --- the LSTM cell ---


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


# --- the networks ---


NETWORKS = [
    *(
        tiny(**changes)
        for changes in (
            {},
            {"rnn": False, "model_t": 3},
            {"residual": False},
            {"enc_layers": 3, "dec_layers": 2, "kernel": 5},
            {"channels": 16},
            {"tied": True},
            {"tied": True, "enc_layers": 2, "kernel": 5},
            {"gol": 1, "model_t": 1},
        )
    ),
    *(
        tiny_count(**changes)
        for changes in (
            {"model_t": 1},
            {"model_t": 3, "lstm_layers": 1},
            {"model_t": 3},  # two layers
            {"model_t": 2, "lstm_layers": 3, "enc_layers": 2, "kernel": 5},
        )
    ),
]


@pytest.mark.parametrize("config", NETWORKS)
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.usefixtures("kernels")
def test_hidden_and_decoded_states_are_what_double_precision_computes(config, runs):
    is_state = config.experiment == "life_state"
    network = (StateNetwork if is_state else CountNetwork)(config)
    named, first = parameters(network, *range(runs)), boards(runs)
    hidden = network.hidden_states(named, first)
    assert len(hidden) == config.model_t + 1
    for run in range(runs):
        plain = reference.plain(named, run)
        compute = reference.state_hidden if is_state else reference.count_hidden
        for ours, wanted in zip(hidden, compute(config, plain, first[run].numpy()), strict=True):
            np.testing.assert_allclose(of_run(ours, run, runs), wanted, rtol=1e-4, atol=1e-5)
            decoded = decode(named, ours, name="decoder", depth=config.decoder_depth)[run]
            board = reference.decode(config, plain, wanted)
            np.testing.assert_allclose(decoded.numpy(), board, rtol=1e-4, atol=1e-5)


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
    # 3x3 kernels, 4 channels: encoder 1*4*9 + 4 = 40; a step of two layers 2 * (4*4*9 + 4) = 296; decoder 4*9 + 1 = 37.
    assert StateNetwork(tiny()).layout.size == 40 + 296 + 37
    assert StateNetwork(tiny(rnn=False)).layout.size == 40 + 2 * 296 + 37  # one step network per timestep
    # 3x3 kernels, 3 channels, boards of 6x6: encoder 1*3*9 + 3 = 30; an LSTM layer has 4*3 gates, each of 3*9 weights
    # of the input and as many of the hidden state, and a bias: 12*27*2 + 12 = 660; count head 3*3*9 + 3 = 84 and its
    # linear layer 3*36 + 1 = 109; decoder 3*9 + 1 = 28.
    assert CountNetwork(tiny_count()).layout.size == 30 + 2 * 660 + 84 + 109 + 28


def test_glorot_limits_zero_biases_and_own_seeds():
    network = StateNetwork(tiny(channels=16))
    both = parameters(network, 1, 2, biases=0)
    weight = both["step.0.weight"]
    limit = (6 / (16 * 9 + 16 * 9)) ** 0.5  # Glorot and Bengio, 2010: sqrt(6 / (fan in + fan out))
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.98 * limit
    assert abs(weight.mean()) < 0.01
    assert not both["step.0.bias"].any()
    assert not torch.equal(weight[0], weight[1])
    alone = parameters(network, 2, biases=0)
    assert torch.equal(alone["step.0.weight"][0], weight[1])


@pytest.mark.parametrize(
    "network",
    [StateNetwork(tiny()), CountNetwork(tiny_count(model_t=3)), CountNetwork(tiny_count(lstm_layers=1))],
    ids=["state", "count", "count of one layer"],
)
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_hidden_states_have_the_layout_that_measured_fastest(network, runs, precision, monkeypatch):
    # A tensor of one channel has both layouts at once, so a solo run loses the layout if it is chosen too early.
    monkeypatch.setattr(native, "library", lambda: None)
    named = parameters(network, *range(runs))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        states = network.hidden_states(named, boards(runs))
    for hidden in states:
        assert hidden.is_contiguous(memory_format=torch.channels_last)
        assert not hidden.is_contiguous()


def test_a_layers_weights_depend_on_its_name_not_on_its_place():
    shape = (4, 4, 3, 3)
    one = layers.ParameterLayout({"decoder.0.weight": shape})
    other = layers.ParameterLayout({"new.0.weight": shape, "decoder.0.weight": shape})
    seed = torch.tensor([1])
    named = other.unpack(other.glorot_uniform(seed))
    assert torch.equal(named["decoder.0.weight"], one.unpack(one.glorot_uniform(seed))["decoder.0.weight"])
    assert not torch.equal(named["decoder.0.weight"], named["new.0.weight"])


def test_the_network_is_fully_convolutional():
    network = StateNetwork(tiny())
    named = parameters(network, 1)
    last = network.hidden_states(named, boards(1, side=11))[-1]
    assert decode(named, last, name="decoder", depth=1).shape == (1, 4, 11, 11)


def test_unpacked_parameters_are_views_in_order():
    layout = layers.ParameterLayout({"a": (2, 3), "b": (2,)})
    named = layout.unpack(torch.arange(16).reshape(2, 8))
    assert named["a"][1].tolist() == [[8, 9, 10], [11, 12, 13]]
    assert named["b"].tolist() == [[6, 7], [14, 15]]
