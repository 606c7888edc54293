"""The trainer on one core: whole runs with their adversary beside an earlier commit's, and a step's useful operations.

python benchmarks/bench_trainer.py [--runs 5] [--before 7502ec3] [--set KEY=VALUE ...]

Each run is a process of `python -m jobs.train` from its start to its record, and its CPU time counts, so other work on
this machine matters little. Both commits train the same run ids in turn. Both runs of a pair must have the same
outcome. Their metrics are printed, with the interval of the mean difference. The rate of a step is compared with the
matrix product's in the same process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from floor import core_rate, operations, product_rate
from results import record

from imagination import registry
from imagination.intervals import mean_interval
from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.schema import rebuild
from imagination.training import memory
from imagination.training.group import Group
from imagination.training.state import TrainState

HERE = Path(__file__).parents[1]
RUNS = "from results_db.cli import main; main()"


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="seeds of whole runs; 0: only the step")
    parser.add_argument("--before", default="7502ec3", help="the commit to compare with")
    parser.add_argument("--set", nargs="*", default=[], help="config values of the whole runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep_freed()
    for channels in (6, 20, 32):
        _step(channels)
    if options.runs:
        _whole_runs(options.runs, options.before, options.set)


# --- a step ---


def _step(channels: int, *, times: int = 7) -> None:
    """Useful operations of a whole training step, beside the matrix product and the core's rate."""
    values = {**registry.preset("life_state", "fast"), "channels": channels}
    config: LifeStateConfig = rebuild(LifeStateConfig, values)
    experiment = LifeState([config], torch.device("cpu"))
    group = Group(experiment, TrainState.initial(experiment), [0])
    ours, product = [], []
    for _ in range(times):
        ours.append(operations(config) / _seconds(group.step, 10) / 1e9)
        product.append(product_rate() / 1e9)
    unit = "useful GFLOP/s"
    name = f"step of 3/3, {channels} channels, beside the"
    print(record(f"{name} matrix product", ours, product, unit=unit, is_rate=True))
    if rate := core_rate():
        print(record(f"{name} core's float32 rate", ours, [rate / 1e9] * times, unit=unit, is_rate=True))


def _seconds(work: Any, times: int) -> float:
    work()
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


# --- whole runs ---


def _whole_runs(runs: int, before: str, values: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        earlier, now = Path(folder, "before"), HERE
        earlier.mkdir()
        archive = subprocess.run(["git", "archive", before], cwd=HERE, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", earlier], input=archive.stdout, check=True)
        stores = {earlier: Path(folder, "before.db"), now: Path(folder, "now.db")}
        seconds: dict[Path, list[float]] = {earlier: [], now: []}
        changes: dict[str, list[float]] = {"metric_plain": [], "metric_adv": []}
        for seed in range(runs):
            for code in (earlier, now):
                seconds[code].append(_train(code, stores[code], [f"seed={seed}", *values]))
            found = [_recorded(code, stores[code], seed) for code in (earlier, now)]
            print(f"  seed {seed}: {seconds[earlier][-1]:.1f} s, now {seconds[now][-1]:.1f} s")
            for row in found:
                said = (f"{key} {row[key]}" for key in ("steps", "train_accuracy", *changes))
                print(f"    {row['run_id'][:10]} {row['outcome']}: {', '.join(said)}", flush=True)
            same = [[row[key] for row in found] for key in ("run_id", "outcome")]
            assert all(one == other for one, other in same), same
            for key, values_of in changes.items():
                values_of.append(found[1][key] - found[0][key])
        for key, values_of in changes.items():
            print(f"  {key}, now minus before: {mean_interval(values_of).text(places=4)}")
        name = " ".join(["3/3 with adversary, whole run", *values])
        print(record(name, seconds[now], seconds[earlier], unit="s of CPU"))


def _environment(code: Path, store: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(code), "IMAGINE_DB": str(store), "OMP_NUM_THREADS": "1"}


def _train(code: Path, store: Path, values: list[str]) -> float:
    """CPU seconds of a process that trains one run."""
    words = [
        sys.executable,
        "-m",
        "jobs.train",
        "gol=3",
        "model_t=3",
        "gan=posthoc",
        "run.device=cpu",
        *values,
    ]
    process = subprocess.Popen(
        words, cwd=store.parent, env=_environment(code, store), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return usage.ru_utime + usage.ru_stime


def _recorded(code: Path, store: Path, seed: int) -> dict[str, Any]:
    words = [sys.executable, "-c", RUNS, "runs", "--json", "--where", f"seed = {seed}"]
    done = subprocess.run(
        words, cwd=store.parent, env=_environment(code, store), stdout=subprocess.PIPE, check=True
    )
    (row,) = json.loads(done.stdout)
    return dict(row)


if __name__ == "__main__":
    main()
