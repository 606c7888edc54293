"""Watch: a look at once or one after the other, with a terminal and without, as JSON; it ends with the sweep."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from store_helpers import start
from sweep_helpers import ME, SWEEP, answer, complete, fail, write_spec

from jobs.provenance import process_name
from results_db.contract import Attempt, Ending, NewSweep, RunRecord, State
from results_db.store.sql import SqlStore, open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load

pytestmark = pytest.mark.slow

DB = ("--db", "a.db")


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[tuple[Path, SqlStore]]:
    """A launched sweep of two cells with four runs each."""
    spec = load(write_spec(tmp_path, runs=4, cells="[{gol: 2}, {gol: 3}]"))
    store = open_store(str(tmp_path / "a.db"), create=True)
    store.stage(expand(spec).runs, sweep=NewSweep(spec.name, spec.composed))
    yield tmp_path, store
    store.close()


def fill(folder: Path, store: SqlStore) -> str:
    """Of gol=2 two complete and one trains, of gol=3 two failed alike; the id of the one that trains."""
    runs = expand(load(folder / "s.yaml")).runs
    two, three = ([each for each in runs if each.config["gol"] == gol] for gol in (2, 3))
    for each in two[:2]:
        complete(store, each, seconds=60.0)
    for each in three[:2]:
        fail(store, each)
    attempt = start(
        store,
        two[2].run_id,
        replace(
            ME,
            host=os.uname().nodename,
            device="NVIDIA A100-SXM4-80GB",
            process=process_name(os.getpid()),
        ),
    )
    store.heartbeat(attempt, step=10, progress={"state1": 1.0, "state2": 0.971})
    return two[2].run_id


def training(store: SqlStore, run_id: str) -> Attempt:
    """The open attempt of a run."""
    (attempt,) = [one.attempt for one in store.open_attempts() if one.attempt.run_id == run_id]
    return attempt


def test_one_look_as_json(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    seen = answer("watch", "s.yaml", "--once", "--json", *DB, folder=folder).json
    assert seen["states"] == {"COMPLETED": 2, "RUNNING": 1, "STAGED": 3, "FAILED": 2}
    none = dict.fromkeys(("stored", "running", "waiting", "failed", "interrupted", "blocked", "new"), 0)
    assert seen["counts"] == none | {"stored": 2, "running": 1, "failed": 2, "new": 3}
    two, three = seen["cells"]
    assert (two["gol"], two["states"]) == (2, {"COMPLETED": 2, "RUNNING": 1, "STAGED": 1})
    assert (three["gol"], three["counts"], three["eta_seconds"]) == (3, none | {"failed": 2, "new": 2}, 0.0)
    (running,) = seen["running"]
    assert (running["run_id"], running["device"], running["share"]) == (run_id, "NVIDIA A100-SXM4-80GB", 1.0)
    assert (running["label"], running["step"], running["max_steps"]) == ("gol=2 seed=2", 10, 40)
    assert 0 < running["eta_seconds"] == two["eta_seconds"] == seen["eta_seconds"] <= 60
    (cause,) = seen["failures"]
    assert (cause["count"], cause["cause"], cause["nodes"]) == (2, "FAILED", ["here"])
    assert (cause["last"]["state"], cause["last"]["run_id"]) == ("FAILED", cause["runs"][0])
    assert seen["queries_per_minute"] == {}  # no run is Slurm's


def test_one_look_as_text(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    said = answer("watch", "--once", *DB, folder=folder)
    assert said.code == 0
    assert "all sweeps: 2 of 8 stored, 1 running, 2 failed, 3 new; ETA" in said.out
    assert ["gol", "stored", "running", "failed", "new", "done", "ETA"] in [
        line.split() for line in said.out.splitlines()
    ]
    for word in (
        run_id[:10],
        "final 97.1%",
        "10/40",
        "2 failed (imagine-sweep logs ",
        "NVIDIA A100-SXM4-80GB",
    ):
        assert word in said.out


def test_runs_of_one_process_share_it(sweep) -> None:
    folder, store = sweep
    runs = expand(load(folder / "s.yaml")).runs
    for each in runs[:2]:
        start(store, each.run_id, replace(ME, host=os.uname().nodename, process=process_name(os.getpid())))
    start(store, runs[2].run_id, replace(ME, host=os.uname().nodename, process=process_name(os.getppid())))
    seen = answer("watch", "--once", "--json", *DB, folder=folder).json
    assert sorted(run["share"] for run in seen["running"]) == [0.5, 0.5, 1.0]
    assert seen["eta_seconds"] is None  # no run has ended, and no speed is known


def test_runs_that_wait_for_a_slot_of_their_pack_take_no_share(sweep) -> None:
    folder, store = sweep
    two, three = (cell.runs for cell in expand(load(folder / "s.yaml")).cells)
    for each in three[:2]:
        complete(store, each, seconds=60.0)
    me = replace(ME, host=os.uname().nodename, process=process_name(os.getpid()))
    first, second, _ = (start(store, each.run_id, me) for each in two[:3])
    for attempt in (first, second):
        store.heartbeat(attempt, step=10, progress={"state1": 1.0})
    seen = answer("watch", "s.yaml", "--once", "--json", *DB, folder=folder).json
    assert seen["counts"]["running"] == 3  # their worker holds all
    shares = {run["run_id"]: run["share"] for run in seen["running"]}
    assert shares == {first.run_id: 0.5, second.run_id: 0.5}


def test_a_cell_whose_runs_have_just_started_or_all_wait_has_no_eta(sweep) -> None:
    folder, store = sweep
    two, three = expand(load(folder / "s.yaml")).cells
    start(store, two.runs[0].run_id, replace(ME, host=os.uname().nodename, process=process_name(os.getpid())))
    store.claim([run.run_id for run in three.runs], job_name="s-1", launcher="slurm")
    seen = answer("watch", "--once", "--json", *DB, folder=folder).json
    assert [cell["eta_seconds"] for cell in seen["cells"]] == [None, None]
    assert seen["eta_seconds"] is None


@pytest.mark.parametrize(("leave", "code"), [(complete, 0), (fail, 1)])
def test_without_anything_active_it_ends_at_once(sweep, leave, code) -> None:
    folder, store = sweep
    for each in expand(load(folder / "s.yaml")).runs:
        leave(store, each)
    said = answer("watch", "s.yaml", *DB, folder=folder)
    assert said.code == code
    assert ("8 of 8 stored" if code == 0 else "0 of 8 stored, 8 failed") in said.out


def test_a_worker_of_this_machine_that_died_is_noticed(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    store.end(training(store, run_id), Ending(State.LOST))
    start(store, run_id, replace(ME, host=os.uname().nodename, process="1:gone"))
    said = answer("watch", "s.yaml", "--once", *DB, folder=folder)
    assert "LOST: its worker process is gone" in said.out
    assert store.states([run_id]) == {run_id: State.LOST}


def test_on_finish_runs_a_command_once_nothing_is_active(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    told = "echo $IMAGINE_SWEEP $IMAGINE_TOTAL $IMAGINE_STORED $IMAGINE_ACTIVE $IMAGINE_FAILED $IMAGINE_TO_SUBMIT"
    command = [SWEEP, *DB, "watch", "s.yaml", "--every", "1", "--on-finish", f"{told} >>told; false"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline()
        assert not (folder / "told").exists()
        assert store.finish(training(store, run_id), RunRecord(run_id, "reached", 1.0, {}))
        _, errors = watch.communicate(timeout=90)
    assert (folder / "told").read_text() == "s 8 3 0 2 3\n"
    assert watch.returncode == 1  # two runs failed
    assert "false' ended with exit code 1" in errors


def test_on_finish_and_once_exclude_each_other(sweep) -> None:
    said = answer("watch", "--once", "--on-finish", "touch told", *DB, folder=sweep[0])
    assert (said.code, said.err.count("\n"), (sweep[0] / "told").exists()) == (2, 1, False)


@pytest.mark.parametrize("more", [["--once"], [], ["--once", "--json"]])
def test_no_sweep_is_no_error(tmp_path, more) -> None:
    assert answer("watch", *more, *DB, folder=tmp_path).code == 2  # the store was named, and there is none
    assert list(tmp_path.iterdir()) == []
    open_store(f"{tmp_path}/a.db", create=True).close()
    said = answer("watch", *more, *DB, folder=tmp_path)
    assert said.code == 0
    assert said.json["cells"] == [] if "--json" in more else "no launched sweep" in said.out


def test_before_its_launch_all_runs_are_new(tmp_path) -> None:
    write_spec(tmp_path)
    said = answer("watch", "s.yaml", "--once", *DB, folder=tmp_path)
    assert (said.code, said.out.splitlines()[0].strip()) == (0, "s: 0 of 2 stored, 2 new")


def test_a_launched_sweep_is_known_by_its_name(sweep) -> None:
    """Its file is gone; a new file of that name, which wants other runs, changes nothing that was launched."""
    folder, _ = sweep
    (folder / "s.yaml").unlink()
    for command in (["watch", "--once"], ["status"], ["coverage"], ["retry", "--dry-run"], ["reconcile"]):
        said = answer(*command, "s", *DB, folder=folder)
        assert said.code == 0, said.err
    said = answer("status", "s", "--json", *DB, folder=folder)
    assert [(row["sweep"], row["gol"], row["states"]) for row in said.json] == [
        ("s", 2, {"STAGED": 4}),
        ("s", 3, {"STAGED": 4}),
    ]
    assert len(answer("status", "s", "channels=5", "--json", *DB, folder=folder).json) == 2
    write_spec(folder, name="s", runs=1).rename(folder / "s")
    changed = answer("status", "s", "--json", *DB, folder=folder)
    assert changed.json == said.json
    assert changed.err == "s: as launched; the spec wants other runs (imagine-sweep plan s)\n"
    assert len(answer("plan", "s", "--json", *DB, folder=folder).json["cells"]) == 1
    for command in (["watch"], ["status"], ["coverage"], ["retry"], ["reconcile"], ["cancel"]):
        said = answer(*command, "t", *DB, folder=folder)
        assert said.code == 2
        assert said.err.count("\n") == 1
        assert "no spec t" in said.err
        assert "launched into this store: s" in said.err


def test_lines_and_json_go_on_until_the_last_run_ends(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    commands = ([*DB, "watch", "s.yaml", "--every", "1"], [*DB, "watch", "s.yaml", "--every", "1", "--json"])
    lines, as_json = (
        subprocess.Popen(
            [SWEEP, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    )
    try:
        for process in (lines, as_json):
            assert process.stdout is not None
            assert process.stdout.readline()
        assert store.finish(training(store, run_id), RunRecord(run_id, "reached", 1.0, {}))
        rest = [process.communicate(timeout=90)[0] for process in (lines, as_json)]
    finally:
        lines.kill()
        as_json.kill()
    assert lines.returncode == as_json.returncode == 1  # two failed
    assert "3 of 8 stored" in rest[0]
    assert json.loads(rest[1].splitlines()[-1])["states"]["COMPLETED"] == 3


@pytest.mark.parametrize("locked", [False, True])
def test_on_a_terminal_ctrl_c_leaves_at_once(sweep, locked) -> None:
    """Also while a look waits for the store, here for a lock that SQLite would await for 30 s."""
    folder, store = sweep
    fill(folder, store)
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        os.execl(SWEEP, SWEEP, *DB, "watch", "s.yaml", "--every", "1" if locked else "60")
    try:
        screen, deadline = "", time.monotonic() + 90
        while "Ctrl-C leaves" not in screen:
            assert time.monotonic() < deadline, screen
            screen += os.read(master, 65536).decode(errors="replace")
        with sqlite3.connect(folder / "a.db", isolation_level=None) as other:
            if locked:
                other.execute("BEGIN EXCLUSIVE")
                time.sleep(3)
            os.write(master, b"\x03")
            pressed = time.monotonic()
            with suppress(OSError):  # the process has closed the terminal
                while os.read(master, 65536):
                    pass
            assert time.monotonic() - pressed < 20
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(master)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 130
    assert store.open_attempts()  # the runs go on
