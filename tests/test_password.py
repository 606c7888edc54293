"""A password in the store's address is in no output, no log and no record, also when the server is away."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from slurm_helpers import wait_for_no_jobs
from sweep_helpers import SWEEP, run, write_spec

from slurm.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

SECRET = "s3cr3t"
WAITS = "launcher.additional_parameters={begin: now+1hour}"


def called(folder: Path, url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "IMAGINE_FILES": str(folder / "files")}
    return run(SWEEP, *arguments, "--db", url, folder=folder, env=env)


def telling(folder: Path) -> list[str]:
    """The files that contain the password, but those of dispatches, which only their user may enter."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.parent.name != "jobs")
    return [str(path) for path in found if SECRET.encode() in path.read_bytes()]


def test_a_launch_and_its_jobs_tell_no_password(slurm: Testbed, server: Any, tmp_path: Path) -> None:
    write_spec(tmp_path, runs=2)
    url = f"{server.get_uri()}&password={SECRET}"
    here = called(tmp_path, url, "launch", "s.yaml", "-n", "1")
    there = called(tmp_path, url, "launch", "s.yaml", "launcher=slurm", "--no-check", WAITS)
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    server.stop()
    try:
        away = called(tmp_path, url, "status")
        (job,) = set(slurm.run("squeue", "-h", "-o", "%F").split())
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for_no_jobs(slurm)
    finally:
        server.start()
    (log,) = (tmp_path / "files" / "logs").glob("*/*_log.err")
    assert "continuing without the store" in log.read_text()
    assert list((tmp_path / "files" / "spool").rglob("*.*"))
    assert away.returncode == 2
    said = [text for done in (here, there, away) for text in (done.stdout, done.stderr)]
    assert not [text for text in said if SECRET in text]
    assert telling(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host:54x/results",
        f"postgresql://host:54x/results?user=me&password={SECRET}",
        f"postgresql://me:{SECRET}@127.0.0.1:1/results",
    ],
)
def test_a_launch_with_a_mistyped_port_tells_no_password(tmp_path: Path, url: str) -> None:
    write_spec(tmp_path, runs=1)
    done = called(tmp_path, url, "launch", "s.yaml")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "***" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert telling(tmp_path) == []
