"""The store as a worker sees it: every result is in the spool before the store is asked, and the store may be away."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from results_db.contract import (
    Attempt,
    Provenance,
    RunRecord,
    State,
    StoreError,
    UnfitError,
    UnknownRunError,
    WorkerStore,
)
from results_db.spool.ingest import deliver
from results_db.spool.records import Spool, Spooled
from results_db.spool.shared_folder import FolderStore
from results_db.store import open_store
from results_db.store.address import locate
from results_db.store.mounts import on_network

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a worker asks again for a store that is away before it goes on with its next run."""

AWAY_S = 10.0
"""How long a store that was waited for in vain is left alone by runs whose results are safe in the spool."""

_AGAIN_AFTER_S = 0.5


def worker_store(db: str | None, *, scheduled: bool = False) -> "SpooledStore":
    """The store at `db` for a worker. It need not be within reach yet.

    Args:
        db: see `results_db.store.address.locate`.
        scheduled: the worker is a job of a cluster. It does not write a SQLite file that lies on a network file
            system: there it leaves files beside the store, and `ingest` takes them in.

    Raises:
        StoreError: `db` names no store.
    """
    address = locate(db)

    def connect() -> WorkerStore:
        if address.file is not None and not address.file.exists():
            raise StoreError(f"{address.shown} does not exist; a launch creates it")
        if scheduled and address.file is not None and on_network(address.file):
            return FolderStore(address.folder, open_store(db, create=False, read_only=True))
        return open_store(db, create=False)

    return SpooledStore(address.folder, connect)


@dataclass
class _Own:
    """What a worker knows of an attempt of its own."""

    provenance: Provenance
    since: float  # by the monotonic clock
    begun: bool  # the store knows that it began


class SpooledStore:
    """A `WorkerStore` whose results are safe before they are stored, and that lets a worker begin without the store.

    Args:
        folder: `Store.folder`.
        connect: opens the store; called when it is first needed, and again until it succeeds.
    """

    def __init__(self, folder: Path, connect: Callable[[], WorkerStore]) -> None:
        self.folder = folder
        self._spool = Spool(folder)
        self._connect = connect
        self._connected: WorkerStore | None = None
        self._connecting = threading.Lock()
        self._own: dict[Attempt, _Own] = {}
        self._left: list[Attempt] = []
        self._away_until = 0.0  # by the monotonic clock

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows; of none while it is away."""
        try:
            return self._store().states(run_ids)
        except StoreError as error:
            log.warning("%s", error)
            return {}

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Grant the run's next attempt and begin it. None if there is nothing to do.

        Raises:
            StoreError: the store is away, or the run was never staged.
        """
        attempt = self._store().start(run_id, provenance)
        if attempt is not None:
            self._own[attempt] = _Own(provenance, time.monotonic(), begun=True)
        return attempt

    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool | None:
        """A dispatched attempt begins. None if the store is away: then it is taken to count until the store is heard.

        Raises:
            UnknownRunError: the run was never staged.
        """
        own = self._own[attempt] = _Own(provenance, time.monotonic(), begun=False)
        if self._has_result(attempt):
            return False
        return self._asked(lambda store: self._begin(store, attempt, own, at=at))

    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool | None:
        """Say that the attempt is alive. False if the store says that it does not count, None if it is away."""
        own = self._own.get(attempt)

        def beat(store: WorkerStore) -> bool | None:
            if own is not None and not own.begun and self._begin(store, attempt, own) is False:
                return False
            return store.heartbeat(attempt, step=step, progress=progress, at=at)

        return self._asked(beat)

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool | None:
        """COMPLETED. None if the store is away: then the record is safe in the spool.

        Raises:
            StoreError: the store is away and the spool cannot be written.
            OSError: the same.
            UnfitError: the store will never take this record.
        """
        return self._ended(attempt, State.COMPLETED, record=record)

    def end(
        self,
        attempt: Attempt,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
        at: datetime | None = None,
    ) -> bool | None:
        """The attempt ended without a result. None if the store is away: then it is noted in the spool.

        Raises:
            OSError: the store is away and the spool cannot be written.
        """
        return self._ended(attempt, state, error=error, exit_code=exit_code, log_tail=log_tail)

    def close(self) -> None:
        """Give back connections; results that are still in the spool are offered once more."""
        self._catch_up()
        if self._connected is not None:
            self._connected.close()

    def _ended(
        self,
        attempt: Attempt,
        state: State,
        *,
        record: RunRecord | None = None,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
    ) -> bool | None:
        own = self._own[attempt]
        lasted_s = time.monotonic() - own.since
        entry = Spooled(attempt, state, own.provenance, lasted_s, record, error, exit_code, log_tail)
        full: OSError | None = None
        try:
            self._spool.write(entry)
        except OSError as failure:
            log.warning("spool of run %s: %s", attempt.run_id[:10], failure)
            full = failure
        try:
            # All runs of a pack may end at once, with little time left: a store that is away is waited for by one.
            counts = None
            if full is not None or time.monotonic() >= self._away_until:
                counts = self._asked(lambda store: deliver(store, entry), patience_s=PATIENCE_S)
        except (UnfitError, UnknownRunError):
            self._remove(attempt)
            raise
        if counts is not None:
            self._remove(attempt)
            self._catch_up()
        elif full is not None:
            raise full
        else:
            self._left.append(attempt)
        return counts

    def _catch_up(self) -> None:
        """Store what stayed in the spool while the store was away."""
        while self._left:
            attempt = self._left[0]
            try:
                entry = self._spool.read(attempt)
            except FileNotFoundError:
                entry = None  # somebody took it in
            except Exception as error:  # whatever is wrong with it is for `ingest` to say
                log.warning("%s: %s", self._spool.path(attempt), error)
                entry = None
            if entry is not None:
                try:
                    counts = self._asked(partial(deliver, entry=entry))
                except (UnfitError, UnknownRunError) as error:
                    log.warning("%s stays: %s", self._spool.path(attempt), error)
                else:
                    if counts is None:
                        return  # away for the others as well, and each question may take long
                    self._remove(attempt)
            self._left.pop(0)

    def _remove(self, attempt: Attempt) -> None:
        """The store has it. A file that cannot be removed is litter: taken in again, it changes nothing."""
        try:
            self._spool.remove(attempt)
        except OSError as error:
            log.warning("spool of run %s: %s", attempt.run_id[:10], error)

    def _begin(
        self, store: WorkerStore, attempt: Attempt, own: _Own, *, at: datetime | None = None
    ) -> bool | None:
        counts = store.begin(attempt, own.provenance, at=at)
        own.begun = counts is True
        return counts

    def _has_result(self, attempt: Attempt) -> bool:
        """Its job finished it before it was requeued, and the result waits in the spool."""
        for other in self._spool.attempts(attempt.run_id):
            try:
                if other.number == attempt.number and self._spool.read(other).state is State.COMPLETED:
                    return True
            except Exception as error:  # whatever is wrong with it is for `ingest` to say
                log.warning("%s: %s", self._spool.path(other), error)
        return False

    def _asked(self, ask: Callable[[WorkerStore], bool | None], *, patience_s: float = 0.0) -> bool | None:
        """What the store says; None if it stays away."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return ask(self._store())
            except (UnknownRunError, UnfitError):
                raise
            except (StoreError, OSError) as error:
                again = time.monotonic() + _AGAIN_AFTER_S < deadline
                log.warning("%s; %s", error, "again soon" if again else "going on without it")
            if not again:
                if patience_s:
                    self._away_until = time.monotonic() + AWAY_S
                return None
            time.sleep(_AGAIN_AFTER_S)

    def _store(self) -> WorkerStore:
        """The store, opened when it is first needed.

        Raises:
            StoreError: it is away.
        """
        with self._connecting:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected
