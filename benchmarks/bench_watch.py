"""`watch` and `status` at 10,000 runs, on a real Slurm with 5,800 of them in its queue, beside plain SQL and one squeue.

    python benchmarks/bench_watch.py [--looks 10]

A testbed of its own is brought up and taken down. CPU time is that of this process and of what it starts.
"""

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from results_db.contract import Attempt, NewSweep, Provenance, State
from results_db.store import SqlStore, open_store
from slurm.queries import Slurm
from slurm.testbed import packages
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed
from sweeps.expand import Expansion, expand
from sweeps.spec import load
from sweeps.watch import Watch
from sweeps.watch_display import screen

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
WORKER = Provenance("slurm", "n1", "1:1", "NVIDIA H200", None, None, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--looks", type=int, default=10)
    looks = parser.parse_args().looks
    if missing := packages.missing(accounting=False):
        raise SystemExit(f"Slurm is not all here ({', '.join(missing)} missing); {packages.HOW_TO_INSTALL}")
    with tempfile.TemporaryDirectory(prefix="bw") as folder:
        testbed = Testbed(Path(folder) / "t")
        try:
            testbed.up(Settings(nodes=1, accounting=False))
            os.environ["SLURM_CONF"] = testbed.environment["SLURM_CONF"]
            _measure(Path(folder), testbed, looks)
        finally:
            testbed.wipe()


def _measure(folder: Path, testbed: Testbed, looks: int) -> None:
    (folder / "many.yaml").write_text(SPEC)
    spec = load(folder / "many.yaml")
    expansion = expand(spec)
    store = open_store(str(folder / "a.db"), create=True)
    store.stage(expansion.runs, sweep=NewSweep(spec.name, spec.composed))
    _fill(store, expansion, testbed)
    slurm = Slurm()
    watch = Watch("many", lambda: [("many", expansion)], store=store, slurm=slurm)
    watch.look()  # reads the sweep, once
    cpu = [_cpu(lambda: screen(watch.look(), width=160, height=50)) for _ in range(looks)]
    plain = [_cpu(lambda: _plain(folder / "a.db")) for _ in range(looks)]
    counted = [command for _, command in slurm.asked]
    command = [
        sys.executable,
        "-m",
        "sweeps.cli",
        "--db",
        str(folder / "a.db"),
        "status",
        str(folder / "many.yaml"),
    ]
    status = [_wall(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(3)]
    store.close()
    print(
        f"watch at {len(expansion.runs):,} runs, {len(expansion.cells)} cells: {statistics.median(cpu):.2f} s of CPU a "
        f"refresh (median of {looks}); plain SQL and one squeue {statistics.median(plain):.2f} s, "
        f"ratio {statistics.median(cpu) / statistics.median(plain):.1f}"
    )
    every = 60 / 10
    print(
        f"queries: {counted.count('squeue') / (looks + 1):.1f} squeue and {counted.count('sacct') / (looks + 1):.1f} "
        f"sacct a refresh, so {every * counted.count('squeue') / (looks + 1):.0f} squeue a minute at the default of 10 s"
    )
    print(
        f"status of {len(expansion.runs):,} runs: {statistics.median(status):.2f} s (median of 3, as a process)"
    )


def _fill(store: SqlStore, expansion: Expansion, testbed: Testbed) -> None:
    """The runs' states; attempts in the thousands are written by hand, as their workers would take hours to."""
    run_ids = [run.run_id for run in expansion.runs]
    queued = run_ids[COMPLETED + FAILED :]
    for start in range(0, len(queued), TASKS):
        name = f"many-{start}"
        attempts = store.intend(queued[start : start + TASKS], job_name=name, launcher="slurm")
        job = testbed.run(
            *("sbatch", "--parsable", "--hold", f"--job-name={name}", "--output=/dev/null"),
            *(f"--array=0-{len(attempts) - 1}", "--wrap", "true"),
        )
        store.note_jobs({attempt: f"{job}_{index}" for index, attempt in enumerate(attempts)})
        for attempt in attempts[: RUNNING * TASKS // len(queued)]:
            _train(store, attempt)
    for run_id in run_ids[COMPLETED : COMPLETED + FAILED]:
        attempt = store.start(run_id, WORKER)
        assert attempt is not None
        store.end(attempt, State.FAILED, error="RuntimeError: something")
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
    """What somebody without `watch` would type: the counts, the open attempts, and squeue."""
    with sqlite3.connect(database) as connection:
        connection.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall()
        connection.execute("SELECT * FROM attempt WHERE state IN ('PENDING', 'RUNNING')").fetchall()
    subprocess.run(["squeue", "--me"], check=True, stdout=subprocess.DEVNULL)


def _cpu(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _wall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
