"""10,000 runs of a generated spec: planned against a full and an empty store, beside Hydra's own composition of them.

    python benchmarks/bench_plan.py [--repeats 5] [--hydra-runs 200]

Hydra composes a sample of the runs, spread over all of them, and its time is scaled to all of them. Composition is
all that Hydra does there: it has no store to ask.
"""

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra

from jobs import hydra_config
from jobs.identity import run_id
from results_db.contract import PlannedRun
from results_db.store import open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load
from sweeps.status.plan import Plan, make_plan

MANY_SEEDS = """\
name: many_seeds
experiment: life_state
preset: fast
grid:
  gol: [1, 2, 3, 4, 5]
  model_t: [2, 3, 4, 5, 6]
  channels: [8, 16, 20, 24, 32]
  rnn: [true, false]
  lr: [1e-3, 2e-3]
runs: 20
"""
"""500 cells of 20 runs: the shape of a real sweep."""

MANY_CELLS = f"""\
name: many_cells
experiment: life_state
preset: fast
grid:
  gol: [1, 2, 3, 4, 5]
  model_t: [2, 3, 4, 5, 6]
  channels: {list(range(1, 101))}
  rnn: [true, false]
  lr: [1e-3, 2e-3]
"""
"""10,000 cells of one run: the worst case, for composition is per cell."""

DRAWN = """\
name: drawn
experiment: life_state
preset: fast
grid:
  gol: [1, 2, 3, 4, 5]
  model_t: [2, 3, 4, 5, 6]
  channels: [8, 16, 20, 24, 32]
  rnn: [true, false]
  ae: [true, false]
sample: {lr: {loguniform: [5e-4, 2e-3]}}
runs: 20
"""
"""500 cells of 20 runs, the learning rate of each drawn and checked."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hydra-runs", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for text in (MANY_SEEDS, MANY_CELLS, DRAWN):
            _compare(Path(folder) / "spec.yaml", text, options.repeats, options.hydra_runs)


def _compare(path: Path, text: str, repeats: int, hydra_runs: int) -> None:
    path.write_text(text)
    spec = load(path)
    runs = expand(spec).runs
    stated = [*spec.parts[0].axes, *spec.parts[0].sample, "seed"]
    expanded = _median(lambda: expand(load(path)), repeats)
    database = path.with_suffix(".db")
    new = _median(lambda: _plan(path, database), repeats)
    _fill(database, runs)
    stored = _median(lambda: _plan(path, database), repeats)
    if _plan(path, database).counts.stored != len(runs):
        raise SystemExit("the plan does not find the stored runs")
    database.unlink()
    sample = runs[:: max(1, len(runs) // hydra_runs)]
    theirs = _median(lambda: _by_hydra(sample, stated), repeats) * len(runs) / len(sample)
    print(
        f"{spec.name}: {len(runs):,} runs, median of {repeats}: load, expand and hash {expanded:.2f} s; planned with "
        f"no store {new:.2f} s, with a store that has them all {stored:.2f} s; Hydra's compose {theirs:.0f} s "
        f"(measured on {len(sample)} runs and scaled); Hydra to the slower plan: ratio {theirs / max(new, stored):.0f}"
    )


def _plan(path: Path, database: Path) -> Plan:
    """What `imagine-sweep plan` does."""
    store = open_store(str(database), create=False)
    try:
        return make_plan(expand(load(path)), store)
    finally:
        store.close()


def _fill(database: Path, runs: Sequence[PlannedRun]) -> None:
    """A store in which every run is complete; by hand, for 10,000 trainings take too long."""
    store = open_store(str(database), create=True)
    store.stage(runs)
    store.close()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE run SET state = 'COMPLETED', outcome = 'reached', seconds = 60.0")


def _by_hydra(runs: Sequence[PlannedRun], stated: Sequence[str]) -> None:
    """Compose the runs from what the spec states of them; the defaults and the preset are Hydra's to add."""
    hydra_config.register()
    with hydra.initialize(version_base="1.3", config_path=None):
        for run in runs:
            overrides = [f"{key}={run.config[key]}" for key in stated]
            config, _ = hydra_config.split(hydra.compose(hydra_config.PRIMARY, overrides))
            if run_id(config) != run.run_id:
                raise SystemExit(f"Hydra composes another run than {run.config}")


def _median(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
