"""Opening stores: which database a text names, what is created and when, and every refusal in one line."""

import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from results_db.contract import NewSweep, PlannedRun, Provenance, RunRecord, State, StoreError
from results_db.store.address import locate
from results_db.store.schema import REVISIONS
from results_db.store.sql import SqlStore, open_store, upgrade_store

WHO = Provenance("local", "h", "1:1", "cpu", None, None, {})


pytestmark = pytest.mark.usefixtures("in_tmp_path")


def refusal(db: str, *, create: bool = False) -> str:
    """The one line with which opening is refused."""
    with pytest.raises(StoreError) as caught:
        open_store(db, create=create)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_which_store_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(None).file == tmp_path / "outputs/imagine.db"
    monkeypatch.setenv("IMAGINE_DB", "a.db")
    assert locate(None).file == tmp_path / "a.db"
    assert locate("b/c.db").file == tmp_path / "b/c.db"
    assert locate("sqlite:///b/c.sqlite").file == tmp_path / "b/c.sqlite"
    assert locate("sqlite:////d/c.db").file == Path("/d/c.db")


def test_the_folder_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate("x/imagine.db").folder == tmp_path / "x/imagine.files"
    server = "postgresql://me:secret@host/results"
    assert locate(server).folder == tmp_path / "outputs/host-5432-results.files"
    monkeypatch.setenv("IMAGINE_FILES", "/team/files")
    assert locate(server).folder == Path("/team/files")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://host:6543/results", "host-6543-results.files"),
        ("postgresql:///results", "localhost-5432-results.files"),
        # The host of a socket is a folder, given in the query; / is %2F and cannot lead out of outputs/.
        ("postgresql://me:@/results?host=/tmp/pg", "%2Ftmp%2Fpg-5432-results.files"),
        ("postgresql://me:@/../x?host=a&port=7", "a-7-..%2Fx.files"),
    ],
)
def test_two_servers_share_no_folder(tmp_path: Path, url: str, name: str) -> None:
    assert locate(url).folder == tmp_path / "outputs" / name


def test_the_driver_is_the_one_that_the_extra_installs() -> None:
    for url in ("postgresql://host/results", "postgresql+psycopg://host/results"):
        assert locate(url).url.drivername == "postgresql+psycopg"
    assert locate("sqlite+pysqlite:///a.db").folder == locate("a.db").folder


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # so that its import fails
    message = refusal("postgresql://host/results")
    assert "needs the Python package psycopg; run: pip install 'psycopg[binary]'" in message


def test_a_password_is_in_the_url_and_not_in_what_is_shown() -> None:
    address = locate("postgresql://me:secret@host/results")
    assert address.shown == "postgresql://me:***@host/results"
    assert address.url.password == "secret"


def test_the_url_of_a_file_holds_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = open_store("here.db", create=True).url
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert url == f"sqlite:///{tmp_path}/here.db"
    assert open_store(url, create=False).folder == tmp_path / "here.files"


def test_a_missing_file_is_an_empty_store_and_stays_missing(tmp_path: Path) -> None:
    store = open_store("deep/er/x.db", create=False)
    assert len(store.runs()) == 0
    assert store.states(["ab" * 32]) == {}
    assert store.display_url == "deep/er/x.db"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"does not exist; a launch creates it$"):
        store.stage([PlannedRun("ab" * 32, {})])


def test_a_file_without_tables_is_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    assert len(open_store("x.db", create=False).runs()) == 0
    assert (tmp_path / "x.db").stat().st_size == 0
    open_store("x.db", create=True).stage([PlannedRun("ab" * 32, {})])
    assert len(open_store("x.db", create=False).runs()) == 1


def test_creating_makes_folders_and_durable_settings(tmp_path: Path) -> None:
    store = open_store("deep/er/x.db", create=True)
    with store._reading() as connection:
        pragmas = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert values == ["wal", 1, 2, 30_000]  # synchronous 2 is FULL
    assert (tmp_path / "deep/er/x.db").exists()
    assert not store.folder.exists()


def test_foreign_keys_are_enforced() -> None:
    store = open_store("x.db", create=True)
    store.stage([PlannedRun("ab" * 32, {})], sweep=NewSweep("quick", "name: quick"))
    with pytest.raises(Exception, match="FOREIGN KEY"), store._writing() as connection:
        connection.exec_driver_sql("INSERT INTO metric (run, name, value) VALUES (99, 'metric', 1.0)")


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_no_database(tmp_path: Path, create: bool) -> None:
    file = tmp_path / "x.db"
    file.write_text("name: quick\n" * 200)
    before = file.read_bytes()
    assert refusal("x.db", create=create) == "x.db is not a SQLite database; name another with --db"
    assert file.read_bytes() == before


