"""`db backup`: a consistent copy of the store while processes write it."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli_helpers import call, output
from store_helpers import RUN, staged, started

from results_db.contract import PlannedRun, RunRecord, State
from results_db.store.sql import open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")

Capsys = pytest.CaptureFixture[str]

WRITER = """
import sys
from store_helpers import started
from results_db.contract import RunRecord
from results_db.store import open_store
store = open_store("x.db", create=False)
print("ready", flush=True)
for number in range(int(sys.argv[1]), 1_000_000, 2):
    run_id = f"{number:064x}"
    store.finish(started(store, run_id), RunRecord(run_id, "reached", 1.0, {"metric": 1.0}, {"t": ([0], [0.5])}))
"""


@pytest.mark.slow
def test_a_backup_is_the_store_at_one_moment(capsys: Capsys, tmp_path: Path) -> None:
    """Two processes write until they are killed; in every copy, each stored run has its metrics and its trace."""
    with open_store("x.db", create=True) as store:
        store.stage(PlannedRun(f"{number:064x}", {"seed": number}) for number in range(5_000))
        uuid = store.uuid
    command = [sys.executable, "-c", WRITER]
    env = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}"}
    writers = [
        subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        for first in (0, 1)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for number in range(3):
            assert output(capsys, "db", "backup", f"copy{number}.db", "--db", "x.db") == (
                f"copy{number}.db is a copy of the store\n"
            )
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    for number in range(3):
        with closing(sqlite3.connect(f"copy{number}.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with open_store(f"copy{number}.db", create=False) as copy:
            assert copy.uuid == uuid
            runs = copy.runs()
            stored = runs[runs["state"] == State.COMPLETED]
            assert stored["metric"].tolist() == [1.0] * len(stored)
            assert set(copy.traces_of(runs["run_id"])) == set(stored["run_id"])
    assert sorted(path.name for path in tmp_path.glob("copy*.tmp*")) == []


def test_a_restored_backup_is_the_store(capsys: Capsys) -> None:
    with open_store("x.db", create=True) as store:
        staged(store)
        output(capsys, "db", "backup", "b.db", "--db", "x.db")
        store.finish(started(store), RunRecord(RUN, "reached", 1.0, {}))
    for name in ("x.db", "x.db-wal", "x.db-shm"):
        Path(name).unlink(missing_ok=True)
    Path("b.db").rename("x.db")
    with open_store("x.db", create=False) as store:
        assert store.states([RUN]) == {RUN: State.STAGED}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("there.db", "--db", "x.db"), "there.db exists; name another file"),
        (("no/folder.db", "--db", "x.db"), "cannot copy x.db to no/folder.db: No such file"),
        (("b.db", "--db", "y.db"), "no store at y.db; a launch creates it"),
        (
            ("b.db", "--db", "postgresql://me:secret@h/n"),
            "postgresql://me:***@h/n is a PostgreSQL database; copy",
        ),
    ],
)
def test_what_is_refused(capsys: Capsys, args: tuple[str, ...], says: str) -> None:
    open_store("x.db", create=True).close()
    Path("there.db").write_text("mine")
    code, _, err = call(capsys, "db", "backup", *args)
    assert (code, err.count("\n"), says in err) == (2, 1, True), err
    assert Path("there.db").read_text() == "mine"
