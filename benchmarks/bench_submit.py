"""5,000 runs planned and submitted to a real Slurm, beside Hydra's multirun with hydra-submitit-launcher.

    python benchmarks/bench_submit.py [--runs 5000] [--hydra-runs 500]

It starts a testbed of its own and wipes it at the end. Both submit jobs that wait an hour, so nothing is trained.
Hydra waits for its jobs, so its time counts until they are in the queue; it is scaled to all runs.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from on_slurm import on_slurm

from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed

SPEC = """\
experiment: life_state
preset: fast
grid: {{gol: [2, 3, 4, 5], model_t: [2, 3, 4, 5, 6], channels: [8, 16, 20, 24, 32]}}
runs: {runs}
launcher: {{name: slurm, additional_parameters: {{begin: now+1hour}}}}
"""
CELLS = 100
MAX_ARRAY = 1001


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--hydra-runs", type=int, default=500)
    options = parser.parse_args()
    with on_slurm(Settings(nodes=1, max_array=MAX_ARRAY, accounting=False)) as (testbed, folder):
        ours = _ours(testbed, folder, options.runs)
        theirs = _hydras(testbed, folder, options.hydra_runs) * options.runs / options.hydra_runs
    print(
        f"{options.runs:,} runs planned and submitted: {ours:.1f} s; Hydra's multirun: {theirs:.0f} s (measured on "
        f"{options.hydra_runs} runs and scaled); ratio {theirs / ours:.0f}"
    )


def _ours(testbed: Testbed, folder: Path, runs: int) -> float:
    """Seconds of the whole command, from its start to its end."""
    (folder / "s.yaml").write_text(SPEC.format(runs=runs // CELLS))
    launch = str(Path(sys.executable).with_name("imagine-sweep"))
    start = time.perf_counter()
    subprocess.run([launch, "launch", "s.yaml", "--no-check", "--db", "a.db"], cwd=folder, check=True)
    took = time.perf_counter() - start
    tasks = Counter(testbed.run("squeue", "-h", "-r", "-o", "%F").split())
    if sum(tasks.values()) != runs or max(tasks.values()) > MAX_ARRAY:
        raise SystemExit(f"the queue does not hold {runs} tasks in arrays of at most {MAX_ARRAY}: {tasks}")
    testbed.run("scancel", *tasks)
    return took


def _hydras(testbed: Testbed, folder: Path, runs: int) -> float:
    """Seconds from the command's start until its jobs are in the queue."""
    command = [sys.executable, "-m", "jobs.train", "--multirun", "hydra/launcher=submitit_slurm"]
    later = ["+hydra.launcher.additional_parameters.begin=now+1hour", "hydra.launcher.name=hydras"]
    start = time.perf_counter()
    multirun = subprocess.Popen([*command, *later, f"seed=range({runs})", "--db", "b.db"], cwd=folder)
    try:
        while len(testbed.run("squeue", "-h", "-r", "-n", "hydras", "-o", "%i").split()) < runs:
            if multirun.poll() is not None:
                raise SystemExit("Hydra's multirun ended before its jobs were queued")
            time.sleep(0.2)
        return time.perf_counter() - start
    finally:
        multirun.kill()
        multirun.wait()


if __name__ == "__main__":
    main()
