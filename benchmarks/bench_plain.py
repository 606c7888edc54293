"""Whole 3/3 runs to 99% beside the plain way (`plain.py`): the same preset, optimiser and seeds.

    python benchmarks/bench_plain.py [--runs 8] [--authors 5] [KEY=VALUE ...]

Each run is a process on one thread, and its CPU time counts; in turn, so that other work slows both. Ours evaluates and
stores its result as well. With the authors' Adam (`paper_bce`) the plain way takes hours. So only some of its steps are
measured, and the number of steps is printed from which the ratio is at least 15.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from results import record

HERE = Path(__file__).parent
TASK = ["gol=3", "model_t=3"]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--authors", type=int, default=5, help="steps with the authors' Adam")
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    ours, plain = [], []
    for seed in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            words = ["-m", "jobs.train", *TASK, f"seed={seed}", "run.device=cpu", "--db", f"{folder}/a.db"]
            ours.append(_cpu_seconds([*words, *options.values], folder)[0])
        other, said = _cpu_seconds(
            [str(HERE / "plain.py"), "--seed", str(seed), *TASK, *options.values], None
        )
        plain.append(other)
        print(f"  seed {seed}: {ours[-1]:.1f} s; plain {other:.1f} s, {said.strip()}", flush=True)
    print(record(" ".join(["3/3 to 99%, plain way", *options.values]), ours, plain, unit="s of CPU"))
    few, many = (_authors(1 + options.authors * times) for times in (0, 1))
    step = (many - few) / options.authors
    enough = 15 * statistics.median(ours) / step
    print(f"the authors' Adam, plain: {step:.2f} s of CPU a step; the ratio is 15 from {enough:.0f} steps on")


def _authors(steps: int) -> float:
    values = [f"{key}={steps}" for key in ("max_steps", "eval_every", "trace_every")]
    return _cpu_seconds([str(HERE / "plain.py"), *TASK, "preset=paper_bce", *values], None)[0]


def _cpu_seconds(words: list[str], folder: str | None) -> tuple[float, str]:
    """CPU seconds of a Python process, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, said
    return usage.ru_utime + usage.ru_stime, re.sub(r", [^,]* of CPU", "", said)


if __name__ == "__main__":
    main()
