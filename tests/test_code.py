"""The code of a launch and of its jobs: on a real Slurm, jobs that start after it has changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_helpers import all_results, attempts, launch, logs, states, train_here, wait_for_states
from sweep_helpers import SWEEP, run, wait_until, write_spec

import jobs.code
from jobs.code import copy_code, this_code
from results_db.contract import State

ROOT = Path(jobs.code.__file__).parent.parent
WAITS = "launcher.additional_parameters={begin: now+1hour}"
OPTIONS = ("launcher=slurm", "--db", "a.db", "--no-check", WAITS)


@pytest.fixture
def other(tmp_path) -> Path:
    """A copy of the code, which a test may change."""
    copy_code(tmp_path / "code")
    return tmp_path / "code"


def by(code: Path) -> dict[str, str]:
    """An environment in which a process runs that code; sbatch passes it on to the jobs."""
    return {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def digest(code: Path) -> str:
    words = (
        sys.executable,
        "-c",
        "import jobs.code; print(jobs.code.__file__, jobs.code.this_code().digest)",
    )
    file, found = subprocess.run(
        words, env=by(code), check=True, capture_output=True, text=True
    ).stdout.split()
    assert file == f"{code}/jobs/code.py"
    return found


def change(code: Path) -> None:
    """Every job fails with this code."""
    path = code / "jobs" / "worker.py"
    path.write_text(path.read_text() + "\nraise RuntimeError('the new code')\n")


def start(slurm) -> None:
    (job,) = set(slurm.run("squeue", "-h", "-o", "%F").split())
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_a_copy_is_the_same_code_until_it_changes(other) -> None:
    assert digest(other) == this_code().digest
    (other / "sweeps" / "cli" / "root.py").write_text("")  # jobs do not execute it
    assert digest(other) == this_code().digest
    change(other)
    assert digest(other) != this_code().digest
    shutil.rmtree(other / "slurm" / "testbed")
    assert len({digest(other), this_code().digest}) == 2


@pytest.mark.slow
def test_a_job_says_that_the_code_has_changed(slurm, tmp_path, other) -> None:
    write_spec(tmp_path, runs=1)
    launched = run(SWEEP, "launch", "s.yaml", *OPTIONS, folder=tmp_path, env=by(other))
    assert launched.returncode == 0, launched.stderr
    status = (SWEEP, "status", "--db", "a.db")
    assert "code has changed" not in run(*status, folder=tmp_path, env=by(other)).stdout
    change(other)
    then = this_code().describe()
    assert (
        f"the code has changed: 1 waiting run launched with {then} will train with the code that their jobs find; "
        "launch --snapshot keeps it\n"
    ) in run(*status, folder=tmp_path, env=by(other)).stdout
    start(slurm)
    wait_until(lambda: "the code has changed since the launch: from" in logs(tmp_path), within_s=120)
    wait_for_states(tmp_path, State.NODE_FAIL)


@pytest.mark.slow
def test_queued_jobs_run_what_was_launched(slurm, tmp_path, other) -> None:
    write_spec(tmp_path, runs=2)
    snapshot = (*OPTIONS, "--snapshot")
    dry = run(SWEEP, "launch", "s.yaml", *snapshot, "--dry-run", folder=tmp_path, env=by(other))
    assert f"the jobs run a copy of {this_code().describe()}" in dry.stdout.splitlines()
    assert "/code${PYTHONPATH" in dry.stdout
    launched = run(SWEEP, "launch", "s.yaml", *snapshot, folder=tmp_path, env=by(other))
    assert launched.returncode == 0, launched.stderr
    change(other)
    shown = run(SWEEP, "status", "--db", "a.db", folder=tmp_path, env=by(other)).stdout
    assert ("waiting" in shown, "code has changed" in shown) == (True, False)
    start(slurm)
    wait_for_states(tmp_path, State.COMPLETED)
    assert "code has changed" not in logs(tmp_path)
    assert {one["git_commit"] for (one,) in attempts(tmp_path)} == {this_code().commit}
    here = tmp_path / "here"
    here.mkdir()
    write_spec(here, runs=2)
    assert all_results(tmp_path) == train_here(here)


@pytest.mark.slow
def test_code_is_not_taken_from_where_others_can_put_it(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    tmp_path.chmod(0o770)
    said = run(SWEEP, "launch", "s.yaml", *OPTIONS, "--snapshot", folder=tmp_path)
    assert said.returncode == 2
    assert f"other users can replace what is in {tmp_path}; chmod +t it, or name another store" in said.stderr
    assert not (tmp_path / "a.db").exists()
    tmp_path.chmod(0o1770)
    launch(tmp_path, WAITS, "--snapshot")
    assert set(states(tmp_path).values()) == {State.PENDING}


def test_a_launch_on_this_machine_needs_no_snapshot(tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    said = run(SWEEP, "launch", "s.yaml", "--snapshot", "--db", "a.db", folder=tmp_path)
    assert said.returncode == 2
    assert "--snapshot: workers on this machine keep the code" in said.stderr
