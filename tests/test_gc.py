"""`gc` deletes what nothing needs, and never what a run needs."""

import atexit
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import call, output
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_helpers import OTHER, RUN, THIRD, WHO, claimed, files, staged, start, started

from results_db.contract import ACTIVE, Attempt, Ending, RunRecord, State
from results_db.files import Files, file_name
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.spool.ingest import ingest
from results_db.spool.leftovers import leftovers, remove
from results_db.spool.records import Spool, Spooled
from results_db.store.sql import SqlStore, open_store

Capsys = pytest.CaptureFixture[str]

RUNS = (RUN, OTHER, THIRD)


def record(run_id: str) -> RunRecord:
    return RunRecord(run_id, "reached", 1.5, {"metric": 0.5})


def write(path: Path, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def age(store: SqlStore) -> None:
    """All files beside the store are two hours old."""
    for path in store.folder.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)


def leave_everything(store: SqlStore, attempt: Attempt) -> None:
    """What an attempt may leave: weights, a checkpoint, a heartbeat, a log and a dispatch."""
    own = Files(store.folder)
    write(own.weights(attempt))
    write(own.artifact(attempt, "a.txt", DIGEST))
    write(own.checkpoint(attempt))
    write(own.logs / f"{attempt.run_id[:2]}-{attempt.number}.log")
    HeartbeatFiles(store.folder).write(Heartbeat(attempt, WHO, 5, {}))


DIGEST = "ab" * 32

ACTS = ("start", "job", "lose", "fail", "finish", "discard", "spool", "strange", "damage")


def act(store: SqlStore, run_id: str, what: str, newest: dict[str, Attempt]) -> None:
    """One step of a run's history; a step that cannot happen does nothing."""
    state = store.states([run_id]).get(run_id)
    own = Files(store.folder)
    is_open = state in ACTIVE and run_id in newest
    if what in ("start", "job") and not is_open and state is not State.COMPLETED:
        if what == "start":
            log = f"logs/{run_id[:2]}-{len(store.attempts(run_id)) + 1}.log"
            staged(store, run_id)
            newest[run_id] = start(store, run_id, replace(WHO, log=log, job_id=None))
        else:
            name = f"s-{run_id[:4]}-{len(store.attempts(run_id))}"
            newest[run_id] = claimed(store, run_id, job_name=name, retry_failed=True)
            store.begin(newest[run_id], WHO)
            for file in ("dispatch.json", "0.json", "code/jobs/x.py"):
                write(store.folder / "jobs" / name / file)
            write(own.logs / name / "1_0_log.err")
        leave_everything(store, newest[run_id])
    elif what in ("lose", "fail") and is_open:
        store.end(newest[run_id], Ending(State.LOST if what == "lose" else State.FAILED, "gone"))
    elif what == "finish" and is_open:
        assert store.finish(newest[run_id], record(run_id))
    elif what == "discard" and state is State.COMPLETED:
        store.discard([run_id], why="x")
    elif what == "spool" and is_open:  # its worker ended while the store was away
        Spool(store.folder).write(Spooled(newest[run_id], record(run_id), WHO, 1.0))
    elif what == "strange":  # of a claim that the store does not know
        strange = Attempt(run_id, 9, nonce="feed")
        leave_everything(store, strange)
        Spool(store.folder).write(Spooled(strange, record(run_id), WHO, 1.0))
    elif what == "damage":
        write(own.folder / "checkpoints" / f"{run_id}.1.0.aa.safetensors.damaged")
        write(own.folder / "weights" / f"{run_id}.1.0.aa.safetensors.12345678.tmp")


def standings(store: SqlStore) -> list[Any]:
    """What becomes of each run if the spool is ingested now, and whether its result has weights."""
    ingest(store, adopt=True)
    found: list[Any] = []
    for run_id in store.runs()["run_id"]:
        stored = [one for one in store.attempts(run_id) if one["state"] == State.COMPLETED]
        for one in stored:
            attempt = Attempt(run_id, one["number"], one["restart"], one["nonce"])
            own = Files(store.folder)
            found.append(
                (run_id, own.weights(attempt).exists(), own.artifact(attempt, "a.txt", DIGEST).exists())
            )
        found.append((run_id, store.states([run_id]), store.run(run_id)["metrics"]))
    return found


