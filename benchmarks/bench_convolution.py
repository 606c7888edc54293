"""One weight set per run: which memory layout is fastest for a training step's convolutions, on this machine.

    python benchmarks/bench_convolution.py [--repeats 9]

Times forward and backward of one time step's five 3x3 convolutions (12x12 boards, batch 128), on one CPU thread or
on the GPU, for one run and for a pack of four: PyTorch's default layout beside channels-last. `imagination.training.
layers.memory_format` chooses by this.
"""

import argparse
import statistics
import time

import torch

from imagination.training import layers

BOARD, BATCH, LAYERS = 12, 128, 5


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
            chosen = layers.memory_format(channels, device)
            print(
                f"{device} {channels} channels, pack of {runs}: default {default:.1f} ms a run, channels-last "
                f"{last:.1f} ms a run, ratio {default / last:.2f}; chosen: {str(chosen).removeprefix('torch.')}"
            )


def _median(runs: int, channels: int, form: torch.memory_format, device: torch.device, repeats: int) -> float:
    """Milliseconds per run of a forward and backward pass."""
    shapes = layers.convolution_shapes(
        "step", layers=LAYERS, channels_in=channels, channels=channels, channels_out=channels, kernel=3
    )
    layout = layers.ParameterLayout(shapes)
    parameters = layout.glorot_uniform(torch.arange(runs, device=device)).requires_grad_()
    x = torch.randn(BATCH, runs * channels, BOARD, BOARD, device=device).contiguous(memory_format=form)
    times = []
    for _ in range(repeats + 2):  # two to warm up
        started = time.perf_counter()
        out = x + layers.convolutions(layout.unpack(parameters), "step", x, layers=LAYERS)
        torch.autograd.grad(out.square().sum(), parameters)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[2:]) / runs


if __name__ == "__main__":
    main()
