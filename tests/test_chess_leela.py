"""Networks in Leela's format give what an independent forward pass gives; other files are refused in one line."""

import gzip
import os
from contextlib import suppress
from pathlib import Path

import chess
import leela_helpers as written
import numpy as np
import pytest
import torch
from training_helpers import CPU

from imagination.chess import boards, leela
from imagination.chess.network import frozen, policy
from imagination.runner import Needed
from imagination.schema import ConfigError

FENS = [
    chess.STARTING_FEN,
    "rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1",
    "4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2",
    "r3k2r/8/8/8/8/8/8/R3K2R b Kq - 3 9",
]
REAL = os.environ.get("LEELA_NETWORK", "")


def rows(*fens):
    return np.array([boards.encode(chess.Board(fen)) for fen in fens])


@pytest.fixture
def file(tmp_path) -> Path:
    data, _ = written.network(np.random.default_rng(0))
    (tmp_path / "net.pb.gz").write_bytes(data)
    return tmp_path / "net.pb.gz"


def test_a_file_gives_what_numpy_gives(tmp_path) -> None:
    data, kept = written.network(np.random.default_rng(1))
    path = tmp_path / "net.pb.gz"
    path.write_bytes(data)
    network = frozen(Needed(None, {}, {"file": path}), device=CPU)
    layers, policy, value = written.forward(kept, boards.leela_planes(rows(*FENS)).astype(np.float64))
    x = network.encode(rows(*FENS))
    found = list(network.layers(x))
    assert len(found) == len(layers) == 3
    for ours, theirs in zip(found, layers, strict=True):
        assert np.allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4)
    moves, values = network(x)
    # A move's place: e2e4 goes two squares north (plane 1) from e2 (rank 1, file 4).
    assert torch.allclose(
        moves[:, boards.moves().index("e2e4")], torch.tensor(policy[:, 1, 1, 4]).float(), atol=1e-3
    )
    assert np.allclose(values.numpy(), value, rtol=1e-3, atol=1e-3)
    assert torch.equal(network.after(found[1], 1), found[2])


def test_random_weights_depend_on_their_seed_alone(file) -> None:
    need = Needed(None, {}, {"file": file})
    one, same, other = (frozen(need, device=CPU, random=seed) for seed in (1, 1, 2))
    assert torch.equal(one.input[0].weight, same.input[0].weight)
    assert not torch.equal(one.input[0].weight, other.input[0].weight)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda data: data[:-50], "is no whole gzip file"),
        (lambda data: b"PK" + data, "is no whole gzip file"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-50]), "is damaged"),
        (lambda data: gzip.compress(b""), "is no network of Leela Chess Zero"),
        (lambda data: gzip.compress(b"\xff" * 100), "is damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(file, content, why) -> None:
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(ConfigError, match=why) as refused:
        leela.read(file)
    assert "\n" not in str(refused.value)


NARROW = {"0.w1": (2, 6), "0.b1": (2,), "0.w2": (12, 2)}


@pytest.mark.parametrize(
    "shapes",
    [
        {"input.weights": (6, 18, 3, 3)},
        {"input.means": None},
        {"0.conv1.weights": (5, 6, 3, 3)},
        {"0.conv1.variances": (5,)},
        {"1.conv2.biases": (7,)},
        {"0.w1": (3, 5)},
        {"0.b2": None},
        {"1.w2": (6, 3)},
        NARROW,
        {"policy.weights": (73, 6, 3, 3)},
        {"policy.biases": (73,)},
        {"value.weights": (4, 6, 3, 3)},
        {"v1": (5, 63 * 4)},
        {"c2": (1,)},
        {"v2": None},
    ],
)
def test_a_network_whose_arrays_do_not_fit_is_refused_in_one_line(tmp_path, shapes) -> None:
    path = tmp_path / "net.pb.gz"
    path.write_bytes(written.network(np.random.default_rng(0), shapes=shapes)[0])
    with pytest.raises(ConfigError, match="is damaged, or lacks parts of such a network; give a") as refused:
        leela.read(path)
    assert "\n" not in str(refused.value)


def test_a_network_without_blocks_is_refused(tmp_path) -> None:
    path = tmp_path / "net.pb.gz"
    path.write_bytes(written.network(np.random.default_rng(0), blocks=0)[0])
    with pytest.raises(ConfigError, match="lacks parts of such a network"):
        leela.read(path)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_damaged_is_refused_or_is_a_network(file, seed) -> None:
    """Bytes that are changed at random: either one line, or a network of the right shapes."""
    rng = np.random.default_rng(seed)
    data = bytearray(gzip.decompress(file.read_bytes()))
    for _ in range(4):
        data[rng.integers(min(len(data), 4000))] = rng.integers(256)
    file.write_bytes(gzip.compress(bytes(data)))
    leela.read.cache_clear()
    with suppress(ConfigError):  # any other error fails the test
        state = leela.read(file)
        frozen(Needed(None, {}, {"file": file}), device=CPU)
        assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("formats", "why"),
    [
        ({"input": 5}, "has input format 5"),
        ({"policy": 1}, "has policy format 1"),
        ({"network": 1}, "has network format 1"),
        ({"activation": 1}, "has activation format 1"),  # mish
        ({"values": 7}, "lacks parts of such a network"),
        ({"encoding": 2}, "has another encoding of weights than LINEAR16"),
        ({"magic": 7}, "is no network of Leela Chess Zero"),
    ],
)
def test_another_format_is_refused(tmp_path, formats, why) -> None:
    path = tmp_path / "net.pb.gz"
    path.write_bytes(written.network(np.random.default_rng(0), **formats)[0])
    with pytest.raises(ConfigError, match=why):
        leela.read(path)


@pytest.mark.skipif(not REAL, reason="LEELA_NETWORK names no file")
def test_a_real_network_finds_moves_known_to_be_right() -> None:
    """A mate in one, a queen to take, and a first move that people play."""
    network = frozen(Needed(None, {}, {"file": Path(REAL)}), device=CPU)
    for fen, wanted in {
        "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1": {"a1a8"},
        "4k3/8/8/3q4/4P3/8/8/4K3 w - - 0 1": {"e4d5"},
        chess.STARTING_FEN: {"e2e4", "d2d4", "g1f3", "c2c4"},
    }.items():
        moves, _ = network(network.encode(rows(fen)))
        masked = np.where(boards.legal_masks(rows(fen))[0], moves[0].numpy(), -np.inf)
        assert boards.moves()[int(masked.argmax())] in wanted


def test_a_value_of_one_number_is_an_expected_score(tmp_path) -> None:
    """Older networks end in tanh, from -1 (lost) to 1 (won)."""
    path = tmp_path / "net.pb.gz"
    data, kept = written.network(np.random.default_rng(0), values=1)
    path.write_bytes(data)
    network = frozen(Needed(None, {}, {"file": path}), device=CPU)
    start = rows(chess.STARTING_FEN)
    _, (score,) = policy(network, start)
    *_, value = written.forward(kept, network.encode(start).numpy())
    assert score.item() == pytest.approx((np.tanh(value.item()) + 1) / 2, abs=1e-5)
