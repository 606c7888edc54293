"""Launches on the testbed: command lines, waiting for their jobs, and comparing their results."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sweep_helpers import Answer, answer, opened, results, wait_until

from results_db.contract import State
from slurm.testbed.testbed import Testbed
from sweeps.spec.expand import expand
from sweeps.spec.load import load

WITHIN_S = 240
"""A limit for what takes 30 s on an idle machine."""

LONG = {"max_steps": 5000, "trace_every": 500, "eval_every": 1000}
"""Some 10 s, so that a test can disturb the training."""


def launch(folder: Path, *arguments: str, check: bool = False) -> Answer:
    """Run `imagine-sweep launch s.yaml launcher=slurm` in `folder`, in this process. It must succeed."""
    said = try_launch(folder, *arguments, check=check)
    assert said.code == 0, said.err
    return said


def try_launch(folder: Path, *arguments: str, check: bool = False) -> Answer:
    """The same, which may fail."""
    options = ["--db", "a.db", "--json", *(() if check else ("--no-check",))]
    return answer("launch", "s.yaml", "launcher=slurm", *arguments, *options, folder=folder)


def planned(folder: Path) -> list[str]:
    """Ids of the spec's runs."""
    return [run.run_id for run in expand(load(folder / "s.yaml")).runs]


def states(folder: Path) -> dict[str, State]:
    """The state of each of the spec's runs."""
    with closing(opened(folder)) as store:
        return store.states(planned(folder))


def attempts(folder: Path) -> list[list[dict[str, Any]]]:
    """The attempts of each of the spec's runs."""
    with closing(opened(folder)) as store:
        return [store.attempts(run_id) for run_id in planned(folder)]


def wait_for_states(folder: Path, *wanted: State, within_s: float = WITHIN_S) -> None:
    """Wait until all of the spec's runs are in one of these states."""
    try:
        wait_until(lambda: set(states(folder).values()) <= set(wanted), within_s=within_s)
    except AssertionError:
        raise AssertionError(f"{states(folder)}\n{logs(folder)}") from None


def wait_for_log(folder: Path, text: str, *, times: int = 1) -> None:
    """Wait until the jobs' logs hold this text so many times."""
    try:
        wait_until(lambda: logs(folder).count(text) >= times, within_s=WITHIN_S)
    except AssertionError:
        raise AssertionError(logs(folder)) from None


def logs(folder: Path) -> str:
    """The logs of all jobs."""
    return launched_into(folder, "*_log.err")


def launched_into(folder: Path, pattern: str) -> str:
    """The text of these logs of all dispatches."""
    return "\n".join(path.read_text() for path in sorted((folder / "a.files" / "logs").glob(f"*/{pattern}")))


def scripts(slurm: Testbed, folder: Path) -> dict[str, str]:
    """The sbatch script of each job in squeue, by its id."""
    listed = dict(line.split() for line in slurm.run("squeue", "-h", "-t", "all", "-o", "%F %j").splitlines())
    files = {job: folder / "a.files" / "jobs" / name / "submission.sh" for job, name in listed.items()}
    return {job: file.read_text() for job, file in files.items() if file.exists()}


def wait_for_no_jobs(slurm: Testbed) -> None:
    """Wait until nothing is queued or runs."""
    wait_until(lambda: not slurm.run("squeue", "-h"), within_s=WITHIN_S)


def all_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of each of the spec's runs."""
    with closing(opened(folder)) as store:
        return {run_id: results(store, run_id) for run_id in planned(folder)}


def assert_whole(folder: Path, slurm: Testbed, undisturbed: Mapping[str, Mapping[str, Any]]) -> None:
    """Every run is complete exactly once, with the undisturbed result to the bit, and no files are left over."""
    wait_for_no_jobs(slurm)
    assert all_results(folder) == undisturbed
    for tries in attempts(folder):
        assert [one["state"] for one in tries].count(State.COMPLETED) == 1, tries
    with closing(opened(folder)) as store:
        assert store.open_attempts() == []
        assert sorted(store.runs()["run_id"]) == sorted(undisturbed)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    weights = [name for name in files if name.startswith("a.files/weights/")]
    assert len(weights) == len(undisturbed), weights
    left = ("a.files/spool/", "a.files/checkpoints/", "a.files/packs/")
    assert [name for name in files if name.startswith(left) or name.endswith((".lock", ".tmp"))] == []


def train_here(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of the spec in `folder`, trained by the local launcher, one run at a time."""
    sweep = str(Path(sys.executable).with_name("imagine-sweep"))
    command = (sweep, "launch", "s.yaml", "--db", "a.db", "--workers", "1")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=2 * WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return all_results(folder)


def command(folder: Path, name: str, script: Iterable[str]) -> dict[str, str]:
    """An environment in which this script replaces a command of Slurm; `$real` in it is the command itself."""
    tools = folder / "tools"
    tools.mkdir()
    file = tools / name
    file.write_text("\n".join(["#!/bin/sh", f"real={shutil.which(name)}", *script]) + "\n")
    file.chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
