"""Time and peak memory of a training step against the number of runs in a pack, on one core.

    python benchmarks/bench_packs.py [--sizes 1 2 4 8 16 32 64 128] [--plot docs/packs.png]

Each pack of the preset `fast` (3/3) trains in a process of its own, and its CPU time counts. The floor is the step's
useful operations over the core's float32 rate. Winograd's products are fewer than the useful operations, so a step may
come below the floor of plain products.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from floor import core_rate, operations, product_rate
from results import FILE, record

from imagination import registry
from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.schema import rebuild
from imagination.training import memory
from imagination.training.group import Group
from imagination.training.state import TrainState

TIMES = 5
CONFIG: LifeStateConfig = rebuild(LifeStateConfig, registry.preset("life_state", "fast"))


def main() -> None:
    """Measure, print, record and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--plot", type=Path, help="a picture of the results")
    parser.add_argument("--out", type=Path, default=FILE, help="file of the results")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)  # a process of one size
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        print(json.dumps(_measured(options.alone)))
        return
    found = {size: _in_a_process(size) for size in sorted({1, *options.sizes})}
    one_s, one_mib = found[1]
    for size, (seconds, mib) in found.items():
        ours, other = (
            [1000 * each / runs for each in times] for runs, times in ((size, seconds), (1, one_s))
        )
        print(
            record(f"step, pack of {size}, one alone", ours, other, unit="ms of CPU a run", file=options.out)
        )
        name = f"peak memory, pack of {size}, as many processes"
        print(record(name, [mib], [size * one_mib], unit="MiB", file=options.out))
    if options.plot:
        _plot(found, options.plot)


def _in_a_process(size: int) -> tuple[list[float], float]:
    words = [sys.executable, __file__, "--alone", str(size)]
    said = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
    seconds, mib = json.loads(said)
    return seconds, mib


def _measured(size: int) -> tuple[list[float], float]:
    """Seconds of a step, `TIMES` measured, and the peak memory of this process in MiB."""
    memory.keep_freed()
    experiment = LifeState([replace(CONFIG, seed=seed) for seed in range(size)], torch.device("cpu"))
    group = Group(experiment, TrainState.initial(experiment), range(size))
    steps = max(2, 32 // size)
    taken = []
    for _ in range(1 + TIMES):
        started = time.process_time()
        for _ in range(steps):
            group.step()
        taken.append((time.process_time() - started) / steps)
    taken = taken[1:]  # without the first, which warms up
    return taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _plot(found: dict[int, tuple[list[float], float]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sizes = list(found)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(sizes, [statistics.median(found[size][0]) for size in sizes], "o-", label="a step of the pack")
    for rate, name in ((core_rate(), "fused multiply-adds"), (product_rate(), "torch's matrix product")):
        if rate:
            floor = [size * operations(CONFIG) / rate for size in sizes]
            left.plot(sizes, floor, "--", label=f"its operations at {rate / 1e9:.0f} GFLOP/s ({name})")
    right.plot(sizes, [found[size][1] for size in sizes], "o-", label="a process with the pack")
    right.plot(sizes, [size * found[1][1] for size in sizes], "--", label="as many processes")
    for axes, unit in ((left, "seconds of CPU"), (right, "peak memory (MiB)")):
        axes.set(xscale="log", yscale="log", xlabel="runs of the pack", ylabel=unit)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.legend(fontsize="small", loc="upper left")
    left.set_ylim(top=10 * left.get_ylim()[1])  # room for the legend
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
