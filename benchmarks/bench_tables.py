"""`table` and `runs` as whole commands over 100,000 stored runs, compared with their imports.

python benchmarks/bench_tables.py [--runs 100000] [--repeats 5]
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, select, update

from imagination import registry
from results_db.contract import NewSweep, State
from results_db.store import open_store, rows, tables
from results_db.store.packed import pack_metrics
from sweeps.spec.expand import expand
from sweeps.spec.load import load

SPEC = """\
name: many
experiment: life_state
grid:
  gol: [1, 2, 3, 4, 5]
  model_t: [2, 3, 4, 5, 6]
  channels: [8, 16, 20, 24, 32]
  rnn: [true, false]
  {last}
runs: {runs}
"""
GRID = "lr: [1e-3, 2e-3]"
DRAWN = "ae: [true, false]\nsample:\n  lr: {loguniform: [5.0e-4, 2.0e-3]}"
COMMANDS = {
    "table": ["table", "--group", "gol,model_t"],
    "table of a filter": ["table", "--group", "gol,model_t", "--where", "channels<=20 and rnn=true"],
    "runs -n 20": ["runs", "-n", "20"],
    "runs, sorted": ["runs", "-n", "20", "--sort", "-metric"],
}


IMPORTED = "click, numpy, sqlalchemy.dialects.sqlite"
"""What every command that reads the store imports of others."""


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    imports = _median([sys.executable, "-c", f"import {IMPORTED}"], options.repeats)
    print(f"import {IMPORTED}: {imports} (medians of {options.repeats})")
    for kind, last in (("500 configs", GRID), ("every run with a drawn lr", DRAWN)):
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), SPEC.format(last=last, runs=options.runs // 500))
            size = (Path(folder) / "x.db").stat().st_size / 1e6
            print(f"{options.runs:,} runs, {kind}: {size:.0f} MB")
            for name, command in COMMANDS.items():
                database = ["--db", f"{folder}/x.db"]
                taken = _median(
                    [sys.executable, "-m", "results_db.cli", *command, *database], options.repeats
                )
                print(f"  {name}: {taken}, {taken.elapsed / imports.elapsed:.1f} of the imports")


def fill(folder: Path, spec: str) -> None:
    """A store with the runs of this spec, all stored, with the metrics of a real run and one attempt each."""
    (folder / "many.yaml").write_text(spec)
    loaded = load(folder / "many.yaml")
    runs, chance = expand(loaded).runs, random.Random(0)
    with open_store(str(folder / "x.db"), create=True) as store:
        store.stage(runs, sweep=NewSweep(loaded.name, loaded.composed))
        names = list(registry.declaration("life_state").metrics)
        with store._writing() as connection:
            (key,) = rows.share(connection, [names])
            ids = connection.scalars(select(tables.run.c.id)).all()
            new = [
                {"key": run, "packed": pack_metrics([chance.uniform(0.985, 1.0) for _ in names])}
                for run in ids
            ]
            stored = update(tables.run).where(tables.run.c.id == bindparam("key"))
            ended = {"state": State.COMPLETED, "outcome": "reached", "seconds": 60.0, "metric_names": key}
            connection.execute(stored.values(metrics=bindparam("packed"), **ended), new)
            done = {"number": 1, "restart": 0, "state": State.COMPLETED, "launcher": "slurm", "step": 500}
            at = connection.scalar(select(tables.run.c.staged_at).limit(1))
            about: dict[str, Any] = {
                "claimed_at": at,
                "started_at": at,
                "ended_at": at,
                "progress": {},
                "versions": {},
            }
            connection.execute(insert(tables.attempt), [{"run": run, **done, **about} for run in ids])


class _Taken(NamedTuple):
    """Seconds of a command. On a busy machine only `cpu` tells something, of all threads together."""

    elapsed: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.elapsed:.2f} s, CPU time {self.cpu:.2f} s"


def _median(command: list[str], repeats: int) -> _Taken:
    times = []
    for _ in range(repeats):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        times.append((after.elapsed - before.elapsed, sum(after[2:4]) - sum(before[2:4])))
    return _Taken(*(statistics.median(each) for each in zip(*times, strict=True)))


if __name__ == "__main__":
    main()
