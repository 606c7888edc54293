"""A worker's way to the store: its records are safe before they are stored, and the store may be away."""

import errno
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from store_helpers import OTHER, RUN, THIRD, WHO, claimed, files, staged, stopped
from sweep_helpers import wait_until
from user_helpers import NOBODY

from results_db.contract import Attempt, Ending, Reply, RunRecord, State, StoreError
from results_db.files import Files
from results_db.spool import delivery as module
from results_db.spool.delivery import Delivery, delivery
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store import engine
from results_db.store.sql import SqlStore, open_store

RECORD = RunRecord(RUN, "reached", 1.0, {"metric": 0.5})
PREEMPTED = Ending(State.PREEMPTED)


class Cluster:
    """A store, a worker's way to it, and a switch that takes the store away by renaming its file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "a.db"
        self.store = open_store(str(self.file), create=True)
        self.worker = delivery(str(self.file), scheduled=True)

    def away(self) -> None:
        self.file.rename(self.file.with_name("away.db"))

    def back(self) -> None:
        self.file.with_name("away.db").rename(self.file)

    def begun(self, run_id: str = RUN) -> Attempt:
        """The run's next attempt, claimed, and begun by the worker."""
        attempt = claimed(self.store, run_id)
        assert self.worker.begin([attempt], WHO) == [attempt]
        return attempt

    def wait_for(self, state: State) -> None:
        wait_until(lambda: self.state is state)
        wait_until(lambda: not self.worker._left)

    @property
    def state(self) -> State:
        return self.store.states([RUN])[RUN]

    @property
    def files(self) -> set[str]:
        return files(self.store)


