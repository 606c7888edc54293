"""One weight set per run: which memory layout is fastest for a whole training step's forward and backward pass.

    python benchmarks/bench_convolution.py [--repeats 9]

Times the state task (3/3 timesteps, five convolutions each, 12x12 boards, batch 128) on one CPU thread or on the GPU,
for one run and for a pack of four, in PyTorch's default layout and in channels-last. By this
`imagination.training.layers.memory_format` chooses.
"""

import argparse
import statistics
import time
from unittest import mock

import torch

from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.training import layers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for channels in (8, 16, 20, 32):
        for runs in (1, 4):
            default, last = (
                _median(runs, channels, form, device, repeats)
                for form in (torch.contiguous_format, torch.channels_last)
            )
            chosen = layers.memory_format(device)
            print(
                f"{device} {channels} channels, pack of {runs}: default {default:.1f} ms a run, channels-last "
                f"{last:.1f} ms a run, ratio {default / last:.2f}; chosen: {str(chosen).removeprefix('torch.')}"
            )


def _median(runs: int, channels: int, form: torch.memory_format, device: torch.device, repeats: int) -> float:
    """Milliseconds per run of a forward and backward pass."""
    configs = [LifeStateConfig(channels=channels, seed=seed) for seed in range(runs)]
    experiment = LifeState(configs, device)
    parameters, data = experiment.initial_parameters().requires_grad_(), experiment.initial_data()
    steps = torch.zeros(runs, dtype=torch.int64, device=device)
    times = []
    with mock.patch.object(layers, "memory_format", return_value=form):
        for _ in range(repeats + 2):  # two to warm up
            started = time.perf_counter()
            loss = experiment.forward(parameters, data, steps).loss
            torch.autograd.grad(loss.sum(), parameters)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[2:]) / runs


if __name__ == "__main__":
    main()
