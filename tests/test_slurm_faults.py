"""After any fault, every run is complete once in the end, with the result of the undisturbed sweep.

Three runs of some seconds, each a task of its own, on a real Slurm. test_slurm_job.py tests preemption, time limits and
requeues of one job, and test_slurm_launch.py the death of a launch.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from require import give_up
from slurm_helpers import (
    LONG,
    WITHIN_S,
    assert_whole,
    attempts,
    launch,
    launched_into,
    logs,
    states,
    train_here,
    try_launch,
    wait_for_log,
    wait_for_no_jobs,
    wait_for_states,
)
from store_helpers import stopped
from sweep_helpers import RESULTS, answer, opened, results, run, wait_until, write_spec

from results_db.contract import State
from results_db.process import is_alive
from results_db.store import open_store
from slurm.client.client import Slurm
from slurm.follow.reconcile import Reconciled, Reconciler
from slurm.testbed import packages

pytestmark = [pytest.mark.slow, pytest.mark.fault]

DONE = {State.COMPLETED}
CHAIN = Path(__file__).with_name("chain_experiment") / "chain.yaml"
NUMBERS = np.random.default_rng(0).integers(1, 100, 10)
MEDIUM = {**LONG, "max_steps": 3000}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of the sweep, one run at a time on one core."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_spec(folder, runs=3, **MEDIUM)
    return train_here(folder)


@pytest.fixture
def sweep(tmp_path):
    """A folder with the sweep."""
    write_spec(tmp_path, runs=3, **MEDIUM)
    return tmp_path


def reconcile(folder: Path, **options) -> Reconciled:
    """As `imagine-sweep reconcile` does, at another time if `now` is given."""
    with closing(opened(folder)) as store:
        return Reconciler(store, Slurm()).look(**options)


def running(folder: Path) -> list[dict]:
    """The newest attempt of every run that trains."""
    newest = (tries[-1] for tries in attempts(folder) if tries)
    return [one for one in newest if one["state"] == State.RUNNING]


def nothing_ends_before_all_are_done(folder: Path) -> None:
    """Reconcile every second until all runs are complete; it never ends an attempt."""

    def done() -> bool:
        assert not reconcile(folder).ended
        time.sleep(1)
        return set(states(folder).values()) == DONE

    wait_until(done, within_s=WITHIN_S)


def kill_worker(attempt: dict) -> None:
    os.kill(int(attempt["process"].partition(":")[0]), signal.SIGKILL)


def test_kill_9_of_a_worker(slurm, sweep, undisturbed) -> None:
    launch(sweep)
    wait_for_log(sweep, "started", times=3)
    one, *_ = running(sweep)
    kill_worker(one)
    wait_for_no_jobs(slurm)
    again = launch(sweep)  # it reconciles first
    assert f"(job {one['job_id']}): LOST: " in again.err
    assert again.json["submitted"] == 1
    wait_for_states(sweep, State.COMPLETED)
    assert sorted(len(tries) for tries in attempts(sweep)) == [1, 1, 2]
    assert_whole(sweep, slurm, undisturbed)


def test_a_node_is_lost(slurm, sweep, undisturbed) -> None:
    """Slurm finds out by itself and requeues the job; meanwhile reconcile never ends its attempt."""
    launch(sweep)
    wait_for_log(sweep, "started", times=3)
    node = running(sweep)[0]["host"]
    slurm.kill_node(node)
    nothing_ends_before_all_are_done(sweep)
    lost = [tries for tries in attempts(sweep) if tries[0]["host"] == node]
    assert lost
    assert all(tries[-1]["restart"] > 0 for tries in lost)
    slurm.start_node(node)
    assert_whole(sweep, slurm, undisturbed)


def test_a_node_is_cut_off_and_comes_back(slurm, tmp_path) -> None:
    """Its tasks live on while Slurm starts them on another node, so for a while there are two copies.

    The first copies stand still until the second ones have begun: on a fast machine they would be done before.
    """
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        write_spec(folder, runs=2, **LONG)
    launch(there, "launcher.additional_parameters={exclude: 'n3,n4'}")
    wait_for_log(there, "started", times=2)
    node = running(there)[0]["host"]
    old = [one for one in running(there) if one["host"] == node]
    processes = {one["process"] for one in old}

    def tries_of_the_node() -> list[list[dict]]:
        return [tries for tries in attempts(there) if tries[0]["process"] in processes]

    with ExitStack() as still:
        for process in processes:
            still.enter_context(stopped(int(process.partition(":")[0])))
        slurm.cut_node(node, noticed=True)
        wait_until(
            lambda: all(tries[-1]["process"] and tries[-1]["restart"] for tries in tries_of_the_node()),
            within_s=120,
        )
    slurm.start_node(node)  # with its old copies still on it
    wait_for_states(there, State.COMPLETED)
    assert len(tries_of_the_node()) == len(old)
    wait_until(lambda: not any(map(is_alive, processes)), within_s=WITHIN_S)
    for tries in tries_of_the_node():
        assert [one["restart"] for one in tries] == [0, 1]
        assert tries[0]["state"] == State.LOST
    assert_whole(there, slurm, train_here(here))


def test_a_node_is_lost_under_runs_that_others_need(slurm, tmp_path, installed) -> None:
    """A dependency between arrays lets a run wait for the two that it needs, one of which is requeued."""
    installed("chain_experiment")
    chain = CHAIN.read_text().replace("factor: 2", "factor: 2\n    rounds: 150")
    (tmp_path / "s.yaml").write_text(f"{chain}launcher: {{cpus_per_task: 1, mem_gb: 1, timeout_min: 10}}\n")
    assert launch(tmp_path).json["submitted"] == 4
    assert slurm.run("squeue", "-h", "-o", "%r").split().count("Dependency") >= 1
    with closing(opened(tmp_path)) as store:
        runs = store.runs()
        (long,) = runs[runs["rounds"] == 150]["run_id"]
        (join,) = runs[runs["experiment"] == "chain_join"]["run_id"]
        wait_until(lambda: store.states([long]) == {long: State.RUNNING}, within_s=WITHIN_S)
        node = store.attempts(long)[-1]["host"]
        slurm.kill_node(node)
        wait_for_states(tmp_path, State.COMPLETED)
        slurm.start_node(node)
        assert [one["restart"] for one in store.attempts(long)] == [0, 1]
        assert [one["restart"] for one in store.attempts(join)] == [0]
        assert store.run(join)["metrics"]["total"] == (2 * 150 + 3) * NUMBERS.sum()


def test_the_controller_is_killed_and_started_again(slurm, sweep, undisturbed) -> None:
    launch(sweep, "launcher.array_parallelism=1")
    wait_for_log(sweep, "started")
    slurm.wait_for_save()
    slurm.kill_controller()
    assert not reconcile(sweep).ended  # a controller that does not answer ends nothing
    wait_until(lambda: State.COMPLETED in states(sweep).values(), within_s=120)  # its worker did not notice
    slurm.start_controller()
    wait_for_states(sweep, State.COMPLETED)
    assert_whole(sweep, slurm, undisturbed)


def test_some_tasks_are_cancelled_from_outside(slurm, sweep, undisturbed) -> None:
    (job,) = launch(sweep, "launcher.array_parallelism=1").json["jobs"]
    wait_for_log(sweep, "started")
    slurm.run("scancel", f"{job}_0", f"{job}_1")  # one trains, one waits
    wait_until(lambda: State.PREEMPTED in states(sweep).values(), within_s=60)  # it saved
    wait_until(lambda: State.COMPLETED in states(sweep).values(), within_s=120)
    # Slurm keeps no trace of a task that was cancelled before it began; minutes later it counts as cancelled.
    reconcile(sweep, now=datetime.now(UTC) + timedelta(minutes=10))
    assert sorted(map(str, states(sweep).values())) == ["CANCELLED", "COMPLETED", "PREEMPTED"]
    assert launch(sweep).json["submitted"] == 2
    wait_for_states(sweep, State.COMPLETED)
    assert_whole(sweep, slurm, undisturbed)


def test_out_of_memory(slurm, tmp_path) -> None:
    """A run of about 2 GB, which gets 1 GB at first; the other run does not notice."""
    here, there = tmp_path / "here", tmp_path / "there"
    large = "[{batch: 20000, board: 20, max_steps: 2, eval_every: 1, trace_every: 1, runs: 1}, {runs: 1}]"
    for folder in (here, there):
        folder.mkdir()
        write_spec(folder, cells=large, runs=1)
    launch(there, "launcher.mem_gb=1", "launcher.additional_parameters={no-requeue: true}")
    wait_for_no_jobs(slurm)
    reconcile(there)
    assert sorted(map(str, states(there).values())) == ["COMPLETED", "OUT_OF_MEMORY"]
    # The run is at fault, so only --retry-failed trains it again.
    said = try_launch(there)
    assert said.code == 1
    assert said.json["submitted"] == 0
    assert launch(there, "launcher.mem_gb=8", "--retry-failed").json["submitted"] == 1
    wait_for_states(there, State.COMPLETED)
    assert_whole(there, slurm, train_here(here))


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """The store cannot be reached until the body is done."""
    files = [path for path in folder.iterdir() if path.name.startswith("a.db")]
    for path in files:
        path.rename(folder / f"away-{path.name}")
    yield
    for path in files:
        (folder / f"away-{path.name}").rename(path)


def test_the_store_is_away_while_runs_end_and_watch_ingests_their_results(slurm, sweep, undisturbed) -> None:
    launch(sweep)
    wait_for_log(sweep, "started", times=3)
    with away(sweep):
        wait_for_log(sweep, ": step_limit at step", times=3)
        assert len(list((sweep / "a.files" / "spool").glob("*.json"))) == 3
        wait_for_no_jobs(slurm)
    assert set(states(sweep).values()) == {State.RUNNING}  # it has not received the results
    said = answer("watch", "s.yaml", "--once", "--json", "--db", "a.db", folder=sweep)
    assert said.code == 0
    assert said.json["states"] == {"COMPLETED": 3}
    assert launch(sweep).json["submitted"] == 0
    assert all(len(tries) == 1 for tries in attempts(sweep))
    assert_whole(sweep, slurm, undisturbed)


def test_a_server_that_accepts_and_does_not_answer(slurm, sweep, undisturbed, server, monkeypatch) -> None:
    """The jobs train on, and end; before, they waited for it until their time limit."""
    monkeypatch.setenv("IMAGINE_FILES", str(sweep / "a.files"))
    at = ("--json", "--db", server.get_uri())
    assert answer("launch", "s.yaml", "launcher=slurm", "--no-check", *at, folder=sweep).code == 0
    wait_for_log(sweep, "started", times=3)
    with stopped(server.get_pid()):
        wait_for_log(sweep, ": step_limit at step", times=3)
        wait_for_no_jobs(slurm)
        assert len(list((sweep / "a.files" / "spool").glob("*.json"))) == 3
    assert answer("watch", "s.yaml", "--once", *at, folder=sweep).json["states"] == {"COMPLETED": 3}
    with closing(open_store(server.get_uri(), create=False)) as store:
        assert {run_id: results(store, run_id) for run_id in undisturbed} == undisturbed
    assert [
        path for name in ("spool", "checkpoints") for path in (sweep / "a.files" / name).rglob("*.*")
    ] == []


def test_sqlite_on_a_network_file_system(slurm, sweep, undisturbed, monkeypatch) -> None:
    """The jobs only read the database. Two commands that ingest their files at once do no harm."""
    table = sweep / "mounts"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {sweep} rw - nfs4 server:/home rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(table))  # sbatch passes it to the jobs
    launch(sweep)
    before = (sweep / "a.db").read_bytes()
    wait_for_log(sweep, ": step_limit at step", times=3)
    wait_for_no_jobs(slurm)
    assert (sweep / "a.db").read_bytes() == before
    assert set(states(sweep).values()) == {State.PENDING}
    both = [
        subprocess.Popen((RESULTS, "ingest", "--db", "a.db"), cwd=sweep, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[1] for process in both] == [b"", b""]
    assert [process.returncode for process in both] == [0, 0]
    assert set(states(sweep).values()) == DONE
    assert all(len(tries) == 1 for tries in attempts(sweep))
    assert_whole(sweep, slurm, undisturbed)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A small file system at `folder`."""
    folder.mkdir(parents=True)
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder), folder=folder.parent)
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        assert run("umount", "--lazy", str(folder), folder=folder.parent).returncode == 0


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """A full file system of one page at `folder`."""
    with disk(folder, "4k"):
        fill(folder)
        yield


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), (folder / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("store_is_away", [False, True])
def test_the_disk_under_the_spool_is_full(slurm, sweep, undisturbed, store_is_away) -> None:
    """With the store, a worker needs no spool. Without both, it waits for one of them for about a minute."""
    with tiny_disk(sweep / "a.files" / "spool"):
        launch(sweep)
        wait_for_log(sweep, "started", times=3)
        if store_is_away:
            with away(sweep):
                wait_for_log(sweep, "No space left", times=3)
                time.sleep(10)
        wait_for_states(sweep, State.COMPLETED)
        assert "No space left" in logs(sweep)
        wait_for_no_jobs(slurm)
    assert all(len(tries) == 1 for tries in attempts(sweep))
    assert_whole(sweep, slurm, undisturbed)


def test_the_disk_is_full_as_a_job_starts(slurm, tmp_path, undisturbed) -> None:
    """The store's folder has no room for anything. No run is at fault, and the next launch trains them."""
    there = tmp_path / "there"
    with disk(there, "4m"):
        write_spec(there, runs=3, **MEDIUM)
        (job,) = launch(there, "launcher.additional_parameters={begin: now+1hour}").json["jobs"]
        fill(there)
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for_no_jobs(slurm)
        (there / "full").unlink()
        assert len(reconcile(there).ended) == 3
        assert set(states(there).values()) == {State.NODE_FAIL}
        assert {tries[-1]["exit_code"] for tries in attempts(there)} == {75}
        assert launch(there).json["submitted"] == 3
        wait_for_states(there, State.COMPLETED)
        assert_whole(there, slurm, undisturbed)


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_worker_whose_clock_is_an_hour_off(slurm, sweep, undisturbed, offset) -> None:
    library = packages.faketime()
    if library is None:
        give_up("SLURM", f"libfaketime is not here; {packages.HOW_TO_INSTALL}")
    wrong = [f"export LD_PRELOAD={library} FAKETIME={offset} DONT_FAKE_MONOTONIC=1", "date -u +clock=%FT%T"]
    launch(sweep, f"launcher.setup={wrong}")
    nothing_ends_before_all_are_done(
        sweep
    )  # neither for a silence of an hour nor for a heartbeat in the future
    (said, *_) = re.findall(r"clock=(\S+)", launched_into(sweep, "*.out"))
    assert abs(datetime.fromisoformat(said + "Z") - datetime.now(UTC)) > timedelta(minutes=50)
    assert all(len(tries) == 1 for tries in attempts(sweep))
    assert_whole(sweep, slurm, undisturbed)