def name(attempt: Attempt) -> str:
    return f"{attempt.run_id}.{attempt.number}.{attempt.restart}.{attempt.nonce}.json"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats and further tries come often, and a worker that is done does not wait for long."""
    monkeypatch.setattr(module, "HEARTBEAT_EVERY_S", 0.05)
    monkeypatch.setattr(module, "CLOSE_WITHIN_S", 1.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.worker.close()


def test_with_the_store_in_reach_nothing_stays_in_the_spool(cluster: Cluster) -> None:
    attempt = cluster.begun()
    assert cluster.state is State.RUNNING
    cluster.worker.progress(attempt, step=3, values={"accuracy": 0.5})
    wait_until(lambda: cluster.store.open_attempts()[0].step == 3)
    cluster.worker.end(attempt, RECORD)
    cluster.wait_for(State.COMPLETED)
    assert cluster.files == set()


def test_a_worker_that_is_done_waits_for_its_last_records(cluster: Cluster) -> None:
    cluster.worker.end(cluster.begun(), RECORD)
    cluster.worker.close()
    assert cluster.state is State.COMPLETED


def test_a_job_begins_and_ends_without_the_store(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    cluster.away()
    assert cluster.worker.begin([attempt], WHO) == [attempt]
    cluster.worker.end(attempt, RECORD)
    cluster.worker.close()
    assert cluster.files == {f"spool/{name(attempt)}"}
    cluster.back()
    assert cluster.state is State.PENDING
    assert ingest(cluster.store).stored == [attempt]
    (told,) = cluster.store.attempts(RUN)
    assert (told["state"], told["host"]) == ("COMPLETED", "n1")


def test_a_store_that_is_back_gets_what_was_left_and_learns_of_the_beginning(cluster: Cluster) -> None:
    ended, training = claimed(cluster.store), claimed(cluster.store, OTHER)
    cluster.away()
    assert cluster.worker.begin([ended, training], WHO) == [ended, training]
    cluster.worker.end(ended, RECORD)
    cluster.worker.progress(training, step=9, values={})
    cluster.back()
    cluster.wait_for(State.COMPLETED)
    wait_until(lambda: cluster.store.open_attempts()[0].step == 9)
    (alive,) = cluster.store.open_attempts()
    assert (alive.state, alive.host) == (State.RUNNING, "n1")
    assert cluster.files == set()


def supersede(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.begin(replace(attempt, restart=1), WHO)


def withdraw(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.withdraw([attempt]) == [attempt]


def cancel(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.end(attempt, Ending(State.CANCELLED))


@pytest.mark.parametrize("act", [supersede, withdraw, cancel])
def test_an_attempt_that_began_without_the_store_learns_later_that_it_does_not_count(
    cluster: Cluster, act: Callable[[Cluster, Attempt], None]
) -> None:
    attempt, back = claimed(cluster.store), threading.Event()

    def connect() -> SqlStore:
        if not back.is_set():
            raise StoreError("away")
        return open_store(str(cluster.file), create=False)

    worker = Delivery(cluster.store.folder, connect)
    assert worker.begin([attempt], WHO) == [attempt]
    act(cluster, attempt)
    back.set()
    wait_until(lambda: worker.superseded(attempt))
    worker.close()


@pytest.mark.parametrize("ending", [RECORD, PREEMPTED])
def test_an_attempt_that_does_not_count_leaves_nothing(cluster: Cluster, ending: RunRecord | Ending) -> None:
    attempt = cluster.begun()
    weights = Files(cluster.store.folder).weights(attempt)
    weights.parent.mkdir(parents=True)
    weights.touch()
    supersede(cluster, attempt)
    cluster.worker.end(attempt, ending)
    wait_until(lambda: cluster.worker.superseded(attempt))
    wait_until(lambda: not cluster.files)
    assert cluster.state is State.RUNNING


def test_an_attempt_that_does_not_count_does_not_begin(cluster: Cluster) -> None:
    old, strange = claimed(cluster.store), Attempt(OTHER, 1, nonce="0123abcd")
    supersede(cluster, old)
    assert cluster.worker.begin([old, strange, Attempt(THIRD, 1)], WHO) == []


def test_a_requeued_job_does_not_repeat_a_run_whose_result_waits(cluster: Cluster) -> None:
    """It finished one run of its pack while the store was away, and was preempted in the next."""
    attempt = claimed(cluster.store)
    cluster.away()
    cluster.worker.begin([attempt], WHO)
    cluster.worker.end(attempt, RECORD)
    again = delivery(str(cluster.file), scheduled=True)
    assert again.begin([replace(attempt, restart=1)], WHO) == []
    # But a new claim makes the old result outdated, and is trained.
    newer = replace(attempt, number=2)
    assert again.begin([newer], WHO) == [newer]
    again.close()


def test_a_requeued_job_delivers_what_it_finished_before(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    cluster.away()
    cluster.worker.begin([attempt], WHO)
    cluster.worker.end(attempt, RECORD)
    cluster.worker.close()  # as if its node was lost
    cluster.back()
    again = delivery(str(cluster.file), scheduled=True)
    assert again.begin([replace(attempt, restart=1)], WHO) == []
    again.close()
    assert cluster.state is State.COMPLETED
    assert not Spool(cluster.store.folder).attempts()


def test_a_damaged_file_does_not_keep_a_job_from_beginning(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    Spool(cluster.store.folder).folder.mkdir(parents=True)
    Spool(cluster.store.folder).path(attempt).write_text("?")
    assert cluster.worker.begin([replace(attempt, restart=1)], WHO)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
@pytest.mark.parametrize("restart", [0, 1])
def test_a_worker_stores_no_record_that_another_user_put_into_the_spool(
    cluster: Cluster, restart: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The file has the attempt's number and nonce, as anyone who may list the folder can see them."""
    attempt = claimed(cluster.store)
    forged = Spool(cluster.store.folder).write(Spooled(replace(attempt, restart=restart), RECORD, WHO, 0.0))
    os.chown(forged, NOBODY, NOBODY)
    mine = replace(attempt, restart=1)
    assert cluster.worker.begin([mine], WHO) == [mine]
    cluster.worker.close()
    assert cluster.state is State.RUNNING
    assert f"it is not believed: user {NOBODY} wrote it" in caplog.text


