"""50 processes write 1,000 runs with a trace each at once, compared with Optuna's RDB storage for the same data.

python benchmarks/bench_writers.py [--processes 50] [--runs 1000] [--optuna-runs 50] [--folder FOLDER]

Both measured times include all that the store keeps of a run: its config, its metrics and its trace. We stage and claim
the runs as a launch does, in one process before the others write; Optuna takes each trial in one call. Optuna takes
seconds for a run, so it writes fewer; both give a rate.
Optuna is no dependency of this project: pip install optuna.
"""

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results_db.contract import PlannedRun, RunRecord
from results_db.store import open_store

POINTS = (500, 2_500)
METRICS = {"metric": 0.98, "metric_plain": 0.97, "train_accuracy": 0.995, "steps": 2_500.0}


def main() -> None:
    """Measure and print runs per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--optuna-runs", type=int, default=50)
    parser.add_argument(
        "--folder", type=Path, help="a folder on the disk to measure; default: a temporary one"
    )
    options = parser.parse_args()
    for points in POINTS:
        ours = _rate(_ours, points, options, runs=options.runs)
        line = (
            f"{points:,} points: {ours:.0f} runs/s from {options.processes} processes ({options.runs:,} runs)"
        )
        if find_spec("optuna") is None:
            print(f"{line}; optuna is not installed")
        else:
            theirs = _rate(_optuna, points, options, runs=options.optuna_runs)
            print(
                f"{line}, Optuna {theirs:.1f} runs/s ({options.optuna_runs} runs), ratio {ours / theirs:.1f}"
            )


def _rate(
    write: Callable[[str, int, range], None], points: int, options: argparse.Namespace, *, runs: int
) -> float:
    """Runs per second: the staging, and from when all processes are ready until the last one is done."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        database, create, stage, check = f"{folder}/x.db", *_AROUND[write]
        create(database)
        since = time.perf_counter()
        stage(database, runs)
        staged_s = time.perf_counter() - since
        shares = [range(first, runs, options.processes) for first in range(options.processes)]
        seconds = staged_s + _together([(write, database, points, share) for share in shares])
        check(database, runs, points)
    return float(runs / seconds)


def _together(tasks: list[tuple[Any, ...]]) -> float:
    """Runs each task, a function and its arguments, in a process of its own; the seconds that they take."""
    context = multiprocessing.get_context("fork")  # what is imported is imported once
    barrier = context.Barrier(len(tasks) + 1)
    processes = [context.Process(target=_begin, args=(barrier, *task)) for task in tasks]
    for process in processes:
        process.start()
    barrier.wait()
    since = time.perf_counter()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return time.perf_counter() - since


def _begin(barrier: Any, write: Callable[..., None], *arguments: Any) -> None:
    barrier.wait()
    write(*arguments)


def run_id(number: int) -> str:
    return f"{number:064x}"


def config(number: int) -> dict[str, Any]:
    return {**{f"key{key}": key * 0.5 for key in range(30)}, "seed": number}


def trace(number: int, points: int) -> tuple[list[int], list[float]]:
    chance = random.Random(number)
    return list(range(0, 10 * points, 10)), [chance.random() for _ in range(points)]


def _create_ours(database: str) -> None:
    open_store(database, create=True).close()


def _stage_ours(database: str, runs: int) -> None:
    """Stage and claim the runs, as a launch does."""
    with open_store(database, create=False) as store:
        store.stage(PlannedRun(run_id(number), config(number)) for number in range(runs))
        store.claim(map(run_id, range(runs)), job_name="imagine-1", launcher="slurm")


def _ours(database: str, points: int, numbers: range) -> None:
    with open_store(database, create=False) as store:
        claimed = {attempt.run_id: attempt for attempt in (one.attempt for one in store.open_attempts())}
        for number in numbers:
            record = RunRecord(run_id(number), "reached", 1.0, METRICS, {"decoded_1": trace(number, points)})
            assert store.finish(claimed[run_id(number)], record)


def _check_ours(database: str, runs: int, points: int) -> None:
    """Check that each run is stored once, with its own trace."""
    with open_store(database, create=False) as store:
        frame = store.runs()
        assert (frame["state"] == "COMPLETED").all()
        assert frame["attempts"].tolist() == [1] * runs
        found = store.traces_of(frame["run_id"])
        assert all(found[run_id(number)]["decoded_1"] == trace(number, points) for number in range(runs))


def _create_optuna(database: str) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name="s", storage=_optuna_storage(database))


def _stage_optuna(database: str, runs: int) -> None:
    """Nothing: a trial brings its config."""


def _optuna(database: str, points: int, numbers: range) -> None:
    import optuna

    study = optuna.load_study(study_name="s", storage=_optuna_storage(database))
    for number in numbers:
        steps, values = trace(number, points)
        study.add_trial(
            optuna.trial.create_trial(
                value=METRICS["metric"],
                user_attrs={**config(number), **METRICS},
                intermediate_values=dict(zip(steps, values, strict=True)),
            )
        )


def _optuna_storage(database: str) -> Any:
    from optuna.storages import RDBStorage

    return RDBStorage(f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 600}})


def _check_optuna(database: str, runs: int, points: int) -> None:
    import optuna

    trials = optuna.load_study(study_name="s", storage=_optuna_storage(database)).trials
    assert len(trials) == runs
    assert all(len(one.intermediate_values) == points for one in trials)


_AROUND: dict[Callable[[str, int, range], None], tuple[Callable[..., None], ...]] = {
    _ours: (_create_ours, _stage_ours, _check_ours),
    _optuna: (_create_optuna, _stage_optuna, _check_optuna),
}
"""Before the clock, at its start, and after it."""


if __name__ == "__main__":
    main()
