"""`watch` and `status` at 10,000 runs, 5,800 of them queued on a real Slurm; beside plain SQL and one squeue.

    python benchmarks/bench_watch.py [--looks 10]

A testbed of its own is brought up and taken down. CPU time is that of this process and of what it starts.
"""

import argparse
import io
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from on_slurm import on_slurm
from rich.console import Console

from results_db.contract import Attempt, Ending, NewSweep, Provenance, State
from results_db.store.sql import SqlStore, open_store
from slurm.client.client import Slurm
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed
from sweeps.follow.display import screen
from sweeps.follow.watch import Watch
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import load

SPEC = """\
name: many
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
COMPLETED, FAILED, RUNNING = 4_000, 200, 300
TASKS = 1_000
WORKER = Provenance("slurm", "n1", "1:1", "NVIDIA A100-SXM4-80GB", None, None, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--looks", type=int, default=10)
    looks = parser.parse_args().looks
    with on_slurm(Settings(nodes=1, accounting=False)) as (testbed, folder):
        _measure(folder, testbed, looks)


def _measure(folder: Path, testbed: Testbed, looks: int) -> None:
    (folder / "many.yaml").write_text(SPEC)
    spec = load(folder / "many.yaml")
    expansion = expand(spec)
    store = open_store(str(folder / "a.db"), create=True)
    store.stage(expansion.runs, sweep=NewSweep(spec.name, spec.composed))
    _fill(store, expansion, testbed)
    slurm = Slurm()
    watch = Watch(lambda: [(spec, expansion)], store=store, slurm=slurm, name="many")
    watch.look()  # reads the sweep, once
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=50)
    cpu = [_cpu(lambda: console.print(screen(watch.look(), width=160, height=50))) for _ in range(looks)]
    plain = [_cpu(lambda: _plain(folder / "a.db")) for _ in range(looks)]
    asked = [command for _, command in slurm.asked]
    squeues, saccts = (asked.count(name) / (looks + 1) for name in ("squeue", "sacct"))
    store.close()
    command = [sys.executable, "-m", "sweeps.cli", "--db", str(folder / "a.db"), "status", "many.yaml"]
    taken = [_status(command, folder) for _ in range(3)]
    wall, used = (statistics.median(column) for column in zip(*taken, strict=True))
    ours, theirs = statistics.median(cpu), statistics.median(plain)
    print(
        f"watch at {len(expansion.runs):,} runs, {len(expansion.cells)} cells: {ours:.2f} s of CPU a refresh "
        f"(median of {looks}); plain SQL and one squeue {theirs:.2f} s, ratio {ours / theirs:.1f}"
    )
    print(
        f"queries: {squeues:.1f} squeue and {saccts:.1f} sacct a refresh; at the default of 10 s "
        f"{6 * squeues:.0f} squeue a minute"
    )
    print(
        f"status of {len(expansion.runs):,} runs: {wall:.2f} s, {used:.2f} s of CPU (median of 3, as a process)"
    )


def _fill(store: SqlStore, expansion: Expansion, testbed: Testbed) -> None:
    """The runs' states; attempts in the thousands are written by hand, as their workers would take hours to."""
    run_ids = [run.run_id for run in expansion.runs]
    queued = run_ids[COMPLETED + FAILED :]
    for start in range(0, len(queued), TASKS):
        name = f"many-{start}"
        attempts = store.claim(queued[start : start + TASKS], job_name=name, launcher="slurm")
        job = testbed.run(
            *("sbatch", "--parsable", "--hold", f"--job-name={name}", "--output=/dev/null"),
            *(f"--array=0-{len(attempts) - 1}", "--wrap", "true"),
        )
        store.note_jobs({attempt: f"{job}_{index}" for index, attempt in enumerate(attempts)})
        for attempt in attempts[: RUNNING * TASKS // len(queued)]:
            _train(store, attempt)
    for run_id in run_ids[COMPLETED : COMPLETED + FAILED]:
        (failed,) = store.claim([run_id], launcher="local")
        store.end(failed, Ending(State.FAILED, error="RuntimeError: something"))
    store.close()
    with sqlite3.connect(str(store.folder).replace(".files", ".db")) as connection:
        ids = ", ".join(f"'{run_id}'" for run_id in run_ids[:COMPLETED])
        connection.execute(
            f"UPDATE run SET state = 'COMPLETED', outcome = 'reached', seconds = 60.0 WHERE run_id IN ({ids})"
        )


def _train(store: SqlStore, attempt: Attempt) -> None:
    assert store.begin(attempt, WORKER)
    store.heartbeat(attempt, step=100, progress={"state1": 0.99, "state2": 0.9, "state3": 0.8})


def _plain(database: Path) -> None:
    """What a user without `watch` would run: the counts, the open attempts, and squeue."""
    with sqlite3.connect(database) as connection:
        connection.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall()
        connection.execute("SELECT * FROM attempt WHERE state IN ('PENDING', 'RUNNING')").fetchall()
    subprocess.run(["squeue", "--me"], check=True, stdout=subprocess.DEVNULL)


def _cpu(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _status(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    start = time.perf_counter()
    used = _cpu(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder))
    return time.perf_counter() - start, used


if __name__ == "__main__":
    main()
