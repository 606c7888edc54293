"""Small runs, packs, specs and command lines for tests of everything above the trainer."""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from store_helpers import start

from imagination.schema import Scalar
from jobs.config import resolve
from jobs.dispatched import Dispatch, DispatchFolder
from jobs.identity import run_id
from jobs.pack import Pack, Task
from results_db.contract import Attempt, Ending, PlannedRun, Provenance, RunRecord, State, Store
from results_db.store.sql import SqlStore, open_store
from sweeps.cli import root as cli
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import Prepared, prepare
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import load
from sweeps.spec.model import Spec
from sweeps.status.expected import Machines

SMALL: dict[str, Scalar] = {
    "gol": 2,
    "model_t": 2,
    "channels": 4,
    "step_layers": 1,
    "board": 6,
    "batch": 8,
    "warmup": 0.1,
    "max_steps": 40,
    "eval_every": 10,
    "trace_every": 5,
    "eval_board": 8,
    "eval_sequences": 40,
}
"""A run of a fraction of a second, which never reaches the accuracy gate."""

HOPELESS = 10**13
"""A batch that no memory holds; asking for it fails at once."""

ME = Provenance(
    launcher="test", host="here", process="1:1", device="cpu", git_commit=None, git_dirty=None, versions={}
)

SWEEP = str(Path(sys.executable).with_name("imagine-sweep"))
RESULTS = str(Path(sys.executable).with_name("imagine-results"))


def small(**changes: Scalar) -> PlannedRun:
    """A small run with these changes."""
    config = resolve("life_state", "fast", SMALL, changes)
    return PlannedRun(run_id(config), config)


def staged(store: Store, *runs: PlannedRun) -> Pack:
    """The runs as a pack, staged."""
    store.stage(run for run in runs)
    return Pack(runs)


def task_of(store: Store, *runs: PlannedRun) -> Task:
    """The task of training these runs, as far as they can be claimed."""
    pack = staged(store, *runs)
    return Task(pack, tuple(store.claim(ids(runs), launcher="local", retry_failed=True)))


def begun(store: Store, run: PlannedRun, *, by: Provenance = ME) -> Attempt:
    """The next attempt of a run, staged if need be."""
    staged(store, run)
    return start(store, run.run_id, by)


def complete(
    store: Store,
    run: PlannedRun,
    *,
    seconds: float = 1.0,
    accuracy: float = 1.0,
    outcome: str = "reached",
    by: Provenance = ME,
) -> None:
    """Put a run into the store as trained in so many seconds."""
    record = RunRecord(run.run_id, outcome, seconds, {"train_accuracy": accuracy})
    assert store.finish(begun(store, run, by=by), record)


def trained_by_job(
    store: Store,
    run: PlannedRun,
    *,
    seconds: float,
    device: str = ME.device,
    gpus: int = 0,
    accuracy: float = 1.0,
) -> None:
    """Put a run into the store as trained, alone, by a Slurm job that asked for so many GPUs."""
    name = f"job-{run.run_id[:10]}"
    about = Dispatch(name, store.url, str(store.folder), None, "h", "1:1", "me", "logs", 0, gpus)
    DispatchFolder.beside(store.folder, name).begin(about)
    staged(store, run)
    (attempt,) = store.claim([run.run_id], job_name=name, launcher="slurm")
    assert store.begin(attempt, replace(ME, device=device, process=name))
    assert store.finish(attempt, RunRecord(run.run_id, "reached", seconds, {"train_accuracy": accuracy}))


def fail(store: Store, run: PlannedRun, *, times: int = 1, state: State = State.FAILED) -> None:
    """Put a run into the store as one that failed so many times."""
    for _ in range(times):
        assert store.end(begun(store, run), Ending(state))


def hold(store: Store, name: str) -> None:
    """Hold a dispatch."""
    folder = store.folder / "jobs" / name
    folder.mkdir(parents=True)
    said = {"job_name": name, "cause": "no driver", "failures": 5, "held_at": "2026-11-20T12:00:00+00:00"}
    (folder / "held.json").write_text(json.dumps(said))


def results(store: SqlStore, run: str) -> dict[str, Any]:
    """What training decides, and nothing that time or place do."""
    found = store.run(run)
    return {
        "outcome": found["outcome"],
        "metrics": found["metrics"],
        "traces": store.traces(run),
        "samples": store.samples(run),
    }


def attempt_states(store: SqlStore, run: str) -> list[str]:
    """The states of a run's attempts, oldest first."""
    return [str(attempt["state"]) for attempt in store.attempts(run)]


def write_spec(folder: Path, *, name: str = "s", runs: int = 2, cells: str = "", **base: Scalar) -> Path:
    """A spec of small runs; `base` changes their config, `cells` is a YAML list."""
    path = folder / f"{name}.yaml"
    lines = ["experiment: life_state", f"base: {json.dumps(SMALL | base)}", f"runs: {runs}"]
    path.write_text("\n".join([*lines, *([f"cells: {cells}"] if cells else [])]) + "\n")
    return path


def drawn_twice(folder: Path) -> Expansion:
    """Two cells that want one run each: the second draws for every seed the learning rate that the first one has."""
    write_spec(folder, name="plain", runs=1, lr=1e-3)
    text = write_spec(folder, name="drawn", runs=1).read_text()
    (folder / "drawn.yaml").write_text(text + "sample: {lr: {choice: [1.0e-3, 1.0e-3]}}\n")
    (folder / "both.yaml").write_text("include: [plain.yaml, drawn.yaml]\n")
    return expand(load(folder / "both.yaml"))


def opened(folder: Path, name: str = "a.db") -> SqlStore:
    """The store that a command wrote in `folder`."""
    return open_store(str(folder / name), create=False)


def run(*command: str, folder: Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command in `folder` to its end."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, **options
    )


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON."""
        return json.loads(self.out)


def answer(*arguments: str, folder: Path) -> Answer:
    """Run `imagine-sweep` in this process, in `folder`; faster than as a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(sys, "argv", ["imagine-sweep", *arguments])
        patched.delenv("IMAGINE_DB", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Answer(int(ended.value.code or 0), out.getvalue(), err.getvalue())


class Watched:
    """A command that runs in `folder` while a test watches its standard error."""

    def __init__(self, *command: str, folder: Path, **options: Any) -> None:
        self._log = folder / f"stderr-{time.monotonic_ns()}.txt"
        with self._log.open("w") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr, **options
            )

    @property
    def said(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Wait until it has said `text` so many times."""
        wait_until(lambda: self.said.count(text) >= times or self.process.poll() is not None)
        assert self.said.count(text) >= times, self.said

    def end(self, timeout: float = 120) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout)


def wait_until(happened: Callable[[], object], *, within_s: float = 60) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def tree(folder: Path) -> set[str]:
    """Every file and folder below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def ids(runs: Iterable[PlannedRun]) -> list[str]:
    """Run ids."""
    return [run.run_id for run in runs]


def staged_launch(store: SqlStore, spec: Spec) -> Prepared:
    """A launch of the spec up to its training."""
    with prepare(
        spec,
        expand(spec),
        LaunchOptions(db=store.url),
        machines=Machines(workers=1, gpus=0, cores=1),
        recover=lambda _: [],
    ) as ready:
        ready.stage()
    return ready
