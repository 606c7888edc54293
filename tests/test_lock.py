"""One writer at a time where machines share a SQLite file: the lock, and taking over a dead holder's lock."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_helpers import OTHER, at_once, in_threads, staged, stopped

from results_db.contract import StoreError
from results_db.process import process_name
from results_db.store import open_store, schema
from results_db.store.lock import STALE_AFTER_S, lock_file, only_writer
from results_db.store.sql import upgrade_store


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "x.db.lock"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's folder, which the mount table calls NFS."""
    table = tmp_path / "mountinfo"
    table.write_text(f"26 1 0:40 / {tmp_path} rw - nfs4 server:/x rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(table))
    return tmp_path


def hold(lock: Path, *, host: str, process: str, age_s: float = 0) -> None:
    lock.write_text(json.dumps({"host": host, "process": process, "key": "k"}))
    then = time.time() - age_s
    os.utime(lock, (then, then))


def dead_process() -> str:
    """The name of a process of this machine that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = process_name(process.pid)
    process.kill()
    process.wait()
    return name


def taken(lock: Path) -> bool:
    """Whether the lock can be taken, and is gone afterwards."""
    with only_writer(lock, timeout_s=0.1):
        named = json.loads(lock.read_text())
    return (named["host"], named["process"]) == (socket.gethostname(), process_name(os.getpid())) and not any(
        lock.parent.iterdir()
    )


def test_the_lock_names_its_holder_and_goes(lock: Path) -> None:
    assert taken(lock)


def test_the_lock_goes_after_an_error(lock: Path) -> None:
    with pytest.raises(RuntimeError, match="in the transaction"), only_writer(lock, timeout_s=1):
        raise RuntimeError("in the transaction")
    assert list(lock.parent.iterdir()) == []


def test_threads_of_one_process_wait_for_each_other(lock: Path) -> None:
    inside, most = 0, 0

    def write(_: int) -> None:
        nonlocal inside, most
        for _ in range(5):
            with only_writer(lock, timeout_s=30):
                inside += 1
                most = max(most, inside)
                time.sleep(0.005)
                inside -= 1

    in_threads(write, 3)
    assert (inside, most) == (0, 1)


def test_a_live_holder_is_waited_for_and_not_for_ever(lock: Path) -> None:
    hold(lock, host=socket.gethostname(), process=process_name(os.getpid()), age_s=10 * STALE_AFTER_S)
    with pytest.raises(StoreError, match="is held by") as caught:
        taken(lock)
    assert "\n" not in str(caught.value)
    assert lock.exists()


@pytest.mark.parametrize("age_s", [0, STALE_AFTER_S + 60])
def test_a_dead_process_of_this_machine_holds_nothing(lock: Path, age_s: float) -> None:
    hold(lock, host=socket.gethostname(), process=dead_process(), age_s=age_s)
    assert taken(lock)


def test_of_another_machines_process_the_age_decides(lock: Path) -> None:
    hold(lock, host="another", process="1:1", age_s=STALE_AFTER_S - 30)
    with pytest.raises(StoreError, match="another"):
        taken(lock)
    hold(lock, host="another", process="1:1", age_s=STALE_AFTER_S + 30)
    assert taken(lock)


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", "3"])
def test_of_an_unreadable_lock_the_age_decides(lock: Path, content: str) -> None:
    lock.write_text(content)
    then = time.time() - STALE_AFTER_S - 30
    os.utime(lock, (then, then))
    assert taken(lock)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot lock"):
        taken(tmp_path / "none" / "x.lock")


COUNT = """
lock, number = map(Path, args)
for _ in range(30):
    with only_writer(lock, timeout_s=30):
        number.write_text(str(int(number.read_text()) + 1))
"""


@pytest.mark.slow
def test_processes_that_take_over_a_dead_ones_lock_at_once(lock: Path, tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    hold(lock, host=socket.gethostname(), process=dead_process())
    at_once(COUNT, *[[lock, number]] * 3, folder=tmp_path)
    assert number.read_text() == "90"  # two holders at once would overwrite each other's counts
    assert set(tmp_path.iterdir()) == {number, tmp_path / "go"}


def test_a_store_on_a_network_is_written_under_the_lock(shared: Path) -> None:
    assert lock_file(shared / "x.db") == shared / "x.db.lock"
    store = open_store(str(shared / "x.db"), create=True)
    with store._writing():
        assert (shared / "x.db.lock").exists()
    staged(store)
    assert not (shared / "x.db.lock").exists()
    with closing(sqlite3.connect(shared / "x.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def on_one_machine(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, this is the machine that has the disk, such as a login node that serves it by NFS."""
    table = shared / "its_own_mountinfo"
    table.write_text(f"26 1 8:1 / {shared} rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(table))


def test_the_machine_that_has_the_disk_does_as_the_store_says(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(str(shared / "x.db"), create=True).close()
    on_one_machine(shared, monkeypatch)
    with open_store(str(shared / "x.db"), create=True) as store:
        with store._writing():
            assert (shared / "x.db.lock").exists()
        staged(store)
    assert not (shared / "x.db-wal").exists()


def test_a_store_of_one_machine_is_not_written_from_others(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = os.environ["IMAGINE_MOUNTS"]
    on_one_machine(shared, monkeypatch)
    db = str(shared / "x.db")
    with open_store(db, create=True) as store:
        staged(store)
        monkeypatch.setenv("IMAGINE_MOUNTS", nodes)
        with open_store(db, create=False) as other:
            assert len(other.frame()) == 1
            with pytest.raises(StoreError, match=r"run here: imagine-results db upgrade$") as caught:
                staged(other, OTHER)
            assert "\n" not in str(caught.value)
        monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.1)
        with store._reading(), pytest.raises(StoreError, match="locked"):
            upgrade_store(db)
    assert upgrade_store(db).on_network
    for mounts in (nodes, str(shared / "its_own_mountinfo")):
        monkeypatch.setenv("IMAGINE_MOUNTS", mounts)
        with open_store(db, create=False) as store, store._writing():
            assert (shared / "x.db.lock").exists()


STALL = """
import os, signal, socket
from pathlib import Path
socket.gethostname = lambda: "n2"
from results_db.contract import StoreError
from results_db.store.lock import only_writer
try:
    with only_writer(Path(sys.argv[1]), timeout_s=10) as check:
        print("holds", flush=True)
        sys.stdin.readline()
        check()
        print("commits")
except StoreError as error:
    print(error)
"""


@contextmanager
def holder(lock: Path, *, before: str = "") -> Iterator["subprocess.Popen[str]"]:
    """A process that calls itself another machine's, and holds the lock until it gets a line."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{before}{STALL}", str(lock)], **pipes
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process


def test_a_holder_that_stalled_commits_nothing(lock: Path) -> None:
    with holder(lock) as process, ExitStack() as until_the_end:
        with stopped(process.pid):
            then = time.time() - STALE_AFTER_S - 1  # as if so much time had passed
            os.utime(lock, (then, then))
            until_the_end.enter_context(only_writer(lock, timeout_s=1))
        said, _ = process.communicate("\n", timeout=60)
        assert lock.exists()
    assert "took" in said
    assert "commits" not in said
    assert not lock.exists()


def test_a_holder_that_is_slow_keeps_the_lock(lock: Path) -> None:
    with holder(
        lock, before="import results_db.store.lock as module; module._RENEW_EVERY_S = .05\n"
    ) as process:
        then = time.time() - STALE_AFTER_S - 60
        os.utime(lock, (then, then))  # the whole time of a long transaction, at once
        time.sleep(0.5)
        with pytest.raises(StoreError, match="is held by"):
            taken(lock)
        assert process.communicate("\n", timeout=60)[0] == "commits\n"


@pytest.mark.parametrize("wrong_by_s", [-86_400, 86_400])
def test_a_machine_whose_clock_is_wrong_takes_over_no_live_lock_and_keeps_its_own(
    lock: Path, monkeypatch: pytest.MonkeyPatch, wrong_by_s: float
) -> None:
    clock = f"import time; right = time.time; time.time = lambda: right() + {wrong_by_s}\n"
    with holder(lock, before=clock) as process:
        with pytest.raises(StoreError, match="is held by"):
            taken(lock)
        monkeypatch.setattr(time, "time", lambda right=time.time: right() + wrong_by_s)
        with pytest.raises(StoreError, match="is held by"):
            taken(lock)
        assert process.communicate("\n", timeout=60)[0] == "commits\n"


def test_a_transaction_whose_lock_was_taken_over_writes_nothing(shared: Path) -> None:
    store = open_store(str(shared / "x.db"), create=True)

    def write() -> None:
        with store._writing() as connection:
            connection.exec_driver_sql("UPDATE store SET shared_with = 'nobody'")
            hold(shared / "x.db.lock", host="n2", process="1:1")

    with pytest.raises(StoreError, match="took"):
        write()
    (shared / "x.db.lock").unlink()
    with open_store(str(shared / "x.db"), create=False) as again:
        assert again.group is None


def test_a_store_on_a_disk_of_this_machine_needs_none(tmp_path: Path) -> None:
    assert lock_file(tmp_path / "x.db") is None
    assert lock_file(None) is None
    store = open_store(str(tmp_path / "x.db"), create=True)
    with store._writing():
        assert not (tmp_path / "x.db.lock").exists()
