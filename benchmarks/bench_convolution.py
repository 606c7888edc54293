"""A step's convolutions on one thread: the compiled kernels, channels-last, and PyTorch's default layout.

    python benchmarks/bench_convolution.py [--repeats 5]

Times forward and backward pass of the state task (preset fast: 3/3 timesteps, five convolutions each, 10x10 boards,
batch 64) on one CPU thread or on the GPU, for one run and for a pack of four. These results decided the layouts of
`imagination.training.layers.memory_format`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from results import record

from imagination import registry
from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.schema import rebuild
from imagination.training import layers, memory, native


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    memory.keep_freed()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for channels in (6, 20, 32):
        for runs in (1, 4):
            step = _step(runs, channels, device)
            default, last, ours = (list[float]() for _ in range(3))
            for _ in range(repeats):  # in turn, so that other work on this machine slows all
                with mock.patch.object(native, "library", return_value=None):
                    for times, form in ((default, torch.contiguous_format), (last, torch.channels_last)):
                        with mock.patch.object(layers, "memory_format", return_value=form):
                            times.append(step() / runs)
                ours.append(step() / runs)
            name = f"step, {device}, {channels} channels, pack of {runs}"
            print(record(f"{name}: channels-last, default layout", last, default, unit="ms a run"))
            if native.has_kernels(device):
                print(record(f"{name}: compiled, channels-last", ours, last, unit="ms a run"))


def _step(runs: int, channels: int, device: torch.device) -> Callable[[], float]:
    """Measures milliseconds of a forward and backward pass: CPU time on the CPU, the median of three."""
    preset = registry.preset("life_state", "fast")
    configs = [
        rebuild(LifeStateConfig, {**preset, "channels": channels, "seed": seed}) for seed in range(runs)
    ]
    experiment = LifeState(configs, device)
    parameters, data = experiment.initial_parameters().requires_grad_(), experiment.initial_data()
    steps = torch.zeros(runs, dtype=torch.int64, device=device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def once() -> float:
        started = clock()
        torch.autograd.grad(experiment.forward(parameters, data, steps).loss.sum(), parameters)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (clock() - started)

    def measured() -> float:
        once()
        return statistics.median(once() for _ in range(3))

    return measured


if __name__ == "__main__":
    main()