@pytest.fixture(params=["no folder", "no space"])
def full(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """The spool cannot be written: there is a file in its place, or its disk is full."""
    spool = cluster.store.folder / "spool"
    cluster.store.folder.mkdir()
    if request.param == "no folder":
        spool.write_text("")
        yield
        return
    spool.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", spool], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting a small disk")
    try:
        (spool / "filler").write_bytes(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", spool], check=True)


@pytest.mark.usefixtures("full")
def test_with_a_full_disk_the_record_goes_to_the_store_or_the_caller_gets_an_error(cluster: Cluster) -> None:
    attempt = cluster.begun()
    cluster.away()
    with pytest.raises(OSError, match=r"No space left|Not a directory|File exists"):
        cluster.worker.end(attempt, RECORD)
    cluster.back()
    cluster.worker.end(attempt, RECORD)
    assert cluster.state is State.COMPLETED
    assert Spool(cluster.store.folder).attempts() == []  # not even an empty file


def test_a_record_that_the_store_never_accepts_is_a_failure_and_harms_no_other(cluster: Cluster) -> None:
    bad, good = cluster.begun(), cluster.begun(OTHER)
    cluster.worker.end(bad, replace(RECORD, traces={"t": ([0], [float("nan")])}))
    cluster.worker.end(good, replace(RECORD, run_id=OTHER))
    cluster.worker.close()
    assert cluster.store.states([RUN, OTHER]) == {RUN: State.FAILED, OTHER: State.COMPLETED}
    assert "Out of range" in cluster.store.attempts(RUN)[0]["error"]
    assert cluster.files == {f"spool/damaged/{name(bad)}"}


def test_a_store_that_is_write_locked_delays_no_worker(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEGIN_WITHIN_S", 0.5)
    attempt = claimed(cluster.store)
    began = time.monotonic()
    other = sqlite3.connect(cluster.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert cluster.worker.begin([attempt], WHO) == [attempt]
    cluster.worker.end(attempt, RECORD)
    assert time.monotonic() - began < 5  # SQLite's own patience is 30 s
    other.execute("ROLLBACK")
    other.close()
    cluster.wait_for(State.COMPLETED)
    assert cluster.files == set()


def restored(cluster: Cluster) -> None:
    """The store becomes a copy of itself from before its runs were claimed."""
    cluster.store.close()
    for end in ("", "-wal", "-shm"):
        cluster.file.with_name(f"a.db{end}").unlink(missing_ok=True)
    cluster.file.with_name("backup.db").rename(cluster.file)


def test_a_restored_backup_loses_no_result(cluster: Cluster) -> None:
    """Its claims are unknown to the backup, in which another launch may have claimed the same numbers."""
    staged(cluster.store)
    with sqlite3.connect(cluster.file) as source, sqlite3.connect(cluster.file.with_name("backup.db")) as to:
        source.backup(to)
    attempt = cluster.begun()
    weights = Files(cluster.store.folder).weights(attempt)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"mine")
    restored(cluster)
    cluster.worker.end(attempt, RECORD)
    cluster.worker.close()
    other = claimed(cluster.store)
    assert other.number == attempt.number
    found = ingest(cluster.store)
    assert (found.stored, found.refused) == ([], [])
    assert "this store did not claim its attempt; imagine-results ingest --adopt stores it" in found.left[0]
    assert {f"spool/{name(attempt)}", f"weights/{weights.name}"} == cluster.files
    assert ingest(cluster.store, adopt=True).stored == [attempt]
    assert cluster.store.run(RUN)["metrics"] == {"metric": 0.5}
    told = cluster.store.attempts(RUN)[-1]
    assert told["started_at"] < told["ended_at"] < told["claimed_at"]
    (kept,) = cluster.store.folder.rglob("*.safetensors")
    assert kept == Files(cluster.store.folder).weights(replace(attempt, number=2))
    assert kept.read_bytes() == b"mine"
    assert cluster.store.begin(other, WHO) is Reply.REFUSED


def test_of_two_attempts_with_one_number_the_stored_one_keeps_its_weights(cluster: Cluster) -> None:
    """Both had number 1, because the store was replaced while the first trained."""
    mine = cluster.begun()
    strange = replace(mine, nonce="0123abcd")
    kept = Files(cluster.store.folder)
    for attempt in (mine, strange):
        kept.weights(attempt).parent.mkdir(parents=True, exist_ok=True)
        kept.weights(attempt).touch()
    cluster.worker.end(mine, RECORD)
    cluster.wait_for(State.COMPLETED)
    cluster.worker._own[strange] = cluster.worker._own[mine]
    cluster.worker.end(strange, replace(RECORD, seconds=9.0))
    cluster.worker.close()
    wait_until(lambda: cluster.files == {f"weights/{kept.weights(mine).name}"})
    assert cluster.store.run(RUN)["seconds"] == 1.0


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_workers_hold_no_connections_while_they_have_nothing_to_tell(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_EVERY_S", 600.0)
    runs = [f"{number:064x}" for number in range(10)]
    staged(store, *runs)
    workers = [Delivery(store.folder, lambda: open_store(store.url, create=False)) for _ in runs]
    for worker, attempt in zip(workers, store.claim(runs, launcher="local"), strict=True):
        assert worker.begin([attempt], WHO)
        worker.end(attempt, replace(RECORD, run_id=attempt.run_id))
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

    def connections() -> int:
        with store._reading() as connection:
            return int(connection.exec_driver_sql(count).scalar_one())

    wait_until(lambda: connections() == 1)  # the one that counts
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_server_that_accepts_and_never_answers_is_away(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CONNECT_WITHIN_S", 2)
    monkeypatch.setattr(module, "BEGIN_WITHIN_S", 0.5)
    attempt = claimed(store)
    with store._reading() as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    with stopped(int(Path(folder, "postmaster.pid").read_text().split()[0])):
        began = time.monotonic()
        worker = Delivery(store.folder, lambda: open_store(store.url, create=False))
        assert worker.begin([attempt], WHO) == [attempt]
        worker.end(attempt, RECORD)
        worker.close()
        assert time.monotonic() - began < 10
        with pytest.raises(StoreError, match="timeout"):
            open_store(store.url, create=False)
        assert Spool(store.folder).attempts() == [attempt]
    assert ingest(store).stored == [attempt]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_connection_that_goes_silent_is_given_up(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ANSWER_WITHIN_S", 1)
    staged(store)

    def ask() -> None:
        with store._reading() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with stopped(pid):
                connection.exec_driver_sql("SELECT 1")

    began = time.monotonic()
    with pytest.raises(StoreError, match="no answer within 1 s"):
        ask()
    assert time.monotonic() - began < 10
    assert store.states([RUN]) == {RUN: State.STAGED}


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "files"))
    worker = delivery("postgresql://me@127.0.0.1:1/x", scheduled=True)  # no server listens on port 1
    attempt = Attempt(RUN, 1)
    assert worker.begin([attempt], WHO) == [attempt]
    worker.end(attempt, RECORD)
    worker.close()
    assert Spool(tmp_path / "files").attempts() == [attempt]


@pytest.fixture
def on_nfs(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A store in a folder that the mount table calls NFS."""
    (tmp_path / "mountinfo").write_text(f"26 1 0:40 / {tmp_path} rw - nfs server:/x rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(tmp_path / "mountinfo"))
    cluster.file.unlink()
    for path in cluster.store.folder.rglob("store"):
        path.unlink()
    made = Cluster(tmp_path)
    yield made
    made.worker.close()


def test_on_nfs_a_job_leaves_its_results_to_ingest(on_nfs: Cluster) -> None:
    attempt = claimed(on_nfs.store)
    before = on_nfs.file.read_bytes()
    assert on_nfs.worker.begin([attempt], WHO) == [attempt]
    on_nfs.worker.progress(attempt, step=9, values={"accuracy": 0.5})
    alive = on_nfs.store.folder / "spool" / "alive" / name(attempt)
    wait_until(lambda: '"step": 9' in alive.read_text())
    assert on_nfs.files == {f"spool/alive/{name(attempt)}"}
    ingest(on_nfs.store)
    (told,) = on_nfs.store.open_attempts()
    assert (told.state, told.step, told.progress) == (State.RUNNING, 9, {"accuracy": 0.5})
    written = on_nfs.file.read_bytes()
    on_nfs.worker.end(attempt, RECORD)
    on_nfs.worker.close()
    assert on_nfs.file.read_bytes() == written != before  # written by the ingest alone
    ingest(on_nfs.store)
    assert on_nfs.state is State.COMPLETED
    assert on_nfs.files == set()


def test_on_nfs_an_attempt_learns_from_the_store_that_it_does_not_count(on_nfs: Cluster) -> None:
    attempt = on_nfs.begun()
    on_nfs.store.end(attempt, Ending(State.LOST))
    time.sleep(0.3)
    assert not on_nfs.worker.superseded(attempt)  # a guess that is wrong
    claimed(on_nfs.store)
    wait_until(lambda: on_nfs.worker.superseded(attempt))
    wait_until(lambda: not on_nfs.files)
    on_nfs.worker.end(attempt, RECORD)
    assert ingest(on_nfs.store).refused == [attempt]
    assert on_nfs.files == set()


@pytest.mark.parametrize("act", [withdraw, cancel])
def test_on_nfs_a_withdrawn_or_cancelled_attempt_does_not_begin(
    on_nfs: Cluster, act: Callable[[Cluster, Attempt], None]
) -> None:
    attempt = claimed(on_nfs.store)
    act(on_nfs, attempt)
    assert on_nfs.worker.begin([attempt], WHO) == []


def test_on_nfs_of_two_copies_the_older_sees_the_newer(on_nfs: Cluster) -> None:
    old = on_nfs.begun()
    new = replace(old, restart=1)
    other = delivery(str(on_nfs.file), scheduled=True)
    assert other.begin([new], WHO) == [new]
    wait_until(lambda: on_nfs.worker.superseded(old))
    wait_until(lambda: on_nfs.files == {f"spool/alive/{name(new)}"})
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
def test_on_nfs_a_heartbeat_of_another_user_ends_no_training(on_nfs: Cluster) -> None:
    attempt = on_nfs.begun()
    alive = HeartbeatFiles(on_nfs.store.folder)
    alive.write(Heartbeat(replace(attempt, restart=9), WHO, 0, {}))
    os.chown(alive.path(replace(attempt, restart=9)), NOBODY, NOBODY)
    alive.path(replace(attempt, restart=8)).symlink_to("/dev/null")
    alive.path(replace(attempt, restart=7)).touch()  # what its name says is not in it
    for step in (9, 10):  # it has looked after the first
        on_nfs.worker.progress(attempt, step=step, values={})
        wait_until(lambda step=step: alive.read(attempt)[0].step == step)  # type: ignore[misc]
    assert not on_nfs.worker.superseded(attempt)
    alive.write(Heartbeat(replace(attempt, restart=6), WHO, 0, {}))
    wait_until(lambda: on_nfs.worker.superseded(attempt))


def test_a_store_of_the_nfs_server_is_not_asked_on_its_nodes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a write-ahead log, of which a node may see an old part: a claim that is missing there may exist."""
    (tmp_path / "mountinfo").write_text(f"26 1 0:40 / {tmp_path} rw - nfs server:/x rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(tmp_path / "mountinfo"))
    node = delivery(str(cluster.file), scheduled=True)
    old = Attempt(RUN, 1, nonce="0123abcd")
    assert node.begin([old], WHO) == [old]
    new = replace(old, restart=1)
    later = delivery(str(cluster.file), scheduled=True)
    assert later.begin([new], WHO) == [new]
    wait_until(lambda: node.superseded(old))  # its heartbeat file still says so
    later.end(new, RECORD)
    for one in (node, later):
        one.close()
    assert Spool(cluster.store.folder).attempts() == [new]


def test_on_nfs_only_jobs_do_not_write_the_database(on_nfs: Cluster) -> None:
    attempt = claimed(on_nfs.store)
    with pytest.raises(StoreError, match="readonly"):
        staged(on_nfs.worker._connect(), OTHER)
    here = delivery(str(on_nfs.file))  # a local launcher's worker
    assert here.begin([attempt], WHO)
    here.end(attempt, RECORD)
    here.close()
    assert on_nfs.state is State.COMPLETED


KILLS, SHARE = 200, 10


@pytest.mark.fault
def test_a_worker_that_is_killed_at_any_moment_loses_no_record_that_it_wrote(
    store: SqlStore, tmp_path: Path
) -> None:
    """It notes what it has written; afterwards the store has it, or the spool. Most die while records are left."""
    runs = [f"{number:064x}" for number in range(KILLS * SHARE)]
    staged(store, *runs)
    attempts = store.claim(runs, launcher="local")
    store.close()
    noted = tmp_path / "noted"
    noted.touch()
    hits = 0
    for index in range(KILLS):
        before, share = noted.stat().st_size, attempts[index * SHARE :][:SHARE]
        pid = os.fork()
        if pid == 0:
            try:
                worker = delivery(store.url)
                worker.begin(share, WHO)
                for attempt in share:
                    worker.end(attempt, replace(RECORD, run_id=attempt.run_id))
                    with noted.open("a") as file:
                        file.write(f"{attempt.run_id}\n")
                worker.close()
            finally:
                os._exit(0)
        wait_until(lambda before=before: noted.stat().st_size > before)  # type: ignore[misc]
        time.sleep(0.002 * (index % 50))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        hits += not set(share).isdisjoint(Spool(store.folder).attempts())
    assert hits > KILLS / 2
    with open_store(store.url, create=False) as opened:
        if opened.file is not None:
            with opened._reading() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert ingest(opened).left == []
        written = {line for line in noted.read_text().splitlines() if len(line) == 64}
        assert len(written) >= KILLS
        assert {opened.states([run])[run] for run in written} == {State.COMPLETED}


JOBS, CONNECTIONS = 60, 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_more_jobs_than_connections_shut_nobody_out_and_leave_none_idle(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job is a process; all begin, train and end together. Meanwhile a user reads the store again and again."""
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "x.files"))
    monkeypatch.setattr(module, "HEARTBEAT_EVERY_S", 600.0)
    monkeypatch.setattr(module, "CLOSE_WITHIN_S", 60.0)
    runs = [f"{number:064x}" for number in range(JOBS)]
    store = open_store(server.get_uri(), create=True)
    with store._reading() as connection:
        raw = connection.connection.dbapi_connection
        raw.rollback()
        raw.autocommit = True
        raw.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    store.close()
    server.stop()
    server.start()
    staged(store, *runs)
    claimed_now = store.claim(runs, launcher="local")
    store.close()
    context = multiprocessing.get_context("fork")
    together = context.Barrier(JOBS + 1)

    def job(attempt: Attempt) -> None:
        worker = delivery(server.get_uri())
        together.wait()
        assert worker.begin([attempt], WHO)
        together.wait(200)  # it trains
        worker.end(attempt, replace(RECORD, run_id=attempt.run_id))
        worker.close()

    def reads() -> Generator[int, None, None]:
        """Again and again, the number of stored runs."""
        while True:
            with open_store(server.get_uri(), create=False) as reader:
                stored = list(reader.states(runs).values()).count(State.COMPLETED)
            yield stored

    jobs = [context.Process(target=job, args=(attempt,), daemon=True) for attempt in claimed_now]
    for one in jobs:
        one.start()
    together.wait()
    read = reads()
    seen = [*takewhile(lambda _: together.n_waiting < JOBS, read)]
    idle = connections(server.get_uri())
    while next(idle):  # they train, and soon hold none
        pass
    idle.close()
    together.wait()
    seen += takewhile(lambda _: any(one.is_alive() for one in jobs), read)
    assert len(seen) > 2
    assert [one.exitcode for one in jobs] == [0] * JOBS
    assert next(read) == JOBS
    read.close()
    assert Spool(store.folder).attempts() == []


@pytest.mark.slow
def test_a_server_at_whose_socket_too_many_wait_is_asked_again(server: Any) -> None:
    """A local server that accepts more slowly than processes come: `connect` then fails with EAGAIN at once."""
    folder = Path(server.pgdata)
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    open_store(server.get_uri(), create=True).close()
    goes_on = threading.Timer(1.0, os.kill, (pid, signal.SIGCONT))
    os.kill(pid, signal.SIGSTOP)
    try:
        joined = 0
        while joined == 0:
            with socket.socket(socket.AF_UNIX) as one:  # it keeps its place in the queue
                one.setblocking(False)
                joined = one.connect_ex(str(folder / ".s.PGSQL.5432"))
        assert joined == errno.EAGAIN
        goes_on.start()
        with open_store(server.get_uri(), create=False) as store:
            assert store.states([RUN]) == {}
    finally:
        goes_on.cancel()
        os.kill(pid, signal.SIGCONT)


def connections(uri: str) -> Generator[int, None, None]:
    """Again and again, the number of other connections."""
    import psycopg

    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(uri, autocommit=True) as connection:
        while True:
            row = connection.execute(query).fetchone()
            assert row is not None
            yield row[0]
            time.sleep(0.05)
