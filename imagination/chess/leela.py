"""Reads networks of Leela Chess Zero (`.pb.gz`), as far as they are like ours. Torch-free.

The format is protobuf, described by `proto/net.proto` of lczero-common; only its fields that are used here are read. A
network has 112 input planes, squeeze-excitation and a convolutional policy; its arrays are stored as 16-bit numbers
between a least and a largest value (LINEAR16). A batch normalisation's `stddivs` are variances.
"""

import gzip
import zlib
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagination.chess.boards import LEELA_PLANES, POLICY_PLANES
from imagination.recorder import Arrays
from imagination.schema import ConfigError

MAGIC = 0x1C0
LINEAR16 = 1
_FORMATS = {"input": (1, {0, 1}), "network": (3, {2, 4}), "policy": (4, {0, 2}), "activation": (7, {0})}
"""The formats that are read, and their fields: the classical 112 planes, squeeze-excitation, the convolutional policy,
and ReLU."""

_MEANS = 3
_CONVOLUTION = {1: "0.weight", 2: "bias", 3: "1.running_mean", 4: "1.running_var", 5: "1.weight", 6: "1.bias"}

Fields = dict[int, list[Any]]
Floats = NDArray[np.float32]


@lru_cache(maxsize=2)
def read(path: Path) -> Arrays:
    """The state of a `network.Network`, by name.

    Raises:
        ConfigError: the file is damaged, or of another format.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _unread(f"is no whole gzip file ({error})") from None
    try:
        net = _fields(data)
        if net[1] != [MAGIC]:
            raise _unread("is no network of Leela Chess Zero")
        _check(_fields(net[4][0]))
        return _state(_fields(net[10][0]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _unread("is damaged, or lacks parts of such a network") from error


def shape_of(state: Arrays) -> dict[str, int]:
    """The arguments of `network.Network` that fit this state."""
    return {
        "planes": state["input.0.weight"].shape[1],
        "blocks": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "filters": state["input.0.weight"].shape[0],
        "squeeze": state["blocks.0.squeeze.bias"].shape[0],
        "value_planes": state["value.0.weight"].shape[0],
        "value_width": state["value1.bias"].shape[0],
        "values": state["value2.bias"].shape[0],
    }


def _unread(why: str) -> ConfigError:
    allowed = "a .pb.gz with 112 planes, squeeze-excitation and a convolutional policy"
    return ConfigError(f"network: the file {why}; give {allowed}", key="network")


def _check(form: Fields) -> None:
    kinds = _fields(form[2][0])
    found = {name: (kinds[at] or [0])[0] for name, (at, _) in _FORMATS.items()}
    strange = [f"{name} format {value}" for name, value in found.items() if value not in _FORMATS[name][1]]
    if form[1] != [LINEAR16]:
        strange.append("another encoding of weights than LINEAR16")
    if strange:
        raise _unread(f"has {' and '.join(strange)}")


def _fields(data: bytes) -> Fields:
    """The fields of a protobuf message, by number; a field may be repeated.

    Raises:
        ValueError, IndexError: it is none.
    """
    found: Fields = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            found[number].append(value)
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _varint(data, at)
        if length is None or at + length > len(data):
            raise ValueError(f"field {number} is cut off")
        part = data[at : at + length]
        found[number].append(int.from_bytes(part, "little") if kind == 5 else part)
        at += length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits per byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _state(weights: Fields) -> Arrays:
    """The arrays by name.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: one is missing, or does not fit the others.
    """
    filters = len(_layer(_fields(weights[1][0])[_MEANS][0]))
    found = _convolution(weights[1][0], "input", LEELA_PLANES, filters)
    for number, one in enumerate(weights[2]):
        block, name = _fields(one), f"blocks.{number}"
        found |= _convolution(block[1][0], f"{name}.conv1", filters, filters)
        found |= _convolution(block[2][0], f"{name}.conv2", filters, filters)
        squeeze = _fields(block[3][0])
        width = len(_layer(squeeze[2][0]))
        found |= _linear(squeeze, 1, f"{name}.squeeze", filters, width)
        found |= _linear(squeeze, 3, f"{name}.excite", width, 2 * filters)
    widths = {len(value) for name, value in found.items() if name.endswith("squeeze.bias")}
    if len(widths) != 1:
        raise ValueError("there is no block, or blocks differ")
    found |= _convolution(weights[11][0], "policy1", filters, filters)
    policy = _fields(weights[3][0])
    found["policy.weight"] = _layer(policy[1][0]).reshape(POLICY_PLANES, filters, 3, 3)
    found["policy.bias"] = _layer(policy[2][0]).reshape(POLICY_PLANES)
    planes = len(_layer(_fields(weights[6][0])[_MEANS][0]))
    found |= _convolution(weights[6][0], "value", filters, planes, kernel=1)
    width, values = (len(_layer(weights[at][0])) for at in (8, 10))
    if values not in (1, 3):
        raise ValueError("the value is neither one number nor three chances")
    found |= _linear(weights, 7, "value1", 64 * planes, width)
    found |= _linear(weights, 9, "value2", width, values)
    return found


def _convolution(data: bytes, name: str, before: int, after: int, *, kernel: int = 3) -> dict[str, Floats]:
    """A convolution with batch normalisation; its bias becomes part of the mean."""
    fields = _fields(data)
    found = {part: _layer(fields[at][0]) for at, part in _CONVOLUTION.items() if at in fields}
    found["0.weight"] = found["0.weight"].reshape(after, before, kernel, kernel)
    for part in found.keys() - {"0.weight"}:
        found[part] = found[part].reshape(after)
    found["1.running_mean"] = found["1.running_mean"] - found.pop("bias", np.float32(0))
    if found["1.running_var"].min() < 0:
        raise ValueError("a variance is negative")
    found.setdefault("1.weight", np.ones(after, np.float32))
    found.setdefault("1.bias", np.zeros(after, np.float32))
    return {f"{name}.{part}": value for part, value in found.items()}


def _linear(fields: Fields, at: int, name: str, before: int, after: int) -> dict[str, Floats]:
    """A linear layer, whose bias follows its weights."""
    weight, bias = _layer(fields[at][0]), _layer(fields[at + 1][0])
    return {f"{name}.weight": weight.reshape(after, before), f"{name}.bias": bias.reshape(after)}


def _layer(data: bytes) -> Floats:
    fields = _fields(data)
    least, largest = (np.array(fields[at], np.uint32).view(np.float32)[0] for at in (1, 2))
    share = np.frombuffer(fields[3][0], "<u2").astype(np.float32) / np.float32(0xFFFF)
    found: Floats = least * (1 - share) + largest * share
    if not np.isfinite(found).all():
        raise ValueError("a weight is infinite or NaN")
    return found