@pytest.mark.parametrize("create", [False, True])
def test_a_database_of_something_else(create: bool) -> None:
    with sqlite3.connect("x.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    assert "x.db is another program's database (its tables: songs)" in refusal("x.db", create=create)
    with sqlite3.connect("x.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def set_revision(file: str, revision: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE imagine_version SET version_num = ?", (revision,))


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_a_newer_version(create: bool) -> None:
    open_store("x.db", create=True).close()
    set_revision("x.db", "9999")
    message = refusal("x.db", create=create)
    assert "newer version" in message
    assert "9999" in message
    assert "update imagine-sweep" in message
    with pytest.raises(StoreError, match="newer version"):
        upgrade_store("x.db")


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_an_older_version(create: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store("x.db", create=True).close()
    monkeypatch.setattr("results_db.store.schema.REVISIONS", (*REVISIONS, "9999"))
    assert "imagine-results db upgrade" in refusal("x.db", create=create)


@pytest.mark.parametrize(
    ("db", "says"),
    [
        (
            "results",
            "'results' is neither a URL nor a path that ends in .db, such as sqlite:///outputs/imagine.db",
        ),
        ("results.sqlite", "neither a URL nor a path"),
        ("", "neither a URL nor a path"),
        (
            "mysql://host/x",
            "unknown database 'mysql' (did you mean 'sqlite'?); valid ones: sqlite, postgresql",
        ),
        ("postgres://host/x", "unknown database 'postgres' (did you mean 'postgresql'?)"),
        ("sqlite+nodriver:///x.db", "unknown database 'sqlite+nodriver'"),
        ("sqlite+aiosqlite:///x.db", "unknown database 'sqlite+aiosqlite'"),
        ("postgresql+pg8000://host/x", "(did you mean 'postgresql+psycopg'?)"),
        ("postgresql://host/x?port=abc", "host/x?port=abc': Received non-integer port"),
        ("sqlite:///x.db?timeout=abc", "'sqlite:///x.db?timeout=abc' names more than a file"),
        ("sqlite:///x.db?foo=1", "names more than a file"),
        ("sqlite://me:secret@/x.db", "'sqlite://me:***@/x.db' names more than a file"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://outputs/x.db", "names more than a file; write sqlite:///PATH"),
        ("postgresql://host", "names no database"),
        ("://", "is not a database URL"),
    ],
)
def test_a_text_that_names_no_store(db: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(db, create=True)
    assert list(tmp_path.iterdir()) == []


def test_the_message_says_where_the_text_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_DB", "nonsense")
    with pytest.raises(StoreError, match="IMAGINE_DB: 'nonsense'"):
        open_store(None, create=False)


def test_a_server_that_does_not_answer() -> None:
    # Port 1 is nobody's, so the connection is refused at once.
    message = refusal("postgresql://me:secret@127.0.0.1:1/results")
    assert message.startswith("cannot open postgresql://me:***@127.0.0.1:1/results: ")
    assert "secret" not in message


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot create" in refusal("file/x.db", create=True)


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    assert refusal("x.db", create=True) == (
        "cannot open x.db: unable to open database file; name another with --db"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot open locked/x.db" in refusal("locked/x.db", create=True)


def test_a_store_that_stays_busy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results_db.store.engine.BUSY_TIMEOUT_S", 0)
    store = open_store("x.db", create=True)
    with sqlite3.connect("x.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"^x\.db: database is locked$"):
            store.stage([PlannedRun("ab" * 32, {})])


def test_damaged_pages_are_one_line() -> None:
    open_store("x.db", create=True).close()  # closing moves everything from the log into the file
    with sqlite3.connect("x.db") as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'run'").fetchone()
    connection.close()
    with Path("x.db").open("r+b") as file:
        file.seek((page - 1) * size)  # pages count from 1
        file.write(b"\xff" * size)
    store = open_store("x.db", create=False)
    with pytest.raises(StoreError, match=r"^x\.db: .* malformed; restore a copy of it, or name another"):
        store.runs()


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_what_a_server_refuses_is_one_line(store: SqlStore) -> None:
    with pytest.raises(StoreError, match="value too long") as caught:
        store.stage([], sweep=NewSweep("x" * 300, "name: x"))  # the column holds 200
    assert "\n" not in str(caught.value)
    with store._writing() as connection:
        connection.exec_driver_sql("DROP TABLE metric")
    with pytest.raises(StoreError, match=r'relation "metric" does not exist') as caught:
        store.runs()
    assert "\n" not in str(caught.value)


def test_a_mistake_of_ours_keeps_its_own_exception(store: SqlStore) -> None:
    twice = text(
        f"INSERT INTO imagine_version VALUES ('{REVISIONS[-1]}')"
    )  # its primary key stands there already
    with pytest.raises(IntegrityError), store._writing() as connection:
        connection.execute(twice)


CREATE = """
import sys, time
from pathlib import Path
from results_db.contract import PlannedRun
from results_db.store import open_store
url, go, number = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
store = open_store(url, create=True)
store.stage([PlannedRun(number * 64, {"seed": int(number)})])
"""


@pytest.mark.slow
def test_processes_that_create_the_same_store_at_once(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = [sys.executable, "-c", CREATE, store_url, str(go)]
    processes = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    store = open_store(store_url, create=False)
    assert sorted(store.runs()["seed"]) == [0, 1, 2, 3, 4, 5]


START = """
import sys, time
from pathlib import Path
from results_db.contract import Provenance
from results_db.store import open_store
url, go = sys.argv[1], Path(sys.argv[2])
store = open_store(url, create=False)
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
who = Provenance("local", "h", "1:1", "cpu", None, None, {})
print(sum(store.start(f"{n:064x}", who) is not None for n in range(20)))
"""


@pytest.mark.slow
def test_processes_that_start_the_same_runs_at_once(store: SqlStore, tmp_path: Path) -> None:
    store.stage([PlannedRun(f"{n:064x}", {}) for n in range(20)])
    go = tmp_path / "go"
    processes = [
        subprocess.Popen([sys.executable, "-c", START, store.url, str(go)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    started = [int(process.communicate(timeout=60)[0]) for process in processes]
    # Every one of the 20 runs went to one process, whichever.
    assert sum(started) == 20
    assert len(store.open_attempts()) == 20


def test_a_writer_does_not_hinder_readers() -> None:
    store = open_store("x.db", create=True)
    run_id = "ab" * 32
    store.stage([PlannedRun(run_id, {})])
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE run SET state = 'RUNNING'")
        states: list[dict[str, State]] = []
        reader = threading.Thread(
            target=lambda: states.append(open_store("x.db", create=False).states([run_id]))
        )
        reader.start()
        reader.join(timeout=20)
    assert states == [{run_id: State.STAGED}]  # what was committed before


def test_one_run_in_full(store: SqlStore) -> None:
    run_id = "ab" * 32
    for name in ("table1", "quick", "quick"):
        store.stage([PlannedRun(run_id, {"seed": 3})], sweep=NewSweep(name, f"name: {name}"))
    attempt = store.start(run_id, WHO)
    assert attempt is not None
    store.finish(attempt, RunRecord(run_id, "reached", 2.0, {"metric": 1.0, "metric_adv": None}))
    run = store.run(run_id)
    assert run["config"] == {"seed": 3}
    assert run["metrics"] == {"metric": 1.0, "metric_adv": None}
    assert run["sweeps"] == ["quick", "table1"]  # two launches of quick, named once
    assert run["staged_at"].utcoffset().total_seconds() == 0
    with pytest.raises(StoreError, match="no run"):
        store.run("cd" * 32)


def test_a_store_whose_file_was_removed_refuses_to_write() -> None:
    store = open_store("x.db", create=True)
    store.stage([PlannedRun("ab" * 32, {})])
    for path in Path().glob("x.db*"):
        path.unlink()
    with pytest.raises(StoreError, match=r"x\.db does not exist"):
        store.start("ab" * 32, WHO)
    assert not Path("x.db").exists()


def test_a_restart_that_never_began_is_refused(store: SqlStore) -> None:
    run_id = "ab" * 32
    store.stage([PlannedRun(run_id, {})])
    attempt = store.start(run_id, WHO)
    assert attempt is not None
    assert not store.finish(replace(attempt, restart=1), RunRecord(run_id, "reached", 1.0, {}))


def test_logs_may_hold_what_no_database_can(store: SqlStore) -> None:
    run_id = "ab" * 32
    store.stage([PlannedRun(run_id, {})])
    attempt = store.start(run_id, WHO)
    assert attempt is not None
    # PostgreSQL stores no NUL, and no encoder takes half of a surrogate pair.
    assert store.end(attempt, State.FAILED, error="a\0b", log_tail="c\ud800d")
    (ended,) = store.ended_attempts()
    assert (ended.error, ended.log_tail) == ("ab", "c?d")


def test_a_read_only_store_cannot_write(tmp_path: Path) -> None:
    open_store("a %3f.db", create=True).stage([PlannedRun("ab" * 32, {})])
    store = open_store("a %3f.db", create=False, read_only=True)
    assert store.states(["ab" * 32]) == {"ab" * 32: State.STAGED}
    with pytest.raises(StoreError, match="readonly database"):
        store.stage([PlannedRun("cd" * 32, {})])
    assert not (tmp_path / "a ?.db").exists()
