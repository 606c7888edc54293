"""Training time to 99% of the preset `fast`, beside the settings that the project began with.

python benchmarks/time_to_99.py [--seeds 5] [--workers 1] [--db time_to_99.db]

Trains with the tool itself (`imagine-sweep launch`), one thread per run, both settings in turn. A stopped benchmark
continues where it stopped. A run that never reaches 99% counts with its whole training time, so medians can be too low.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parent / "time_to_99.yaml"
SWEEP = "from sweeps.cli.root import main; main()"
RESULTS = "from results_db.cli import main; main()"
PILOTS_OPTIMIZER = "adam"


def main() -> None:
    """Train what is missing, and print a line per cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--db", help="keep the runs there [default: a folder that goes again]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = options.db or f"{folder}/bench.db"
        _command(
            SWEEP, "launch", str(SPEC), f"runs={options.seeds}", "--workers", options.workers, "--db", db
        )
        for gol in (2, 3, 4):
            where = f"gol = {gol} and model_t = {gol} and seed < {options.seeds}"
            runs = json.loads(_command(RESULTS, "runs", "--json", "--where", where, "--db", db))
            _print(gol, [run for run in runs if run["state"] == "COMPLETED"])


def _command(code: str, *arguments: object) -> str:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def _print(gol: int, runs: list[dict[str, Any]]) -> None:
    pilot = [run for run in runs if run["optimizer"] == PILOTS_OPTIMIZER]
    fast = [run for run in runs if run["optimizer"] != PILOTS_OPTIMIZER]
    if not pilot or not fast:
        return
    medians = [statistics.median(run["seconds"] for run in side) for side in (pilot, fast)]
    print(f"{gol}/{gol}: ratio {medians[1] / medians[0]:.3f}")
    for name, side in (("pilot", pilot), ("fast", fast)):
        print(f"  {name:<5} {describe(side)}")


def describe(runs: list[dict[str, Any]]) -> str:
    """Times, steps and metric of one side; a run that diverged has no metric and is counted."""
    seconds = sorted(run["seconds"] for run in runs)
    steps = [run["steps"] for run in runs if run["steps"] is not None]
    metrics = [run["metric"] for run in runs if run["metric"] is not None]
    reached = sum(run["outcome"] == "reached" for run in runs)
    diverged = sum(run["outcome"] == "diverged" for run in runs)
    said = [f"median {statistics.median(seconds):.0f} s ({seconds[0]:.0f} to {seconds[-1]:.0f})"]
    said += [f"{statistics.median(steps):.0f} steps"] if steps else []
    said += [f"{reached} of {len(runs)} reached 99%"]
    said += [f"{diverged} diverged"] if diverged else []
    said += [f"mean metric {statistics.mean(metrics):.2f}"] if metrics else []
    return ", ".join(said)


if __name__ == "__main__":
    main()