@cache
def empty_store() -> Path:
    """A folder with an empty store: to make one takes longer than a history."""
    folder = Path(tempfile.mkdtemp())
    open_store(str(folder / "a.db"), create=True).close()
    atexit.register(shutil.rmtree, folder)
    return folder


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(RUNS), st.sampled_from(ACTS)), max_size=14))
@example([(RUN, "start"), (RUN, "lose"), (RUN, "strange")])
@example([(RUN, "start"), (RUN, "lose"), (RUN, "start")])
@settings(max_examples=25)
def test_what_a_run_needs_stays(history: list[tuple[str, str]]) -> None:
    """Whatever happened before: results with their weights, open attempts, checkpoints, and records to be stored."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(empty_store(), folder, dirs_exist_ok=True)
        with open_store(f"{folder}/a.db", create=False) as store:
            newest: dict[str, Attempt] = {}
            for run_id, what in history:
                act(store, run_id, what, newest)
            age(store)
            Files(store.folder).take(store.uuid)
            before = files(store)
        shutil.copytree(folder, f"{folder}/copy")
        with open_store(f"{folder}/copy/a.db", create=False) as copy:
            expected = standings(copy)
        with open_store(f"{folder}/a.db", create=False) as store:
            found = leftovers(store)
            assert files(store) == before
            assert remove(found) == []
            assert leftovers(store) == []
            left = files(store)
            assert len(before) - len(left) == len(found)
            assert needed(store, before, newest) <= left
            assert standings(store) == expected


def needed(store: SqlStore, before: set[str], newest: dict[str, Attempt]) -> set[str]:
    """The files that the runs need, by name.

    Those of open attempts, logs, what may be requeued, and checkpoints with the artifacts that were left before them.
    """
    found = {name for name in before if name.startswith("discarded/")}
    for run_id, attempt in newest.items():
        state = store.states([run_id])[run_id]
        (last,) = [one for one in store.attempts(run_id) if one["number"] == attempt.number]
        job = last["job_name"]
        if state is not State.COMPLETED:  # its next attempt continues
            checkpoints = [re.fullmatch(f"checkpoints/({run_id}.*)\\.safetensors", name) for name in before]
            for one in filter(None, checkpoints):
                found |= {one[0], f"artifacts/{one[1]}-{DIGEST[:8]}-a.txt"} & before
        if job and (state in ACTIVE or state is State.LOST):
            found |= {name for name in before if name.startswith(f"jobs/{job}")}
        found.add(f"logs/{job}/1_0_log.err" if job else last["log"])
        if state in ACTIVE:
            found.add(f"weights/{file_name(attempt, '.safetensors')}")
            found.add(f"artifacts/{file_name(attempt, '')}-{DIGEST[:8]}-a.txt")
            found.add(f"spool/alive/{file_name(attempt, '.json')}")
    return found


def test_a_fresh_file_stays(store: SqlStore) -> None:
    leave_everything(store, Attempt(RUN, 1, nonce="aa"))
    assert leftovers(store) == []
    age(store)
    assert {one.kind for one in leftovers(store)} == {
        "weights",
        "logs",
    }  # an unknown run may continue and report
    Files(store.folder).checkpoint(Attempt(RUN, 1, nonce="aa")).unlink()
    assert {one.kind for one in leftovers(store)} == {"weights", "artifacts", "logs"}


def test_a_link_stays(store: SqlStore, tmp_path: Path) -> None:
    link = store.folder / "weights" / f"{RUN}.1.0.aa.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(write(tmp_path / "private"))
    age(store)
    os.utime(link, (0, 0), follow_symlinks=False)
    assert leftovers(store) == []


def test_the_command(capsys: Capsys, in_tmp_path: None) -> None:
    store = open_store("a.db", create=True)
    lost = started(store)
    leave_everything(store, lost)
    store.end(lost, Ending(State.LOST, "gone"))
    attempt = start(store, RUN, WHO)
    leave_everything(store, attempt)
    store.finish(attempt, record(RUN))
    write(Files(store.folder).weights(lost), 2_000_000)
    age(store)
    before = files(store)
    said = output(capsys, "gc", "--db", "a.db", "--dry-run").splitlines()
    assert [line.split() for line in said if line.strip().startswith(("kind", "weights", "spool"))] == [
        ["kind", "files", "MB"],
        ["weights", "1", "2.0"],
        ["spool", "2", "0.0"],
    ]
    assert said[-1] == "would delete 8 files, 2.0 MB"
    code, _, err = call(capsys, "gc", "--db", "a.db")
    assert (code, "give -y" in err) == (2, True)
    assert files(store) == before
    found = json.loads(output(capsys, "gc", "--db", "a.db", "--dry-run", "--json"))
    assert [one["path"] for one in found["files"] if one["kind"] == "weights"] == [
        str(Files(store.folder).weights(lost))
    ]
    assert output(capsys, "gc", "--db", "a.db", "-y").splitlines()[-1] == "deleted 8 files, 2.0 MB"
    kept = Files(store.folder).weights(attempt), Files(store.folder).artifact(attempt, "a.txt", DIGEST)
    assert files(store) == {f"{path.parent.name}/{path.name}" for path in kept}
    assert output(capsys, "gc", "--db", "a.db") == "nothing to delete\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--db", "none.db"), "none.db does not exist"),
        (("--db", "text.db"), "text.db is not a SQLite database"),
        (("--force",), "unknown option '--force'"),
    ],
)
def test_bad_input(capsys: Capsys, in_tmp_path: None, args: tuple[str, ...], says: str) -> None:
    Path("text.db").write_text("no database, but long enough to be read as one" * 20)
    code, out, err = call(capsys, "gc", *args)
    assert (code, out, err.count("\n"), says in err) == (2, "", 1, True), err
