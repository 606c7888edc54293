"""The store with 10,000 runs, compared with plain sqlite3 for the same rows, without the store's promises.

python benchmarks/bench_store.py [--repeats 5]
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from results_db.contract import PlannedRun
from results_db.store import open_store

RUNS = [
    PlannedRun(f"{n:064x}", {**{f"key{k}": k * 0.5 for k in range(30)}, "seed": n}) for n in range(10_000)
]


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rounds = [(_ours(), _plain()) for _ in range(repeats)]
    for step in ("stage", "states", "runs"):
        ours, plain = (statistics.median(times[side][step] for times in rounds) for side in (0, 1))
        print(
            f"{step}: {ours:.2f} s, plain sqlite3 {plain:.2f} s, ratio {ours / plain:.1f} "
            f"(10,000 runs, median of {repeats})"
        )


def _ours() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/x.db", create=True)
        ids = [run.run_id for run in RUNS]
        times = _timed(stage=lambda: store.stage(RUNS), states=lambda: store.states(ids), runs=store.runs)
        store.close()
    return times


def _plain() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "x.db")
        connection.execute(
            "CREATE TABLE run (id INTEGER PRIMARY KEY, run_id TEXT UNIQUE, config TEXT, state TEXT)"
        )

        def stage() -> None:
            rows = [(run.run_id, json.dumps(run.config), "STAGED") for run in RUNS]
            with connection:
                connection.executemany("INSERT INTO run (run_id, config, state) VALUES (?, ?, ?)", rows)

        def runs() -> Sequence[object]:
            rows = connection.execute("SELECT run_id, state, config FROM run").fetchall()
            return [(run_id, state, json.loads(config)) for run_id, state, config in rows]

        times = _timed(
            stage=stage,
            states=lambda: dict(connection.execute("SELECT run_id, state FROM run").fetchall()),
            runs=runs,
        )
        connection.close()
    return times


def _timed(**steps: Callable[[], object]) -> dict[str, float]:
    times = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        times[name] = time.perf_counter() - started
    return times


if __name__ == "__main__":
    main()
