"""Watch: a look at once or one after the other, with a terminal and without, as JSON; it ends with the sweep."""

import fcntl
import json
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_helpers import ME, SWEEP, answer, complete, fail, write_spec

from jobs.provenance import process_name
from results_db.contract import Attempt, NewSweep, RunRecord, State
from results_db.store.sql import SqlStore, open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load

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
    attempt = store.start(
        two[2].run_id, replace(ME, host=os.uname().nodename, device="NVIDIA A100-SXM4-80GB", process=_alive())
    )
    assert attempt is not None
    store.heartbeat(attempt, step=10, progress={"state1": 1.0, "state2": 0.971})
    return two[2].run_id


def _alive() -> str:
    return process_name(os.getpid())


def test_one_look_as_json(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    seen = answer("watch", "s.yaml", "--once", "--json", *DB, folder=folder).json
    assert seen["states"] == {"COMPLETED": 2, "RUNNING": 1, "STAGED": 3, "FAILED": 2}
    two, three = seen["cells"]
    assert (two["gol"], two["states"]) == (2, {"COMPLETED": 2, "RUNNING": 1, "STAGED": 1})
    assert (three["gol"], three["states"], three["eta_seconds"]) == (3, {"FAILED": 2, "STAGED": 2}, 0.0)
    (running,) = seen["running"]
    assert (running["run_id"], running["device"], running["step"]) == (run_id, "NVIDIA A100-SXM4-80GB", 10)
    assert running["max_steps"] == 40
    assert running["label"] == "gol=2 seed=2"
    assert 0 < two["eta_seconds"] <= 60
    assert seen["eta_seconds"] == two["eta_seconds"]
    (cause,) = seen["failures"]
    assert cause["count"] == 2
    assert (cause["last"]["state"], cause["last"]["run_id"]) == ("FAILED", cause["runs"][0])
    assert seen["queries_per_minute"] == {}  # nothing is Slurm's


def test_one_look_as_text(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    said = answer("watch", "--once", *DB, folder=folder)
    assert said.code == 0
    assert "all sweeps: 2 of 8 completed, 1 running, 2 failed, 3 not launched; ETA" in said.out
    for word in (
        run_id[:10],
        "final 97.1%",
        "10/40",
        "2 failed (imagine-sweep logs ",
        "NVIDIA A100-SXM4-80GB",
    ):
        assert word in said.out


def test_without_anything_active_it_ends_at_once(sweep) -> None:
    folder, store = sweep
    for each in expand(load(folder / "s.yaml")).runs:
        complete(store, each)
    said = answer("watch", "s.yaml", *DB, folder=folder)
    assert said.code == 0
    assert said.out.count("\n") == 1
    assert "8 of 8 completed" in said.out


def test_runs_that_failed_show_in_the_exit_code(sweep) -> None:
    folder, store = sweep
    for each in expand(load(folder / "s.yaml")).runs:
        fail(store, each)
    assert answer("watch", "s.yaml", *DB, folder=folder).code == 1


def test_a_worker_of_this_machine_that_died_is_noticed(sweep) -> None:
    folder, store = sweep
    run_id = fill(folder, store)
    attempt = store.attempts(run_id)[-1]
    assert attempt["state"] == State.RUNNING
    store.end(Attempt(run_id, 1), State.LOST)
    store.start(run_id, replace(ME, host=os.uname().nodename, process="1:gone"))
    said = answer("watch", "s.yaml", "--once", *DB, folder=folder)
    assert "LOST: its worker process is gone" in said.out
    assert store.states([run_id]) == {run_id: State.LOST}


def test_no_sweep_is_no_error(tmp_path) -> None:
    said = answer("watch", "--once", "--json", *DB, folder=tmp_path)
    assert said.code == 0
    assert said.json["cells"] == []
    assert list(tmp_path.iterdir()) == []


def test_no_sweep_is_said(tmp_path) -> None:
    for more in (["--once"], []):
        said = answer("watch", *more, *DB, folder=tmp_path)
        assert said.code == 0
        assert "no sweep was launched into this store" in said.out
        assert "0 of 0" not in said.out


def test_before_its_launch_nothing_has_failed(tmp_path) -> None:
    write_spec(tmp_path)
    said = answer("watch", "s.yaml", "--once", *DB, folder=tmp_path)
    assert said.code == 0
    assert "0 of 2 completed, 2 not launched" in said.out


def test_a_launched_sweep_is_known_by_its_name(sweep) -> None:
    """Its file is gone; a file of that name would go first."""
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
    assert len(answer("status", "s", "--json", *DB, folder=folder).json) == 1
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
        assert store.finish(Attempt(run_id, 1), RunRecord(run_id, "reached", 1.0, {}))
        rest = [process.communicate(timeout=90)[0] for process in (lines, as_json)]
    finally:
        lines.kill()
        as_json.kill()
    assert lines.returncode == as_json.returncode == 1  # two failed
    assert "3 of 8 completed" in rest[0]
    assert json.loads(rest[1].splitlines()[-1])["states"]["COMPLETED"] == 3


@pytest.mark.parametrize("leave", ["q", "\x03"])
def test_on_a_terminal_a_key_leaves(sweep, leave) -> None:
    folder, store = sweep
    fill(folder, store)
    process, master = _on_a_terminal(folder, "watch", "s.yaml", "--every", "60")
    try:
        screen = _read_until(master, "ETA", process)
        assert "running" in screen
        assert "q leaves" in _read_until(master, "q leaves", process, seen=screen)
        os.write(master, leave.encode())
        assert process.wait(timeout=60) == (0 if leave == "q" else 130)
    finally:
        process.kill()
        os.close(master)
    assert store.open_attempts()  # what trains goes on


def _on_a_terminal(folder: Path, *arguments: str) -> "tuple[subprocess.Popen[bytes], int]":
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [SWEEP, *DB, *arguments],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(slave)
    return process, master


def _read_until(master: int, text: str, process: "subprocess.Popen[bytes]", *, seen: str = "") -> str:
    deadline = time.monotonic() + 90
    while text not in seen:
        assert time.monotonic() < deadline and process.poll() is None, seen
        if select.select([master], [], [], 0.5)[0]:
            seen += os.read(master, 65536).decode(errors="replace")
    return seen
