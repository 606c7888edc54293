"""A sweep of 3/3 runs to 99% and their metric beside the plain way (`plain.py`): the same preset, optimiser and seeds.

    python benchmarks/bench_plain.py [--runs 8] [--times 5] [--authors 1000] [KEY=VALUE ...]

Both use all cores, and the time is from the command until the last result: `imagine-sweep launch`, and as many
processes at a time as there are cores, one per run. Every run must reach 99%. The two ways draw other boards and
weights, so the numbers of steps differ by chance. They are printed, and the time per step is a row of its own. With
the authors' Adam (`paper_bce`) the plain way takes hours, so its runs end after `--authors` steps, and the ratio is a
lower bound.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from results import record

from results_db.store import open_store

HERE = Path(__file__).parent
TASK = ["gol=3", "model_t=3"]
CORES = len(os.sched_getaffinity(0))


class Ended(NamedTuple):
    """How a run ended."""

    steps: int
    accuracy: float
    metric: float


Way = Callable[[int, list[str]], list[Ended]]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--authors", type=int, default=1000, help="steps with the authors' Adam")
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    times: dict[Way, list[float]] = {_launch: [], _plain: []}
    steps: dict[Way, int] = {}
    for _ in range(options.times):  # in turn, so that other work on this machine slows both
        for way, taken in times.items():
            started = time.perf_counter()
            ended = way(options.runs, options.values)
            taken.append(time.perf_counter() - started)
            steps[way] = sum(run.steps for run in ended)  # the same each time
            print(
                f"{way.__name__[1:]}: {taken[-1]:.1f} s, {steps[way]} steps",
                *ended,
                sep="\n  ",
                flush=True,
            )
            assert len(ended) == options.runs
            assert all(run.accuracy >= 0.99 for run in ended)
    ours, plain = times[_launch], times[_plain]
    name = " ".join([f"{options.runs} runs of 3/3 to 99%, plain way", *options.values])
    print(record(name, ours, plain, unit="s"))
    a_step = [[1000 * each / steps[way] for each in times[way]] for way in times]
    print(record(f"{name}, a step", *a_step, unit="ms"))
    if not options.values:  # else ours is another task
        _authors(options.authors, ours_s=statistics.median(ours) * CORES / options.runs)


def _launch(runs: int, values: list[str]) -> list[Ended]:
    base = ", ".join(word.replace("=", ": ", 1) for word in [*TASK, *values])
    with tempfile.TemporaryDirectory() as folder:
        spec = f"experiment: life_state\npreset: fast\nruns: {runs}\nbase: {{{base}}}\n"
        Path(folder, "s.yaml").write_text(spec)
        command = [str(Path(sys.executable).with_name("imagine-sweep")), "launch", "s.yaml", "--db", "a.db"]
        environment = {**os.environ, "IMAGINE_DEVICE": "cpu"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        with closing(open_store(f"{folder}/a.db", create=False)) as store:
            found = store.runs()
    values_of = found[["steps", "train_accuracy", "metric"]].to_numpy(float).tolist()
    return [Ended(int(steps), accuracy, metric) for steps, accuracy, metric in values_of]


def _plain(runs: int, values: list[str]) -> list[Ended]:
    with ThreadPoolExecutor(CORES) as pool:
        said = pool.map(lambda seed: _one(["--seed", str(seed), *TASK, *values])[1], range(runs))
        return [Ended(**json.loads(line)) for line in said]


def _authors(steps: int, *, ours_s: float) -> None:
    """A run on each core with the authors' Adam, in the plain way, beside the seconds of a core that ours takes."""
    words = [*TASK, "preset=paper_bce", "eval_sequences=128", "eval_every=100", f"max_steps={steps}"]
    with ThreadPoolExecutor(CORES) as pool:
        found = list(pool.map(lambda seed: _one(["--seed", str(seed), *words]), range(CORES)))
    for seconds, said in found:
        print(f"the authors' Adam, plain: {seconds:.1f} s of CPU", Ended(**json.loads(said)), sep="\n  ")
    name = f"a run of 3/3 to 99%, at most {steps} steps of the authors' Adam in the plain way"
    print(record(name, [ours_s] * CORES, [seconds for seconds, _ in found], unit="s of a core"))


def _one(words: list[str]) -> tuple[float, str]:
    """CPU seconds of a plain process, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "plain.py"), *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, said
    return usage.ru_utime + usage.ru_stime, said


if __name__ == "__main__":
    main()
