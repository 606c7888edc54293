"""Networks in Leela's format: a writer, and a forward pass in numpy that shares no code with the package."""

import gzip
import struct

import numpy as np

CONVOLUTION = {"weights": 1, "biases": 2, "means": 3, "variances": 4, "gammas": 5, "betas": 6}


def varint(value):
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(at, value):
    return varint(at << 3) + varint(value)


def layer(at, values):
    """A LINEAR16 layer, and the values that a reader finds in it."""
    flat = values.astype(np.float64).ravel()
    least, largest = np.float32(flat.min()), np.float32(flat.max())
    span = max(float(largest) - float(least), 1e-9)
    steps = np.rint((flat - least) / span * 65535).clip(0, 65535).astype("<u2")
    fields = b"".join(
        varint(key << 3 | 5) + struct.pack("<f", end) for key, end in ((1, least), (2, largest))
    )
    found = least + (largest - least) * (steps / 65535)
    return message(at, fields + message(3, steps.tobytes())), found.reshape(values.shape)


def network(
    rng, *, blocks=2, filters=6, squeeze=3, value_planes=4, value_width=5, values=3, shapes=None, **formats
):
    """The content of a file with a random network, and its arrays by name as they are stored.

    `shapes` gives arrays another shape; None leaves one out.
    """
    kept = {}

    def one(at, name, *shape, base=0.0, size=0.3):
        shape = (shapes or {}).get(name, shape)
        if shape is None:
            return b""
        data, kept[name] = layer(at, base + size * rng.standard_normal(shape))
        return data

    def convolution(at, name, before, after, kernel=3, parts=("means", "variances", "gammas", "betas")):
        data = one(1, f"{name}.weights", after, before, kernel, kernel)
        for part in parts:
            positive = part in ("variances", "gammas")
            data += one(CONVOLUTION[part], f"{name}.{part}", after, base=1.5 * positive, size=0.2)
        return message(at, data)

    weights = convolution(1, "input", 112, filters)
    for block in range(blocks):
        data = convolution(1, f"{block}.conv1", filters, filters)
        # Older files have a bias before the normalisation, and neither gammas nor betas.
        data += convolution(2, f"{block}.conv2", filters, filters, parts=("biases", "means", "variances"))
        excitation = one(1, f"{block}.w1", squeeze, filters) + one(2, f"{block}.b1", squeeze)
        excitation += one(3, f"{block}.w2", 2 * filters, squeeze) + one(4, f"{block}.b2", 2 * filters)
        weights += message(2, data + message(3, excitation))
    weights += convolution(11, "policy1", filters, filters)
    weights += convolution(3, "policy", filters, 80, parts=("biases",))
    weights += convolution(6, "value", filters, value_planes, kernel=1)
    weights += one(7, "v1", value_width, 64 * value_planes) + one(8, "c1", value_width)
    weights += one(9, "v2", values, value_width) + one(10, "c2", values)
    formats = {"encoding": 1, "input": 1, "output": 2, "network": 4, "policy": 2, "value": 2} | formats
    kinds = b"".join(
        number(at, formats[name])
        for at, name in enumerate(("input", "output", "network", "policy", "value"), 1)
    )
    kinds += number(7, formats.get("activation", 0))
    net = varint(1 << 3 | 5) + struct.pack("<I", formats.get("magic", 0x1C0))
    net += message(2, b"no licence") + message(4, number(1, formats["encoding"]) + message(2, kinds))
    return gzip.compress(net + message(10, weights)), kept


def forward(kept, planes, *, blocks=2):
    """Every layer, the 80 policy planes and the value's logits, for planes `[N, 112, 8, 8]`."""

    def relu(x):
        return np.maximum(x, 0)

    def convolution(x, name):
        weights = kept[f"{name}.weights"]
        border = weights.shape[2] // 2
        wide = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)))
        found = np.zeros((len(x), len(weights), 8, 8))
        for row in range(weights.shape[2]):
            for column in range(weights.shape[3]):
                seen = wide[:, :, row : row + 8, column : column + 8]
                found += np.einsum("oi,nihw->nohw", weights[:, :, row, column], seen)
        found += kept.get(f"{name}.biases", np.zeros(len(weights)))[:, None, None]
        if f"{name}.means" not in kept:
            return found
        scale = kept.get(f"{name}.gammas", 1) / np.sqrt(kept[f"{name}.variances"] + 1e-5)
        shift = kept.get(f"{name}.betas", 0) - kept[f"{name}.means"] * scale
        return found * scale[:, None, None] + np.asarray(shift)[:, None, None]

    x = relu(convolution(planes, "input"))
    layers = [x]
    for block in range(blocks):
        found = convolution(relu(convolution(x, f"{block}.conv1")), f"{block}.conv2")
        hidden = relu(found.mean((2, 3)) @ kept[f"{block}.w1"].T + kept[f"{block}.b1"])
        both = hidden @ kept[f"{block}.w2"].T + kept[f"{block}.b2"]
        gate, shift = np.split(both[:, :, None, None], 2, axis=1)
        x = relu(found / (1 + np.exp(-gate)) + shift + x)
        layers.append(x)
    policy = convolution(relu(convolution(x, "policy1")), "policy")
    value = relu(convolution(x, "value")).reshape(len(x), -1)
    value = relu(value @ kept["v1"].T + kept["c1"]) @ kept["v2"].T + kept["c2"]
    return layers, policy, value
