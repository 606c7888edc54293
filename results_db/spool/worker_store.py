"""The store as a worker uses it: records go to the spool first, so the store may be away."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

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
from results_db.text import short

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a worker tries to reach a store that is away before it continues with its next run."""

AWAY_S = 10.0
"""After one run has waited in vain for the store, other runs whose records are safe in the spool skip it for this
long.
"""

_RETRY_AFTER_S = 0.5


def worker_store(db: str | None, *, scheduled: bool = False) -> "SpooledStore":
    """The store for a worker; see `locate` for `db`. It may be away now.

    A `scheduled` worker, which is a job of a cluster, does not write a SQLite file on a network file system. It leaves
    files beside the store, and `ingest` brings them in.

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
    """What a worker knows about one of its attempts."""

    provenance: Provenance
    since: float  # by the monotonic clock
    begun: bool  # whether the store knows that it began


class SpooledStore(WorkerStore):
    """A `WorkerStore` that keeps records in the spool until the store has them.

    While the store is away, attempts begin and continue (None), `states` is empty, and `start` raises `StoreError`.
    `finish` and `end` answer None when the record is safe in the spool; they raise `OSError` if the store is away and
    the spool cannot be written. `connect` opens the store; it is called at the first need, and again until it succeeds.
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

    @override
    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        try:
            return self._store().states(run_ids)
        except StoreError as error:
            log.warning("%s", error)
            return {}

    @override
    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        attempt = self._store().start(run_id, provenance)
        if attempt is not None:
            self._own[attempt] = _Own(provenance, time.monotonic(), begun=True)
        return attempt

    @override
    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool | None:
        own = self._own[attempt] = _Own(provenance, time.monotonic(), begun=False)
        if self._has_result(attempt):
            return False
        return self._ask(lambda store: self._begin(store, attempt, own, at=at))

    @override
    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool | None:
        own = self._own.get(attempt)

        def beat(store: WorkerStore) -> bool | None:
            if own is not None and not own.begun and self._begin(store, attempt, own) is False:
                return False
            return store.heartbeat(attempt, step=step, progress=progress, at=at)

        return self._ask(beat)

    @override
    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool | None:
        return self._deliver(self._entry(attempt, State.COMPLETED, record=record))

    @override
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
        return self._deliver(self._entry(attempt, state, error=error, exit_code=exit_code, log_tail=log_tail))

    @override
    def close(self) -> None:
        """Try once more to deliver the records in the spool, and close the connections."""
        self._catch_up()
        if self._connected is not None:
            self._connected.close()

    def _entry(self, attempt: Attempt, state: State, **details: Any) -> Spooled:
        own = self._own[attempt]
        return Spooled(attempt, state, own.provenance, time.monotonic() - own.since, **details)

    def _deliver(self, entry: Spooled) -> bool | None:
        attempt = entry.attempt
        full: OSError | None = None
        try:
            self._spool.write(entry)
        except OSError as failure:
            log.warning("cannot write the record of run %s: %s", short(attempt.run_id), failure)
            full = failure
        counts = None
        try:
            # All runs of a pack may end at once, with little time left. If the store is away, only one of them waits.
            if full is not None or time.monotonic() >= self._away_until:
                counts = self._ask(lambda store: deliver(store, entry), patience_s=PATIENCE_S)
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
        """Deliver what stayed in the spool while the store was away."""
        while self._left:
            attempt = self._left[0]
            entry = self._read(attempt)
            if entry is not None:
                try:
                    if self._ask(partial(deliver, entry=entry)) is None:
                        return  # the store is away for the other records, too, and each try may take long
                    self._remove(attempt)
                except (UnfitError, UnknownRunError) as error:
                    log.warning("%s stays in the spool: %s", self._spool.path(attempt), error)
            self._left.pop(0)

    def _read(self, attempt: Attempt) -> Spooled | None:
        """The attempt's entry in the spool; None if it is gone or cannot be read, which `ingest` reports."""
        try:
            return self._spool.read(attempt)
        except FileNotFoundError:  # `ingest` delivered it
            return None
        except Exception as error:
            log.warning("cannot read %s: %s", self._spool.path(attempt), error)
            return None

    def _remove(self, attempt: Attempt) -> None:
        """Delete a delivered record. If it cannot be deleted, ingesting it again changes nothing."""
        try:
            self._spool.remove(attempt)
        except OSError as error:
            log.warning("cannot delete the record of run %s: %s", short(attempt.run_id), error)

    def _begin(
        self, store: WorkerStore, attempt: Attempt, own: _Own, *, at: datetime | None = None
    ) -> bool | None:
        counts = store.begin(attempt, own.provenance, at=at)
        own.begun = counts is True
        return counts

    def _has_result(self, attempt: Attempt) -> bool:
        """Whether the spool has a record of this attempt, from before its job was requeued."""
        same = [other for other in self._spool.attempts(attempt.run_id) if other.number == attempt.number]
        return any(entry.state is State.COMPLETED for entry in map(self._read, same) if entry is not None)

    def _ask(self, question: Callable[[WorkerStore], bool | None], *, patience_s: float = 0.0) -> bool | None:
        """The store's answer; None if it stays away for this long."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return question(self._store())
            except (UnknownRunError, UnfitError):
                raise
            except (StoreError, OSError) as error:
                again = time.monotonic() + _RETRY_AFTER_S < deadline
                log.warning("%s; %s", error, "trying again" if again else "continuing without the store")
            if not again:
                if patience_s:
                    self._away_until = time.monotonic() + AWAY_S
                return None
            time.sleep(_RETRY_AFTER_S)

    def _store(self) -> WorkerStore:
        """The store, opened when it is first needed.

        Raises:
            StoreError: it is away.
        """
        with self._connecting:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected
