"""Stores whose attempts end by way of the spool, and processes that act on a store at the same moment."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from results_db.contract import (
    Attempt,
    Ending,
    PlannedRun,
    Provenance,
    Reply,
    RunRecord,
    Store,
    UnfitError,
)
from results_db.spool.delivery import Delivery
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store.sql import SqlStore, open_store

T = TypeVar("T")

RUN, OTHER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
WHO = Provenance(
    launcher="slurm",
    host="n1",
    process="7:1",
    device="gpu",
    git_commit="0abc",
    git_dirty=False,
    versions={"torch": "2.6"},
    job_id="12_3",
    log="/l",
)

every_way = pytest.mark.parametrize("store_url", ["sqlite", "postgresql", "spooled"], indirect=True)
"""Each test three times: on SQLite, on PostgreSQL, and with attempts that end by way of the spool."""


def staged(store: Store, *run_ids: str) -> None:
    """Stage these runs, by default RUN."""
    store.stage([PlannedRun(run_id, {"gol": 3, "lr": 5e-4}) for run_id in run_ids or (RUN,)])


def start(store: Store, run_id: str, by: Provenance) -> Attempt:
    """The next attempt of a staged run, claimed and begun as on this machine."""
    (attempt,) = store.claim([run_id], launcher="local", retry_failed=True)
    assert store.begin(attempt, by)
    return attempt


def started(store: Store, run_id: str = RUN) -> Attempt:
    """The run's next attempt, begun by a local worker."""
    staged(store, run_id)
    return start(store, run_id, WHO)


def bare(attempt: Attempt) -> Attempt:
    """The attempt without its nonce, which is random."""
    return replace(attempt, nonce="")


def claimed(store: Store, run_id: str = RUN, *, job_name: str = "imagine-1", **options: bool) -> Attempt:
    """The run's next attempt, claimed for a job."""
    staged(store, run_id)
    (attempt,) = store.claim([run_id], job_name=job_name, launcher="slurm", **options)
    return attempt


def states(store: Store) -> list[tuple[int, int, str]]:
    """Number, restart and state of RUN's attempts, oldest first."""
    return [(one["number"], one["restart"], str(one["state"])) for one in store.attempts(RUN)]


def files(store: Store) -> set[str]:
    """The files in the store's folder."""
    return {str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()}


class UnfitFileError(UnfitError, ValueError):
    """Raised for what a store that is asked directly refuses with either error."""


class ThroughSpool:
    """A store that gets `finish` and `end` as spool files, which are then ingested. Everything else is direct."""

    def __init__(self, store: SqlStore) -> None:
        self.direct = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.direct, name)

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> Reply:
        return self._pass(attempt, record, at)

    def end(self, attempt: Attempt, ending: Ending, *, at: datetime | None = None) -> Reply:
        return self._pass(attempt, ending, at)

    def _pass(self, attempt: Attempt, ending: RunRecord | Ending, at: datetime | None) -> Reply:
        entry = Spooled(attempt, ending, WHO, 0.0)
        path = Spool(self.direct.folder).write(entry)
        if at is not None:
            os.utime(path, (at.timestamp(), at.timestamp()))
        found = ingest(self.direct)
        if found.damaged:
            raise UnfitFileError(found.damaged[0])
        if found.left:
            path.unlink()
            return Reply.UNKNOWN
        assert not path.exists()
        assert [*found.stored, *found.refused] == [attempt]
        return Reply.ACCEPTED if found.stored else Reply.REFUSED


class Prompt(Delivery):
    """A delivery whose `end` returns when the store has the record."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.folder, lambda: open_store(store.url, create=False))

    def end(self, attempt: Attempt, ending: RunRecord | Ending) -> None:
        super().end(attempt, ending)
        deadline = time.monotonic() + 60
        while self._left:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process lives, and answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def in_threads(act: Callable[[int], T], count: int) -> list[T]:
    """What `act` returns for 0, 1, ... in threads that begin at the same moment."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> T:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


_AT_ONCE = """
import sys, time
from pathlib import Path
from results_db.contract import PlannedRun, Provenance, Reply
from results_db.spool.ingest import ingest
from results_db.store import open_store
from results_db.store.lock import only_writer
go, *args = sys.argv[1:]
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
"""


def at_once(script: str, *arguments: Sequence[object], folder: Path) -> list[str]:
    """What processes print that run this script, with the list `args`, at the same moment.

    Args:
        script: Python code.
        arguments: the arguments of each process.
        folder: a folder for the file that starts them.
    """
    go = folder / "go"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _AT_ONCE + script, str(go), *map(str, each)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    ended = [process.communicate(timeout=120) for process in processes]
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, ended, strict=True)] == [
        (0, "")
    ] * len(processes)
    return [out.strip() for out, _ in ended]
