"""The code of a launch and of its jobs: on a real Slurm, jobs that start after it has changed."""

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from slurm_helpers import (
    all_results,
    attempts,
    launch,
    logs,
    states,
    train_here,
    wait_for_no_jobs,
    wait_for_states,
)
from sweep_helpers import SWEEP, opened, run, wait_until, write_spec

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


def install_parity(site: Path) -> Path:
    """An installed package that adds an experiment; the file that trains its runs."""
    shutil.copytree(Path(__file__).with_name("own_experiment") / "parity", site / "parity")
    about = site / "parity-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parity\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[imagine_sweep.experiments]\nparity = parity.declaration:PARITY\n"
    )
    return site / "parity" / "train.py"


@pytest.mark.slow
def test_the_code_of_an_installed_experiment_belongs_to_it(slurm, tmp_path, other) -> None:
    """A job says that it has changed; with --snapshot it trains what was launched."""
    code = install_parity(tmp_path / "site")
    env = by(other)
    env["PYTHONPATH"] += f":{tmp_path / 'site'}"
    (tmp_path / "s.yaml").write_text("experiment: parity\ncells: [{bits: 3, width: 4}]\nseeds: [0]\n")
    for db, snapshot in (("a.db", ()), ("b.db", ("--snapshot",))):
        options = ("launcher=slurm", "--db", db, "--no-check", WAITS, *snapshot)
        launched = run(SWEEP, "launch", "s.yaml", *options, folder=tmp_path, env=env)
        assert launched.returncode == 0, launched.stderr
    code.write_text(code.read_text() + "\nraise RuntimeError('the new code')\n")
    told = [run(SWEEP, "status", "--db", db, folder=tmp_path, env=env).stdout for db in ("a.db", "b.db")]
    assert ["code has changed" in text for text in told] == [True, False]
    for job in set(slurm.run("squeue", "-h", "-o", "%F").split()):
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for_no_jobs(slurm)
    for db, state in (("a.db", State.FAILED), ("b.db", State.COMPLETED)):
        with closing(opened(tmp_path, db)) as store:
            assert store.runs()["state"].tolist() == [state]


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
