"""The compiled kernels: against PyTorch in float64, how they are built, and what happens where they cannot be."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from training_helpers import random, tiny, train

from imagination.training import native
from imagination.training.blocks import Blocks, lstm_cell

compiled = pytest.mark.skipif(native.library() is None, reason="no compiled kernels here")


def folded(x):
    """`[R, B, C, H, W]` in blocks."""
    channels = [Blocks.fold(x[:, :, channel]).values for channel in range(x.shape[2])]
    return Blocks(torch.cat(channels, dim=2).requires_grad_(), x.shape[1])


@compiled
@pytest.mark.parametrize(
    ("runs", "boards", "widths", "sides"),
    [
        (1, 16, [1, 20, 20, 1], (10, 10)),
        (3, 5, [2, 3, 7], (6, 9)),  # lanes without a board
        (2, 33, [11, 6], (3, 12)),
        (1, 1, [1, 1], (1, 1)),
        (2, 16, [5, 4, 5], (4, 7)),
        (2, 20, [9, 13, 8, 9], (7, 11)),  # Winograd's tiles and parts of channels that do not come out even
        (1, 17, [5, 26, 6], (1, 5)),
        (1, 3, [7, 5], (5, 1)),
        (1, 3, [6, 6], (3, 2)),
        (1, 3, [6, 6], (1, 1)),
        (1, 2, [6, 17, 6], (20, 18)),
    ],
)
@pytest.mark.parametrize("linear_end", [False, True])
def test_a_stack_and_its_gradients_are_what_double_precision_computes(
    runs, boards, widths, sides, linear_end
):
    x, residual = random(runs, boards, widths[0], *sides), widths[0] == widths[-1]
    pairs = list(zip(widths[1:], widths, strict=False))
    weights = [random(runs, out, into, 3, 3, seed=7).requires_grad_() for out, into in pairs]
    biases = [random(runs, out, seed=8).requires_grad_() for out, _ in pairs]
    slopes = [0.3] * (len(pairs) - 1) + [1.0 if linear_end else 0.3]
    ours = folded(x)
    found = ours.convolutions(weights, biases, slopes=slopes, residual=residual).unfold()
    upstream = random(*found.shape, seed=9)
    gradients = torch.autograd.grad(found, [ours.values, *weights, *biases], upstream)
    for run in range(runs):
        plain = x[run].double().requires_grad_()
        mine = [[p[run].detach().double().requires_grad_() for p in each] for each in (weights, biases)]
        y = plain
        for weight, bias, slope in zip(*mine, slopes, strict=True):
            y = F.leaky_relu(F.conv2d(y, weight, bias, padding=1), slope)
        y = y + plain if residual else y
        wanted = torch.autograd.grad(y, [plain, *mine[0], *mine[1]], upstream[run].double())
        close(found[run], y)
        close(Blocks(gradients[0], boards).unfold()[run], wanted[0])
        for gradient, expected in zip(gradients[1:], wanted[1:], strict=True):
            close(gradient[run], expected)


def close(found, wanted):
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(found.detach().double() / scale, wanted.detach() / scale, rtol=0, atol=2e-6)


@compiled
@pytest.mark.parametrize("is_first", [True, False])
def test_an_lstm_cell_and_its_gradients_are_what_double_precision_computes(is_first):
    """i, f, o = sigmoid, g = tanh of the sum of the gates' terms; c = f c + i g; h = o tanh(c)."""
    runs, boards, channels = 2, 5, 3
    terms = [4 * random(runs, boards, 4 * channels, 3, 4, seed=seed) for seed in range(1 if is_first else 2)]
    terms[0][0, 0, 0, 0, 0] = 90.0  # the exponential of -90 and of 180 are no float32
    old = random(runs, boards, channels, 3, 4, seed=5)
    gates, before = [folded(term) for term in terms], None if is_first else folded(old).values
    h, c = lstm_cell(gates, before, forget_bias=1.0)
    found = [h.unfold(), Blocks(c, boards).unfold()]
    upstream = [random(*each.shape, seed=7) for each in found]
    inputs = [each.values for each in gates] + ([] if before is None else [before])
    gradients = torch.autograd.grad(found, inputs, upstream)
    plain = [each.double().requires_grad_() for each in (*terms, *([] if is_first else [old]))]
    i, f, g, o = sum(plain[: len(terms)]).unflatten(2, (4, channels)).unbind(2)
    state = i.sigmoid() * g.tanh() + (0 if is_first else (f + 1).sigmoid() * plain[-1])
    wanted = [o.sigmoid() * state.tanh(), state]
    for each, expected in zip(found, wanted, strict=True):
        close(each, expected)
    expected = torch.autograd.grad(wanted, plain, [each.double() for each in upstream])
    for each, right in zip(gradients, expected, strict=True):
        close(Blocks(each, boards).unfold(), right)


