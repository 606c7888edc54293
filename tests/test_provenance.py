"""Provenance: names of processes, attempts of dead processes, git facts of the source tree."""

import ctypes
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
from store_helpers import start
from sweep_helpers import ME, ids, small
from user_helpers import as_nobody

import jobs.provenance
from jobs.provenance import dead_attempts, is_alive, lose_dead_attempts, process_name, provenance
from results_db.contract import State
from results_db.store import open_store

ROOT = Path(jobs.provenance.__file__).parent.parent


@pytest.fixture
def process():
    """A process that sleeps."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield started
    started.kill()
    started.wait()


def test_a_process_is_named_by_its_pid_and_start_and_dead_when_it_ended(process) -> None:
    name = process_name(process.pid)
    assert name.startswith(f"{process.pid}:")
    assert process_name(process.pid) == name
    assert is_alive(name)
    process.kill()
    psutil.wait_procs([psutil.Process(process.pid)], timeout=0.5)  # a zombie now: its parent is this test
    assert not is_alive(name)
    process.wait()
    assert not is_alive(name)
    with pytest.raises(ProcessLookupError):
        process_name(process.pid)


def test_a_reused_pid_is_another_process(process) -> None:
    time.sleep(0.05)  # the clock of starts ticks every hundredth of a second
    later = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    later_start = process_name(later.pid).partition(":")[2]
    later.kill()
    later.wait()
    assert not is_alive(f"{process.pid}:{later_start}")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_name_outlives_a_change_of_the_systems_clock(process, monkeypatch) -> None:
    # psutil adds the boot time, which moves with the clock; the ticks since boot do not.
    name = process_name(process.pid)
    moved = psutil.boot_time() + 3600
    monkeypatch.setattr(psutil, "boot_time", lambda: moved)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: moved)
    assert process_name(process.pid) == name
    assert is_alive(name)


@pytest.mark.parametrize("name", ["", "nobody", "12", ":5.00", "-1:0.00", f"{2**40}:1.00"])
def test_a_name_of_nothing_is_dead(name) -> None:
    assert not is_alive(name)


def test_an_attempt_of_this_job_on_another_host_is_dead(tmp_path, monkeypatch) -> None:
    """The job was requeued, so its attempt on the first node is dead."""
    store = open_store(str(tmp_path / "a.db"), create=True)
    run = small()
    store.stage([run])
    start(store, run.run_id, replace(ME, host="another", launcher="hand", job_id="12_3"))
    assert dead_attempts(store) == []
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    for task, is_dead in (("4", False), ("3", True)):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert bool(dead_attempts(store)) is is_dead
    store.close()


@pytest.mark.parametrize(
    ("launcher", "silent_for", "is_lost"),
    [("local", 6, True), ("hand", 6, True), ("local", 4, False), ("slurm", 600, False)],
)
def test_an_attempt_of_another_host_is_lost_when_it_is_long_silent(
    tmp_path, launcher, silent_for, is_lost
) -> None:
    # Heartbeats come every 15 s, and 5 minutes is the limit; of a scheduler's job its scheduler is asked instead.
    store = open_store(str(tmp_path / "a.db"), create=True)
    run = small()
    store.stage([run])
    start(store, run.run_id, replace(ME, host="another", launcher=launcher))
    last = datetime.now(UTC) - timedelta(minutes=silent_for)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("UPDATE attempt SET heartbeat_at = ?", [last.strftime("%Y-%m-%d %H:%M:%S.%f")])
    assert bool(dead_attempts(store)) is is_lost
    store.close()


def test_only_dead_attempts_of_this_host_are_lost(tmp_path, process) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    here = replace(ME, host=socket.gethostname())
    alive = replace(here, process=process_name(process.pid))
    dead = replace(here, process=f"{process.pid}:1.00")
    elsewhere = replace(dead, host="another")
    runs = [small(seed=seed) for seed in range(3)]
    store.stage(run for run in runs)
    for run, who in zip(runs, (alive, dead, elsewhere), strict=True):
        start(store, run.run_id, who)
    assert [attempt.run_id for attempt in dead_attempts(store)] == [runs[1].run_id]
    assert store.states([runs[1].run_id]) == {runs[1].run_id: State.RUNNING}  # it only looked
    assert lose_dead_attempts(store) == [runs[1].run_id]
    states = store.states(run.run_id for run in runs)
    assert [states[run.run_id] for run in runs] == [State.RUNNING, State.LOST, State.RUNNING]
    assert store.attempts(runs[1].run_id)[0]["error"] == "its worker process is gone"
    assert lose_dead_attempts(store) == []
    store.close()


CLAIM = """
import sys
from results_db.store import open_store
open_store(sys.argv[1], create=False).claim(sys.argv[2:], launcher="local")
"""


def test_claims_of_a_launch_that_died_are_found(tmp_path) -> None:
    """It had no time to begin them; the next launch must not wait for it."""
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        mine, gone = (small(seed=seed) for seed in range(2))
        store.stage([mine, gone])
        store.claim([mine.run_id], launcher="local")
        subprocess.run([sys.executable, "-c", CLAIM, store.url, gone.run_id], check=True)
        assert store.states([mine.run_id, gone.run_id]) == dict.fromkeys(ids([mine, gone]), State.PENDING)
        assert lose_dead_attempts(store) == [gone.run_id]
        assert store.states([gone.run_id]) == {gone.run_id: State.LOST}
        assert [one.run_id for one in store.claim([mine.run_id, gone.run_id], launcher="local")] == [
            gone.run_id
        ]


def test_provenance_describes_this_process() -> None:
    made = provenance(launcher="hand", device="cpu", job_id="7", log="a.log")
    assert (made.launcher, made.device, made.job_id, made.log) == ("hand", "cpu", "7", "a.log")
    assert made.host == socket.gethostname()
    assert made.process == process_name(os.getpid())
    assert made.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy", "submitit", "hydra-core"} <= set(made.versions)


def git(*arguments: str, folder: Path) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def facts(packages: Path) -> str:
    """`commit dirty` as a process says them that takes the packages from this folder."""
    code = "from jobs.code import this_code; print(this_code().commit, this_code().dirty)"
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository that has these packages as its source, committed."""
    folder = tmp_path / "checkout"
    for package in ("jobs", "imagination", "results_db"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git("init", "-q", folder=folder)
    git("add", ".", folder=folder)
    git("commit", "-qm", "all", folder=folder)
    return folder


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not run from a checkout")
def test_the_commit_of_this_checkout() -> None:
    assert provenance(launcher="", device="").git_commit == git("rev-parse", "HEAD", folder=ROOT)


def test_a_checkout_is_clean_or_dirty(checkout) -> None:
    head = git("rev-parse", "HEAD", folder=checkout)
    assert facts(checkout) == f"{head} False"
    (checkout / "notes.txt").write_text("untracked files decide no result")
    assert facts(checkout) == f"{head} False"
    with (checkout / "imagination" / "metrics.py").open("a") as file:
        file.write("# changed\n")
    assert facts(checkout) == f"{head} True"


def test_an_installed_copy_inside_another_repository_has_no_commit(checkout) -> None:
    installed = checkout / ".venv" / "site-packages"
    for package in ("jobs", "imagination", "results_db"):
        shutil.copytree(checkout / package, installed / package)
    assert facts(installed) == "None None"
    shutil.rmtree(checkout / ".git")
    assert facts(checkout) == "None None"


@pytest.mark.parametrize("hidden", ["hidepid=1", "hidepid=2"])
def test_a_process_that_the_system_hides_is_not_dead(hidden) -> None:
    """On many login nodes /proc shows users only their own processes."""
    mine = process_name(os.getpid())

    def look() -> tuple[bool, bool]:
        return is_alive(mine), is_alive(f"{2**22 - 1}:x/1")

    assert as_nobody(look, before=partial(_hide, hidden)) == (True, False)


def _hide(how: str) -> None:
    """Mount such a /proc in a namespace of this process alone."""
    assert ctypes.CDLL(None, use_errno=True).unshare(0x20000) == 0  # CLONE_NEWNS
    subprocess.run(("mount", "--make-rprivate", "/"), check=True)
    subprocess.run(("mount", "-t", "proc", "-o", how, "proc", "/proc"), check=True)
