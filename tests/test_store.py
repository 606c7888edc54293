"""Opening stores: which database a text names, what is created and when, and every refusal in one line."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from store_helpers import OTHER, RUN, WHO, at_once, staged, start, started

import results_db
from results_db.contract import Ending, NewSweep, RunRecord, State, StoreError
from results_db.files import Files
from results_db.store.address import locate
from results_db.store.schema import REVISIONS
from results_db.store.sql import SqlStore, open_store, upgrade_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")


def refusal(db: str, *, create: bool = False) -> str:
    """The one line of the error when this store is opened."""
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


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("x/imagine.db", "x/imagine.files"),
        ("sqlite+pysqlite:///a.db", "a.files"),
        ("sqlite:///a.sqlite", "a.sqlite.files"),
        ("postgresql://me:secret@host/results", "outputs/host-5432-results.files"),
        ("postgresql://host:6543/results", "outputs/host-6543-results.files"),
        ("postgresql:///results", "outputs/localhost-5432-results.files"),
        # The host of a Unix socket is a folder, given in the query; / is %2F and cannot lead out of outputs/.
        ("postgresql://me:@/results?host=/tmp/pg", "outputs/%2Ftmp%2Fpg-5432-results.files"),
        ("postgresql://me:@/../x?host=a&port=7", "outputs/a-7-..%2Fx.files"),
    ],
)
def test_two_stores_share_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, folder: str
) -> None:
    assert locate(url).folder == tmp_path / folder
    monkeypatch.setenv("IMAGINE_FILES", "/team/files")
    assert locate(url).folder == (Path("/team/files") if "postgres" in url else tmp_path / folder)


def test_an_older_store_of_another_suffix_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.files").mkdir()
    assert locate("sqlite:///a.sqlite").folder == tmp_path / "a.files"
    (tmp_path / "a.db").touch()  # whose folder it is
    assert locate("sqlite:///a.sqlite").folder == tmp_path / "a.sqlite.files"


def test_the_url_of_a_server() -> None:
    for driver in ("postgresql", "postgresql+psycopg"):
        address = locate(f"{driver}://me:secret@host/results")
        assert address.url.drivername == "postgresql+psycopg"  # the one that the extra installs
        assert address.url.password == "secret"
        assert address.shown == f"{driver}://me:***@host/results"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/results",
        "postgresql://me:se:cr@et@host/results",
        "postgresql://host/results?user=me&password=secret",
        "postgresql://host/results?sslpassword=secret",
        "postgresql://me:secret@host:54x/results",  # no port, so no URL
        "postgresql://me:secret@host",  # no database
        "postgresql://host:54x/results?user=me&password=secret",
        "postgresql//me:secret@host/results",  # no colon, so a path
        "sqlite:///?host=host&password=secret",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    try:
        shown = locate(url).shown
    except StoreError as error:
        shown = str(error)
    assert "host" in shown
    assert not any(part in shown for part in ("secret", "se:cr", "cr@et"))


def test_a_link_names_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    staged(open_store("disk/x.db", create=True))
    (tmp_path / "link.db").symlink_to("disk/x.db")
    with open_store("link.db", create=False) as store:
        assert len(store.runs()) == 1
        assert (store.display_url, store.folder) == ("link.db", tmp_path / "disk" / "x.files")


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # so that its import fails
    message = refusal("postgresql://host/results")
    assert "needs the Python package psycopg; run: pip install 'psycopg[binary]'" in message


def test_the_url_of_a_file_holds_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = open_store("here.db", create=True).url
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert url == f"sqlite:///{tmp_path}/here.db"
    assert open_store(url, create=False).folder == tmp_path / "here.files"


def test_a_missing_file_is_an_empty_store_and_stays_missing(tmp_path: Path) -> None:
    store = open_store("deep/er/x.db", create=False)
    assert len(store.runs()) == 0
    assert store.states([RUN]) == {}
    assert store.display_url == "deep/er/x.db"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"does not exist; a launch creates it$"):
        staged(store)


def test_a_file_without_tables_is_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    assert len(open_store("x.db", create=False).runs()) == 0
    assert (tmp_path / "x.db").stat().st_size == 0
    staged(open_store("x.db", create=True))
    assert len(open_store("x.db", create=False).runs()) == 1


def test_opening_from_python(tmp_path: Path) -> None:
    with results_db.open("x.db") as store:
        assert len(store.runs()) == 0
    assert list(tmp_path.iterdir()) == []
    with open_store("x.db", create=True) as store:
        staged(store)
    assert not Path("x.db-wal").exists()  # the last connection was closed
    with results_db.open("x.db") as store:
        assert store.runs()["run_id"].tolist() == [RUN]


def test_importing_the_package_imports_nothing_slow() -> None:
    code = "import sys, results_db; print(sorted({'sqlalchemy', 'pandas', 'alembic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
    staged(store)
    with pytest.raises(Exception, match="FOREIGN KEY"), store._writing() as connection:
        connection.exec_driver_sql("INSERT INTO sample (run, name, npz) VALUES (99, 'boards', x'00')")


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_no_database(create: bool) -> None:
    Path("x.db").write_text("name: quick\n" * 200)
    assert refusal("x.db", create=create) == "x.db is not a SQLite database; name another with --db"
    assert Path("x.db").read_text() == "name: quick\n" * 200


@pytest.mark.parametrize("create", [False, True])
def test_a_database_of_another_program(create: bool) -> None:
    with sqlite3.connect("x.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    assert "x.db is another program's database (its tables: songs)" in refusal("x.db", create=create)
    with sqlite3.connect("x.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_another_version(create: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store("x.db", create=True).close()
    with monkeypatch.context() as later:
        later.setattr("results_db.store.schema.REVISIONS", (*REVISIONS, "9999"))
        assert "imagine-results db upgrade" in refusal("x.db", create=create)
    with sqlite3.connect("x.db") as connection:
        connection.execute("UPDATE imagine_version SET version_num = '9999'")
    assert refusal("x.db", create=create) == (
        "x.db was written by a newer version: it has schema 9999, this version knows up to "
        f"{REVISIONS[-1]}; update imagine-sweep"
    )
    with pytest.raises(StoreError, match="newer version"):
        upgrade_store("x.db")


@pytest.mark.parametrize(
    ("db", "says"),
    [
        ("results", "neither a URL nor a path that ends in .db, such as sqlite:///outputs/imagine.db"),
        ("results.sqlite", "'results.sqlite' is neither a URL nor a path"),
        ("", "neither a URL nor a path"),
        ("mysql://host/x", "'mysql' (did you mean 'sqlite'?); valid ones: sqlite, postgresql"),
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


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_open_store_keeps_no_connection_to_its_server(store: SqlStore) -> None:
    """An open `watch`, or a launch on this machine, is silent for most of the time."""
    staged(store)
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with open_store(store.url, create=False) as asking, asking._reading() as connection:
        assert connection.execute(text(others)).scalar() == 0


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_server_says_who_may_write(store: SqlStore) -> None:
    with store._writing() as connection:
        connection.execute(text("CREATE ROLE reader"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    with open_store(f"{store.url}&options=-crole%3Dreader", create=False) as readers:
        assert (store.may_write(), readers.may_write()) == (True, False)
    with store._writing() as connection:
        connection.execute(text("DROP OWNED BY reader"))
        connection.execute(text("DROP ROLE reader"))


def test_a_server_that_does_not_answer() -> None:
    # No server listens on port 1, so the connection is refused at once.
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
            staged(store)


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
        connection.exec_driver_sql("DROP TABLE sample")
    with pytest.raises(StoreError, match=r'relation "sample" does not exist') as caught:
        store.samples(RUN)
    assert "\n" not in str(caught.value)


def test_a_bug_of_this_program_keeps_its_own_exception(store: SqlStore) -> None:
    twice = f"INSERT INTO imagine_version VALUES ('{REVISIONS[-1]}')"  # the table has this primary key
    with pytest.raises(IntegrityError), store._writing() as connection:
        connection.execute(text(twice))


CREATE = """
store = open_store(args[0], create=True)
store.stage([PlannedRun(args[1] * 64, {"seed": int(args[1])})])
"""


@pytest.mark.slow
def test_processes_that_create_the_same_store_at_once(store_url: str, tmp_path: Path) -> None:
    at_once(CREATE, *([store_url, number] for number in range(6)), folder=tmp_path)
    store = open_store(store_url, create=False)
    assert sorted(store.runs()["seed"]) == [0, 1, 2, 3, 4, 5]


START = """
store = open_store(args[0], create=False)
who = Provenance("local", "h", "1:1", "cpu", None, None, {})
claimed = [store.claim([f"{n:064x}"], launcher="local") for n in range(20)]
print(sum(store.begin(*attempts, who) is Reply.ACCEPTED for attempts in claimed if attempts))
"""


@pytest.mark.slow
def test_processes_that_start_the_same_runs_at_once(store: SqlStore, tmp_path: Path) -> None:
    staged(store, *(f"{n:064x}" for n in range(20)))
    # Each of the 20 runs went to one of the processes.
    assert sum(map(int, at_once(START, *[[store.url]] * 4, folder=tmp_path))) == 20
    assert len(store.open_attempts()) == 20


def test_a_writer_does_not_hinder_readers() -> None:
    store = open_store("x.db", create=True)
    staged(store)
    found: list[dict[str, State]] = []
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE run SET state = 'RUNNING'")
        reader = threading.Thread(target=lambda: found.append(open_store("x.db", create=False).states([RUN])))
        reader.start()
        reader.join(timeout=20)
    assert found == [{RUN: State.STAGED}]  # what was committed before


def test_a_store_whose_file_was_removed_refuses_to_write() -> None:
    store = open_store("x.db", create=True)
    staged(store)
    for path in Path().glob("x.db*"):
        path.unlink()
    with pytest.raises(StoreError, match=r"x\.db does not exist"):
        start(store, RUN, WHO)
    assert not Path("x.db").exists()


def test_a_restart_that_never_began_is_refused(store: SqlStore) -> None:
    attempt = started(store)
    assert not store.finish(replace(attempt, restart=1), RunRecord(RUN, "reached", 1.0, {}))


def test_logs_may_contain_what_no_database_can_store(store: SqlStore) -> None:
    # PostgreSQL stores no NUL, and no encoder accepts half of a surrogate pair.
    assert store.end(started(store), Ending(State.FAILED, error="a\0b", log_tail="c\ud800d"))
    (ended,) = store.ended_attempts()
    assert (ended.error, ended.log_tail) == ("ab", "c?d")


def test_a_read_only_store_cannot_write(tmp_path: Path) -> None:
    staged(open_store("a %3f.db", create=True))
    store = open_store("a %3f.db", create=False, read_only=True)
    assert store.states([RUN]) == {RUN: State.STAGED}
    with pytest.raises(StoreError, match="readonly database"):
        staged(store, OTHER)
    assert not (tmp_path / "a ?.db").exists()


def restore(backup: str, *, over: str) -> None:
    """As an administrator restores a file while processes have the store open."""
    for name in (f"{over}-wal", f"{over}-shm"):  # SQLite would apply the old file's log to the new one
        Path(name).unlink(missing_ok=True)
    Path(backup).replace(over)


def back_up(file: str, *, to: str) -> None:
    with sqlite3.connect(file) as source, closing(sqlite3.connect(to)) as backup:
        source.backup(backup)


def test_a_store_that_is_replaced_during_a_write_takes_the_write_back() -> None:
    """SQLite itself would commit to the old file, which has no name any more."""
    store = open_store("x.db", create=True)
    staged(store)
    back_up("x.db", to="backup.db")

    def write() -> None:
        with store._writing() as connection:
            connection.execute(text("DELETE FROM run"))
            restore("backup.db", over="x.db")

    with pytest.raises(StoreError, match=r"^x\.db was replaced during a write"):
        write()
    assert store.states([RUN]) == {RUN: State.STAGED}
    assert start(store, RUN, WHO) is not None  # and the next write reaches the file that is there now
    assert open_store("x.db", create=False).states([RUN]) == {RUN: State.RUNNING}


def test_an_open_store_that_is_replaced_is_read_and_written_anew() -> None:
    store = open_store("x.db", create=True)
    staged(store)
    back_up("x.db", to="backup.db")
    assert start(store, RUN, WHO) is not None
    restore("backup.db", over="x.db")
    assert store.states([RUN]) == {RUN: State.STAGED}
    staged(store, OTHER)
    assert open_store("x.db", create=False).states([RUN, OTHER]).keys() == {RUN, OTHER}


def test_another_store_in_the_place_of_an_open_one_is_not_written() -> None:
    store, other = open_store("x.db", create=True), open_store("other.db", create=True)
    staged(store)
    staged(other)
    other.close()
    restore("other.db", over="x.db")
    with pytest.raises(StoreError, match=r"^x\.db is another store than the one that was opened"):
        start(store, RUN, WHO)
    assert open_store("x.db", create=False).states([RUN]) == {RUN: State.STAGED}


def test_a_folder_belongs_to_one_store() -> None:
    """So a new store meets no weights, checkpoints and jobs of one that is gone, and none of a neighbour."""
    store = open_store("x.db", create=True)
    Files(store.folder).take(store.uuid)
    with open_store("x.db", create=False) as again:
        assert again.uuid == store.uuid
    store.close()
    Path("x.db").rename("y.db")
    with pytest.raises(StoreError, match=r"x\.files belongs to another store .*; move the folder away"):
        open_store("x.db", create=True)
    assert open_store("y.db", create=False).uuid == store.uuid
