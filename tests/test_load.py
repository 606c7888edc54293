"""Fifty processes write at once: nothing is lost, nothing is doubled. `benchmarks/bench_writers.py` measures it."""

import multiprocessing
import random

import pytest
from store_helpers import WHO

from results_db.contract import Attempt, PlannedRun, RunRecord, State
from results_db.spool.delivery import delivery
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool
from results_db.store.sql import SqlStore

PROCESSES, RUNS = 50, 1_000
CONTEXT = multiprocessing.get_context("fork")  # what is imported is imported once


def run_id(number: int) -> str:
    return f"{number:064x}"


def record(number: int, points: int) -> RunRecord:
    chance = random.Random(number)
    trace = (list(range(points)), [chance.random() for _ in range(points)])
    return RunRecord(run_id(number), "reached", float(number), {"metric": number / RUNS}, {"decoded": trace})


def write(url: str, points: int, attempts: list[Attempt]) -> None:
    """As a worker does; what it cannot deliver in time stays in the spool."""
    worker = delivery(url)
    assert worker.begin(attempts, WHO) == attempts
    for attempt in attempts:
        found = record(int(attempt.run_id, 16), points)
        worker.end(attempt, found)
        worker.end(attempt, found)  # again changes nothing
    worker.close()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("points", [500, 2_500])
def test_a_thousand_runs_from_fifty_processes(store: SqlStore, points: int) -> None:
    store.stage(PlannedRun(run_id(number), {"gol": 3, "seed": number}) for number in range(RUNS))
    claimed = store.claim(map(run_id, range(RUNS)), job_name="imagine-1", launcher="slurm")
    url = store.url
    store.close()
    processes = [
        CONTEXT.Process(target=write, args=(url, points, claimed[first::PROCESSES]))
        for first in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    ingest(store)

    assert Spool(store.folder).attempts() == []
    frame = store.runs()
    assert set(frame["state"]) == {State.COMPLETED}
    assert frame["attempts"].tolist() == [1] * RUNS
    assert frame["metric"].tolist() == [number / RUNS for number in range(RUNS)]
    found = store.traces_of(frame["run_id"])
    assert all(found[run_id(number)] == record(number, points).traces for number in range(RUNS))