@compiled
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 0.1, 1.0])
def test_a_small_state_of_an_lstm_cell_keeps_its_relative_precision(size):
    gates = size * random(1, 16, 4, 3, 4)  # of one channel
    gates[0, 0, 2, 0, 0] = 0.0
    h, c = lstm_cell([folded(gates)], None, forget_bias=1.0)
    i, _, g, o = gates.double().unflatten(2, (4, 1)).unbind(2)
    state = i.sigmoid() * g.tanh()
    assert Blocks(c, 16).unfold().count_nonzero() == state.count_nonzero()  # tanh is exactly 0 at 0
    for found, wanted in ((Blocks(c, 16).unfold(), state), (h.unfold(), o.sigmoid() * state.tanh())):
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=0)


@compiled
def test_a_diverged_cell_is_nan_and_harms_no_other():
    gates = random(2, 3, 4, 2, 2)
    gates[0, 0, 0, 0, 0] = torch.nan
    h, c = lstm_cell([folded(gates)], None, forget_bias=1.0)
    assert h.unfold()[0, 0, 0, 0, 0].isnan()
    assert Blocks(c, 3).unfold()[0, 0, 0, 0, 0].isnan()
    assert h.values.isnan().sum() == 1


@compiled
@pytest.mark.parametrize("channels", [2, 6])  # from 5 channels on by Winograd's way
def test_the_border_stays_zero(channels):
    x, weight = folded(random(1, 3, channels, 4, 5)), random(1, 6, channels, 3, 3)
    bias = torch.ones(1, 6)
    y = x.convolutions([weight], [bias], slopes=[0.3]).values
    border = y.clone()
    border[..., 1:-1, 1:-1, :] = 0
    assert not border.any()
    assert y.any()


@compiled
@pytest.mark.parametrize("widths", [[3, 4, 3], [6, 9, 6]])
def test_each_run_of_a_pack_is_what_it_is_alone_to_the_bit(widths):
    pairs = list(zip(widths[1:], widths, strict=False))
    weights, biases = (
        [random(2, out, into, 3, 3) for out, into in pairs],
        [random(2, out) for out, _ in pairs],
    )
    weights[0][1, 0, 0, 0, 0] = torch.nan
    boards = random(2, 9, widths[0], 5, 5)

    def results(runs):
        x = folded(boards[:runs])
        ours, mine = ([each[:runs].requires_grad_() for each in group] for group in (weights, biases))
        y = x.convolutions(ours, mine, slopes=[0.3, 1.0], residual=True)
        gradients = torch.autograd.grad(y.values.square().sum(), [x.values, *ours, *mine])
        return [y.values, *gradients]

    for both, alone in zip(results(2), results(1), strict=True):
        assert torch.equal(both[0], alone[0])
        assert both[1].isnan().any()


@compiled
def test_a_training_is_the_same_within_rounding_with_and_without_the_kernels(monkeypatch):
    config = tiny(gan="posthoc", max_steps=10, adv_steps=10)
    (ours,) = train([config])
    monkeypatch.setattr(native, "library", lambda: None)
    (plain,) = train([config])
    for name, values in ours.weights.items():
        torch.testing.assert_close(
            *(torch.from_numpy(v) for v in (values, plain.weights[name])), rtol=0, atol=1e-3
        )


# --- how they are built ---

LOAD = "from imagination.training import native; print(native.library() is not None)"


def loaded(*, first="", **environment):
    """What another process says: whether it has the kernels, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", first + LOAD],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() == "True", done.stderr


@compiled
@pytest.mark.slow
def test_what_is_built_is_loaded_without_another_process(tmp_path):
    """Slurm's signals reach the whole job, so they would end it, and the rest would train without kernels."""
    assert loaded(XDG_CACHE_HOME=str(tmp_path))[0]
    assert loaded(first="import subprocess; subprocess.Popen = None; ", XDG_CACHE_HOME=str(tmp_path))[0]


@compiled
@pytest.mark.slow
def test_a_machine_builds_them_once(tmp_path):
    assert loaded(XDG_CACHE_HOME=str(tmp_path))[0]
    (built,) = tmp_path.glob("imagine-sweep/*")
    before = built.stat().st_mtime_ns
    assert loaded(XDG_CACHE_HOME=str(tmp_path))[0]
    assert (
        [built.stat().st_mtime_ns]
        == [p.stat().st_mtime_ns for p in tmp_path.glob("imagine-sweep/*")]
        == [before]
    )


@compiled
@pytest.mark.slow
def test_a_file_that_others_can_write_is_built_anew(tmp_path):
    assert loaded(XDG_CACHE_HOME=str(tmp_path))[0]
    (built,) = tmp_path.glob("imagine-sweep/*")
    built.write_bytes(b"not a library")
    built.chmod(0o722)
    assert loaded(XDG_CACHE_HOME=str(tmp_path))[0]
    assert built.stat().st_mode & 0o777 == 0o700


@compiled
@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").touch()
    assert loaded(XDG_CACHE_HOME=str(tmp_path / "file"))[0]


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "said"),
    [("no-such-gcc", "no-such-gcc is not installed"), ("false", "returned non-zero"), ("", "")],
)
def test_without_a_compiler_training_goes_on_and_the_log_says_why(compiler, said, tmp_path):
    found, log = loaded(IMAGINE_CC=compiler, XDG_CACHE_HOME=str(tmp_path))
    assert not found
    assert said in log
    assert len(log.strip().splitlines()) == bool(said)
