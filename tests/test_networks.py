"""The Life networks: their shapes, what they share, and that one is what a plain stack of layers computes."""

import pytest
import torch
import torch.nn.functional as F
from training_helpers import tiny, tiny_count

from imagination.life.networks import CountNetwork, StateNetwork, decode
from imagination.training import layers


def parameters(network, *seeds):
    return network.layout.glorot_uniform(torch.tensor(seeds))


def boards(runs, side=6):
    return torch.rand(runs, 5, side, side, generator=torch.Generator().manual_seed(3)) < 0.4


def plain(named, run, first, config):
    """The decoded boards of one run, layer by layer as the protocol describes them."""

    def stack(name, x, count, *, linear_end=False):
        for layer in range(count):
            weight, bias = named[f"{name}.{layer}.weight"][run], named[f"{name}.{layer}.bias"][run]
            x = F.conv2d(x, weight, bias, padding=config.kernel // 2)
            x = x if linear_end and layer == count - 1 else torch.where(x > 0, x, 0.3 * x)
        return x

    hidden = [stack("encoder", first[run].float()[:, None], config.enc_layers)]
    for t in range(1, config.model_t + 1):
        change = stack("step" if config.rnn else f"step{t}", hidden[-1], config.step_layers)
        hidden.append(hidden[-1] + change if config.residual else change)
    return [stack("decoder", h, config.dec_layers, linear_end=True)[:, 0] for h in hidden]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rnn": False, "model_t": 3},
        {"residual": False},
        {"enc_layers": 3, "dec_layers": 2, "kernel": 5},
        {"channels": 16},
        {"gol": 1, "model_t": 1},
    ],
)
@pytest.mark.parametrize("runs", [1, 3])
def test_every_run_is_a_plain_stack_of_layers(changes, runs):
    config = tiny(**changes)
    network = StateNetwork(config)
    named = network.layout.unpack(parameters(network, *range(runs)))
    first = boards(runs)
    hidden = network.hidden_states(named, first)
    assert len(hidden) == config.model_t + 1
    for run in range(runs):
        expected = plain(named, run, first, config)
        for state, wanted in zip(hidden, expected, strict=True):
            torch.testing.assert_close(
                decode(named, state, name="decoder", depth=config.dec_layers)[run],
                wanted,
                rtol=1e-4,
                atol=1e-5,
            )


def test_parameters_are_counted_by_hand():
    # 3x3 kernels, 4 channels: encoder 1*4*9 + 4 = 40; a step of two layers 2 * (4*4*9 + 4) = 296; decoder 4*9 + 1 = 37.
    assert StateNetwork(tiny()).layout.size == 40 + 296 + 37
    assert StateNetwork(tiny(rnn=False)).layout.size == 40 + 2 * 296 + 37  # one step network per timestep


def test_glorot_limits_zero_biases_and_own_seeds():
    network = StateNetwork(tiny(channels=16))
    both = network.layout.unpack(parameters(network, 1, 2))
    weight = both["step.0.weight"]
    limit = (6 / (16 * 9 + 16 * 9)) ** 0.5  # Glorot and Bengio, 2010: sqrt(6 / (fan in + fan out))
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.98 * limit
    assert abs(weight.mean()) < 0.01
    assert not both["step.0.bias"].any()
    assert not torch.equal(weight[0], weight[1])
    alone = network.layout.unpack(parameters(network, 2))
    assert torch.equal(alone["step.0.weight"][0], weight[1])


@pytest.mark.parametrize(
    "network",
    [StateNetwork(tiny()), CountNetwork(tiny_count(model_t=3)), CountNetwork(tiny_count(lstm_layers=1))],
    ids=["state", "count", "count of one layer"],
)
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_hidden_states_have_the_layout_that_measured_fastest(network, runs, precision):
    # A tensor of one channel has both layouts at once, so a solo run loses the layout if it is chosen too early.
    named = network.layout.unpack(parameters(network, *range(runs)))
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
    named = network.layout.unpack(parameters(network, 1))
    last = network.hidden_states(named, boards(1, side=11))[-1]
    assert decode(named, last, name="decoder", depth=1).shape == (1, 5, 11, 11)


def test_unpacked_parameters_are_views_in_order():
    layout = layers.ParameterLayout({"a": (2, 3), "b": (2,)})
    named = layout.unpack(torch.arange(16).reshape(2, 8))
    assert named["a"][1].tolist() == [[8, 9, 10], [11, 12, 13]]
    assert named["b"].tolist() == [[6, 7], [14, 15]]
