"""The store as a worker uses it: records are safe before they are stored, and the store may be away."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_helpers import OTHER, RUN, THIRD, WHO, claimed, files, staged

from results_db.contract import Attempt, RunRecord, State, StoreError, UnfitError, UnknownRunError
from results_db.spool import worker_store as spooled
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.spool.shared_folder import FolderStore
from results_db.spool.worker_store import SpooledStore, worker_store
from results_db.store.sql import SqlStore, open_store

RECORD = RunRecord(RUN, "reached", 1.0, {"metric": 0.5})


class Cluster:
    """A store, a worker's view of it, and a switch that takes the store away by renaming its file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "a.db"
        self.store = open_store(str(self.file), create=True)
        self.worker = worker_store(str(self.file), scheduled=True)

    def away(self) -> None:
        self.file.rename(self.file.with_name("away"))

    def back(self) -> None:
        self.file.with_name("away").rename(self.file)

    def begun(self, run_id: str = RUN) -> Attempt:
        """The run's next attempt, claimed, and begun by the worker."""
        attempt = claimed(self.store, run_id)
        self.worker.begin(attempt, WHO)
        return attempt

    @property
    def state(self) -> State:
        return self.store.states([RUN])[RUN]

    @property
    def files(self) -> set[str]:
        return files(self.store)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(spooled, "PATIENCE_S", 0.0)
    return Cluster(tmp_path)


