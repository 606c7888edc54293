"""A whole sweep of short runs on this machine's cores: imagine-sweep launch, Hydra's multirun, and Optuna.

    python benchmarks/bench_sweeps.py [--runs 40] [--times 5]

The time is from the command until every run is stored. Hydra's multirun uses hydra-submitit-launcher's local executor,
with as many jobs at a time as there are cores. Optuna's `study.optimize` runs in as many processes, which train their
trials themselves and store less; its study is an SQLite file. All three train the same configs, and the benchmark
checks that each stored all results.
Optuna is no dependency of this project: pip install optuna.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_jobs import RUN
from results import record

from results_db.store import open_store


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--study", nargs=2, help=argparse.SUPPRESS)  # one of Optuna's processes
    options = parser.parse_args()
    if options.study:
        _optimize(options.study[0], int(options.study[1]))
        return
    ways = {"Hydra": _hydra, **({"Optuna": _optuna} if find_spec("optuna") else {})}
    ours: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.times):  # in turn, so that other work on this machine slows all
        ours.append(_timed(_launch, options.runs))
        for name, way in ways.items():
            others[name].append(_timed(way, options.runs))
    for name, times in others.items():
        print(record(f"{options.runs} short runs: imagine-sweep launch, {name}", ours, times, unit="s"))


def _timed(way: Callable[[Path, int], int], runs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        stored = way(Path(folder), runs)
        taken = time.perf_counter() - started
    assert stored == runs, (way, stored)
    print(f"  {way.__name__[1:]}: {taken:.1f} s", flush=True)
    return taken


def _run(folder: Path, *words: str) -> None:
    environment = {**os.environ, "IMAGINE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)


def _stored(folder: Path) -> int:
    with closing(open_store(str(folder / "a.db"), create=False)) as store:
        return int((store.runs()["state"] == "COMPLETED").sum())


def _launch(folder: Path, runs: int) -> int:
    (folder / "s.yaml").write_text(f"experiment: life_state\nbase: {RUN}\nruns: {runs}\n")
    _run(folder, str(Path(sys.executable).with_name("imagine-sweep")), "launch", "s.yaml", "--db", "a.db")
    return _stored(folder)


def _hydra(folder: Path, runs: int) -> int:
    _run(
        folder,
        *(sys.executable, "-m", "jobs.train", "--multirun", "hydra/launcher=submitit_local"),
        *(f"hydra.sweeper.max_batch_size={_cores()}", "run.threads=1", "--db", "a.db", f"seed=range({runs})"),
        *(f"{key}={value}" for key, value in RUN.items()),
    )
    return _stored(folder)


def _optuna(folder: Path, runs: int) -> int:
    import optuna

    storage = f"sqlite:///{folder / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name="s", storage=storage)
    shares = [len(range(core, runs, _cores())) for core in range(_cores())]
    words = [sys.executable, str(Path(__file__).resolve()), "--study", storage]
    started = [subprocess.Popen([*words, str(share)]) for share in shares]
    assert not any(process.wait() for process in started)
    return sum("metric" in trial.user_attrs for trial in study.get_trials())


def _optimize(storage: str, runs: int) -> None:
    """Trains this many runs as trials of the study."""
    import optuna
    import torch

    from imagination.life.config import LifeStateConfig
    from imagination.life.state import LifeState
    from imagination.runner import Run
    from imagination.schema import rebuild
    from imagination.training.loop import Trainer

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Recorder:
        """Writes a run's traces and metrics into its trial."""

        def __init__(self, trial: Any) -> None:
            self._trial = trial

        def trace(self, name: str, step: int, value: float) -> None:
            if name == "state1":  # a trial has one value per step
                self._trial.report(value, step)

        def metric(self, name: str, value: float | None) -> None:
            self._trial.set_user_attr(name, value)

        def fail(self, error: BaseException) -> None:
            raise error

        def _ignored(self, *_: Any, **__: Any) -> None:
            pass

        sample = checkpoint = progress = finish = artifact = _ignored

    def objective(trial: Any) -> float:
        config: LifeStateConfig = rebuild(LifeStateConfig, {**RUN, "seed": trial.number})
        Trainer(LifeState([config], torch.device("cpu")), [Run(config, Recorder(trial))]).train()
        return float(trial.user_attrs["metric"])

    optuna.load_study(study_name="s", storage=storage).optimize(objective, n_trials=runs)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
