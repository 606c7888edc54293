"""A second implementation of the adversary in plain numpy and float64, for the tests to compare with."""

import math
from functools import partial

import numpy as np
import numpy_helpers as reference
import torch
from training_helpers import experiment_of, random

from imagination.training import philox

boards = partial(random, draw=torch.rand)


def adversarial(config):
    """The experiment in which this config's discriminator trains."""
    return experiment_of(config).next_stage() or experiment_of(config)


def mask(shape, *, seed, step, stream):
    """Dropout factors of one run `[N, C, H, W]`: two of 16 bits per random word, low half first; 30% are dropped."""
    count = math.prod(shape[1:])
    words = philox.words(
        torch.tensor([seed]),
        torch.tensor([step]),
        stream=f"dropout.{stream}",
        lanes=shape[0],
        count=-(-count // 2),
    )[0].numpy()
    halves = np.stack([words % 2**16, words // 2**16], axis=-1).reshape(shape[0], -1)[:, :count]
    return (halves >= round(0.3 * 2**16)).reshape(shape) / 0.7


def logits(named, x, *, seed, step, stream):
    """The discriminator of the protocol: stride-2 convolutions, LeakyReLU and dropout, flatten, one linear output."""
    x = x[:, None]
    for layer in range(sum(name.startswith("discriminator") for name in named) // 2 - 1):
        weight, bias = (named[f"discriminator.{layer}.{part}"] for part in ("weight", "bias"))
        x = reference.leaky(reference.convolution(x, weight, bias, stride=2))
        x = x * mask(x.shape, seed=seed, step=step, stream=f"{stream}.{layer}")
    return reference.linear(named, "discriminator.linear", x)