def test_with_the_store_in_reach_nothing_stays_in_the_spool(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    assert cluster.worker.begin(attempt, WHO)
    assert cluster.worker.heartbeat(attempt, step=3, progress={})
    assert cluster.worker.finish(attempt, RECORD)
    assert (cluster.state, cluster.files) == (State.COMPLETED, set())


def test_a_record_is_in_the_spool_before_the_store_is_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = cluster.begun()
    seen: list[RunRecord | None] = []

    def killed(self: SqlStore, attempt: Attempt, record: RunRecord, **_: object) -> bool:
        seen.append(Spool(self.folder).read(attempt).record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SqlStore, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            cluster.worker.finish(attempt, RECORD)
    assert seen == [RECORD]
    assert ingest(cluster.store).stored == [attempt]


def test_a_job_begins_and_ends_without_the_store(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    cluster.away()
    assert cluster.worker.begin(attempt, WHO) is None
    assert cluster.worker.heartbeat(attempt, step=1, progress={}) is None
    assert cluster.worker.states([RUN]) == {}
    assert cluster.worker.finish(attempt, RECORD) is None
    assert cluster.files == {f"spool/{RUN}.1.0.json"}
    cluster.back()
    assert cluster.state is State.PENDING
    assert ingest(cluster.store).stored == [attempt]
    (told,) = cluster.store.attempts(RUN)
    assert (told["state"], told["host"]) == ("COMPLETED", "n1")


def test_of_attempts_that_end_together_only_one_waits_for_a_store_that_is_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends a whole pack, and Slurm does not wait for long."""
    first, second = cluster.begun(), cluster.begun(OTHER)
    cluster.away()
    monkeypatch.setattr(spooled, "PATIENCE_S", 1.2)
    asked: list[float] = []
    monkeypatch.setattr(spooled, "deliver", lambda *_, **__: asked.append(0) or raise_away())
    for attempt in (first, second):
        assert cluster.worker.end(attempt, State.PREEMPTED) is None
    waited_for = len(asked)
    assert waited_for == 3  # at 0, .5 and 1 s, and by the first alone
    cluster.worker.close()
    assert len(asked) == waited_for + 1  # once more, for both
    assert len(cluster.files) == 2


def test_a_record_that_the_store_never_accepts_stays_and_harms_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cluster.begun(OTHER), cluster.begun()
    cluster.away()
    assert cluster.worker.finish(first, replace(RECORD, run_id=OTHER)) is None
    cluster.back()
    real = spooled.deliver

    def unfit(store: SqlStore, entry: Spooled, **options: object) -> bool | None:
        if entry.attempt == first:
            raise UnfitError("never")
        return real(store, entry)

    monkeypatch.setattr(spooled, "deliver", unfit)
    assert cluster.worker.finish(second, RECORD) is True
    cluster.worker.close()
    assert cluster.state is State.COMPLETED
    assert cluster.files == {f"spool/{OTHER}.1.0.json"}


def raise_away() -> bool:
    raise StoreError("away")


def test_the_heartbeat_makes_up_for_a_beginning_without_the_store(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    cluster.away()
    cluster.worker.begin(attempt, WHO)
    cluster.back()
    assert cluster.worker.heartbeat(attempt, step=9, progress={}) is True
    (alive,) = cluster.store.open_attempts()
    assert (alive.state, alive.step, alive.host) == (State.RUNNING, 9, "n1")


def supersede(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.begin(replace(attempt, restart=1), WHO)


def withdraw(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.withdraw([attempt]) == [attempt]


def cancel(cluster: Cluster, attempt: Attempt) -> None:
    assert cluster.store.end(attempt, State.CANCELLED)


@pytest.mark.parametrize("act", [supersede, withdraw, cancel])
def test_an_attempt_that_began_without_the_store_learns_later_that_it_does_not_count(
    cluster: Cluster, act: Callable[[Cluster, Attempt], None]
) -> None:
    attempt = claimed(cluster.store)
    cluster.away()
    assert cluster.worker.begin(attempt, WHO) is None
    cluster.back()
    act(cluster, attempt)
    assert cluster.worker.heartbeat(attempt, step=9, progress={}) is False


def test_an_attempt_that_does_not_count_leaves_nothing(cluster: Cluster) -> None:
    attempt = cluster.begun()
    supersede(cluster, attempt)
    assert cluster.worker.finish(attempt, RECORD) is False
    assert cluster.worker.end(attempt, State.FAILED) is False
    assert cluster.state is State.RUNNING
    assert cluster.files == set()


def test_failures_go_through_the_spool_too(cluster: Cluster) -> None:
    attempt = cluster.begun()
    cluster.away()
    told = {"error": "Traceback", "exit_code": 3, "log_tail": "last"}
    assert cluster.worker.end(attempt, State.FAILED, **told) is None
    cluster.back()
    ingest(cluster.store)
    assert told.items() <= cluster.store.attempts(RUN)[0].items()
    assert cluster.state is State.FAILED


def test_a_store_that_is_back_gets_what_was_left(cluster: Cluster) -> None:
    first, second = cluster.begun(), cluster.begun(OTHER)
    cluster.away()
    assert cluster.worker.finish(first, RECORD) is None
    cluster.back()
    assert cluster.worker.finish(second, replace(RECORD, run_id=OTHER)) is True
    assert cluster.state is State.COMPLETED
    assert cluster.files == set()


@pytest.mark.parametrize("is_back", [True, False])
def test_closing_offers_the_spool_to_the_store_once_more(cluster: Cluster, is_back: bool) -> None:
    attempt = cluster.begun()
    cluster.away()
    assert cluster.worker.finish(attempt, RECORD) is None
    if is_back:
        cluster.back()
    cluster.worker.close()
    assert cluster.files == (set() if is_back else {f"spool/{RUN}.1.0.json"})


def test_a_requeued_job_does_not_repeat_a_run_whose_result_waits(cluster: Cluster) -> None:
    """It finished one run of its pack while the store was away, and was preempted in the next."""
    attempt = claimed(cluster.store)
    cluster.away()
    cluster.worker.begin(attempt, WHO)
    cluster.worker.finish(attempt, RECORD)
    again = worker_store(str(cluster.file), scheduled=True)
    assert again.begin(replace(attempt, restart=1), WHO) is False
    # But a new dispatch makes the old result outdated, and is trained.
    assert again.begin(replace(attempt, number=2), WHO) is None


def test_a_damaged_file_does_not_keep_a_job_from_beginning(cluster: Cluster) -> None:
    attempt = claimed(cluster.store)
    Spool(cluster.store.folder).folder.mkdir(parents=True)
    Spool(cluster.store.folder).path(attempt).write_text("?")
    assert cluster.worker.begin(replace(attempt, restart=1), WHO) is True


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
        cluster.worker.finish(attempt, RECORD)
    cluster.back()
    assert cluster.worker.finish(attempt, RECORD) is True
    assert cluster.state is State.COMPLETED
    assert Spool(cluster.store.folder).attempts() == []  # not even an empty file


def test_a_record_that_the_store_never_accepts_is_an_error(cluster: Cluster) -> None:
    attempt = cluster.begun()
    with pytest.raises(UnfitError, match="Out of range"):
        cluster.worker.finish(attempt, replace(RECORD, traces={"t": ([0], [float("nan")])}))
    assert cluster.files == set()
    with pytest.raises(UnknownRunError):
        cluster.worker.begin(Attempt(THIRD, 1), WHO)


def test_a_locked_store_is_away(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results_db.store.engine.BUSY_TIMEOUT_S", 0.05)
    attempt = claimed(cluster.store)
    other = sqlite3.connect(cluster.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    worker = worker_store(str(cluster.file))
    assert worker.begin(attempt, WHO) is None
    assert worker.finish(attempt, RECORD) is None
    other.execute("ROLLBACK")
    other.close()
    worker.close()
    assert cluster.state is State.COMPLETED
    assert cluster.files == set()


def test_a_worker_waits_for_a_store_that_is_soon_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "PATIENCE_S", 30.0)
    attempt = cluster.begun()
    cluster.away()
    monkeypatch.setattr("results_db.spool.worker_store.time.sleep", lambda _: cluster.back())
    assert cluster.worker.finish(attempt, RECORD) is True
    assert cluster.files == set()


def test_a_local_worker_needs_the_store_to_begin(cluster: Cluster) -> None:
    staged(cluster.store)
    attempt = cluster.worker.start(RUN, WHO)
    assert attempt == Attempt(RUN, 1)
    assert cluster.worker.start(RUN, WHO) is None
    assert cluster.worker.finish(attempt, RECORD) is True
    cluster.away()
    with pytest.raises(StoreError, match="does not exist"):
        worker_store(str(cluster.file)).start(RUN, WHO)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_server_that_restarts(store: SqlStore, postgres: object) -> None:
    """Its connections are lost; the next write notices that and opens new ones."""
    attempt = claimed(store)
    worker = SpooledStore(store.folder, lambda: store)
    worker.begin(attempt, WHO)
    other = open_store(store.url, create=False)
    with other._writing() as connection:
        killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
        connection.exec_driver_sql(killed + "current_database()")
    assert worker.heartbeat(attempt, step=1, progress={}) is True
    other.close()


def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "PATIENCE_S", 0.0)
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "files"))
    worker = worker_store("postgresql://me@127.0.0.1:1/x", scheduled=True)  # no server listens on port 1
    attempt = Attempt(RUN, 1)
    assert worker.begin(attempt, WHO) is None
    assert worker.finish(attempt, RECORD) is None
    assert Spool(tmp_path / "files").attempts() == [attempt]


@pytest.fixture
def on_nfs(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A store in a folder that the mount table calls NFS."""
    (tmp_path / "mountinfo").write_text(f"26 1 0:40 / {tmp_path} rw - nfs server:/x rw\n")
    monkeypatch.setenv("IMAGINE_MOUNTS", str(tmp_path / "mountinfo"))
    cluster.file.unlink()
    return Cluster(tmp_path)


def test_on_nfs_a_job_leaves_its_results_to_ingest(on_nfs: Cluster) -> None:
    attempt = claimed(on_nfs.store)
    before = on_nfs.file.read_bytes()
    assert on_nfs.worker.begin(attempt, WHO) is True
    assert on_nfs.worker.heartbeat(attempt, step=9, progress={"accuracy": 0.5}) is True
    assert on_nfs.files == {f"spool/alive/{RUN}.1.0.json"}
    ingest(on_nfs.store)
    (alive,) = on_nfs.store.open_attempts()
    assert (alive.state, alive.step, alive.progress) == (State.RUNNING, 9, {"accuracy": 0.5})
    written = on_nfs.file.read_bytes()
    assert on_nfs.worker.finish(attempt, RECORD) is None
    on_nfs.worker.close()
    assert on_nfs.file.read_bytes() == written != before  # written by the ingest alone
    assert on_nfs.files == {f"spool/{RUN}.1.0.json"}
    ingest(on_nfs.store)
    assert on_nfs.state is State.COMPLETED
    assert on_nfs.files == set()


def test_on_nfs_an_attempt_learns_from_the_store_that_it_does_not_count(on_nfs: Cluster) -> None:
    attempt = claimed(on_nfs.store)
    assert on_nfs.worker.begin(attempt, WHO) is True
    on_nfs.store.end(attempt, State.LOST)
    assert on_nfs.worker.heartbeat(attempt, step=1, progress={}) is True  # a guess that is wrong
    claimed(on_nfs.store)
    assert on_nfs.worker.heartbeat(attempt, step=1, progress={}) is False
    assert on_nfs.worker.finish(attempt, RECORD) is False
    assert on_nfs.files == set()


@pytest.mark.parametrize("act", [withdraw, cancel])
def test_on_nfs_a_withdrawn_or_cancelled_attempt_does_not_begin(
    on_nfs: Cluster, act: Callable[[Cluster, Attempt], None]
) -> None:
    attempt = claimed(on_nfs.store)
    act(on_nfs, attempt)
    assert on_nfs.worker.begin(attempt, WHO) is False


def test_on_nfs_of_two_copies_the_older_sees_the_newer(on_nfs: Cluster) -> None:
    old = claimed(on_nfs.store)
    assert on_nfs.worker.begin(old, WHO) is True
    assert worker_store(str(on_nfs.file), scheduled=True).begin(replace(old, restart=1), WHO) is True
    assert on_nfs.worker.heartbeat(old, step=1, progress={}) is False
    assert on_nfs.worker.finish(old, RECORD) is False
    assert on_nfs.files == {f"spool/alive/{RUN}.1.1.json"}


def test_on_nfs_only_jobs_do_not_write_the_database(on_nfs: Cluster) -> None:
    attempt = claimed(on_nfs.store)
    with pytest.raises(StoreError, match="is on a network file system, where jobs must not write SQLite"):
        on_nfs.worker.start(RUN, WHO)
    read_only = on_nfs.worker._store()
    assert isinstance(read_only, FolderStore)
    with pytest.raises(StoreError, match="readonly"):
        staged(read_only._database, OTHER)
    here = worker_store(str(on_nfs.file))  # a local launcher's worker
    assert here.begin(attempt, WHO) is True
    assert here.finish(attempt, RECORD) is True
    assert on_nfs.state is State.COMPLETED
