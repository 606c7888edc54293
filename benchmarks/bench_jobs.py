"""50 runs of about one second each on a real Slurm, packed, beside Hydra's multirun with hydra-submitit-launcher.

    python benchmarks/bench_jobs.py [--runs 50]

It starts a testbed of its own, with as many CPUs as this machine has cores, and wipes it at the end. The time is from
the command until the store holds every run. How long one run trains is taken from Hydra's runs, without the start of
its job.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
from on_slurm import on_slurm

from results_db.store import open_store
from slurm.testbed.settings import Settings

RUN = {
    "gol": 2,
    "model_t": 2,
    "channels": 8,
    "step_layers": 1,
    "board": 6,
    "batch": 8,
    "max_steps": 500,
    "eval_every": 50,
    "trace_every": 50,
    "eval_board": 8,
    "eval_sequences": 100,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    cores = len(os.sched_getaffinity(0))
    with on_slurm(Settings(nodes=1, gpus=0, cpus=cores, accounting=False)) as (_, folder):
        ours, _ = _timed(folder / "ours", _ours, runs, cores)
        theirs, alone = _timed(folder / "theirs", _hydras, runs, cores)
    print(
        f"{runs} runs of {alone:.1f} s each on {cores} cores: {ours:.1f} s in {cores} packs; "
        f"Hydra's multirun {theirs:.1f} s; ratio {theirs / ours:.1f}"
    )


def _timed(
    folder: Path, command: Callable[[Path, int, int], list[str]], runs: int, cores: int
) -> tuple[float, float]:
    """Seconds until the store holds all runs, and the median of their training times."""
    folder.mkdir()
    start = time.perf_counter()
    process = subprocess.Popen(command(folder, runs, cores), cwd=folder)
    while len(stored := _stored(folder / "a.db")) < runs:
        if process.poll():
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.2)
    took = time.perf_counter() - start
    process.wait()
    return took, statistics.median(stored)


def _stored(path: Path) -> list[float]:
    """The training times of the runs that are complete."""
    if not path.exists():
        return []
    with closing(open_store(str(path), create=True)) as store:
        runs: pd.DataFrame = store.runs()
    states = Counter(map(str, runs["state"]))
    if states["FAILED"]:
        raise SystemExit(f"runs failed: {states}")
    return [float(seconds) for seconds in runs.loc[runs["state"] == "COMPLETED", "seconds"]]


def _ours(folder: Path, runs: int, cores: int) -> list[str]:
    lines = ["experiment: life_state", f"base: {RUN}", f"runs: {runs}"]
    (folder / "s.yaml").write_text("\n".join(lines))
    launch = str(Path(sys.executable).with_name("imagine-sweep"))
    size = str(-(-runs // cores))
    return [launch, "launch", "s.yaml", "launcher=slurm", "--no-check", "--pack-size", size, "--db", "a.db"]


def _hydras(folder: Path, runs: int, cores: int) -> list[str]:
    del folder, cores
    return [
        *(sys.executable, "-m", "jobs.train", "--multirun", "hydra/launcher=submitit_slurm"),
        *("hydra.launcher.cpus_per_task=1", "run.threads=1", "--db", "a.db", f"seed=range({runs})"),
        *(f"{key}={value}" for key, value in RUN.items()),
    ]


if __name__ == "__main__":
    main()
