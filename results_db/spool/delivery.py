"""A worker's only way to the store: a thread that brings beginnings, heartbeats and records there.

Training never waits for the store. A record is written to the spool, and the thread delivers it as soon as the store
answers. What it cannot deliver before its process ends, `ingest` delivers later.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from results_db.contract import (
    Attempt,
    Ending,
    Provenance,
    Reply,
    RunRecord,
    Store,
    StoreError,
    UnfitError,
)
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.spool.ingest import deliver
from results_db.spool.records import Spool, Spooled
from results_db.store import open_store
from results_db.store.address import locate
from results_db.store.mounts import on_network
from results_db.store.readers import has_log
from results_db.text import short

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 15.0
"""Also how often a store that is away is asked again."""

BEGIN_WITHIN_S = 10.0
"""How long a worker waits to hear whether its attempts count. Without an answer they do."""

READ_WITHIN_S = 60.0
"""How long a worker waits for the store if its runs build on others."""

CLOSE_WITHIN_S = 10.0
"""How long a worker that is done waits until its last records are delivered."""


def delivery(db: str | None, *, scheduled: bool = False) -> "Delivery":
    """The way to a store, which may be away now; see `locate` for `db`.

    A `scheduled` worker, which is a job of a cluster, does not write a SQLite file on a network file system. Nor does
    it ask one with a write-ahead log, which works on one machine only, whether its attempts count.

    Raises:
        StoreError: `db` names no store.
    """
    address = locate(db)
    file = address.file
    writes = not (scheduled and file is not None and on_network(file))
    asks = writes or file is None or not _has_log(file)
    if not asks:
        log.warning(
            "%s is written on another machine and cannot be asked from here; continuing without",
            address.shown,
        )

    def connect() -> Store:
        if file is not None and not file.exists():
            raise StoreError(f"{address.shown} does not exist; a launch creates it")
        return open_store(db, create=False, read_only=not writes)

    return Delivery(address.folder, connect, writes=writes, asks=asks)


def _has_log(file: Path) -> bool:
    try:
        return has_log(file)
    except StoreError:  # it is away; it is asked later
        return False


@dataclass
class _Own:
    """What a worker knows about one of its attempts.

    Attributes:
        since: when it began, by the monotonic clock.
        asked: whether the store was asked about it, in vain or not.
        reply: the store's last reply.
        over: whether it has ended, or is not to be trained.
    """

    provenance: Provenance
    since: float = field(default_factory=time.monotonic)
    asked: bool = False
    reply: Reply | None = None
    step: int = 0
    progress: Mapping[str, float] = field(default_factory=dict)
    over: bool = False


class Delivery:
    """Brings what a worker has to tell about its attempts to the store.

    Args:
        folder: `Store.folder`.
        connect: opens the store, whenever there is something to tell.
        writes: whether this process may write the database. If not, `connect` opens it read-only, heartbeats are files,
            and `ingest` brings these and the records into the store.
        asks: whether this process may ask the database if its attempts count. If not, they do, unless a heartbeat file
            tells of a newer one.
    """

    def __init__(
        self, folder: Path, connect: Callable[[], Store], *, writes: bool = True, asks: bool = True
    ) -> None:
        self.folder = folder
        self._connect = connect
        self._writes = writes
        self._asks = asks
        self._spool = Spool(folder)
        self._alive = HeartbeatFiles(folder)
        self._own: dict[Attempt, _Own] = {}
        self._left: deque[Attempt] = deque()
        self._changed = threading.Condition()
        self._news = False
        self._beat_at = self._pause_s = 0.0
        self._trouble = ""
        self._until: float | None = None  # None before `close`
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def begin(self, attempts: Iterable[Attempt], provenance: Provenance) -> list[Attempt]:
        """Those of these claimed attempts that this worker should train. See `BEGIN_WITHIN_S`."""
        results = {one: self._result_of(one) for one in attempts}
        mine = {one: _Own(provenance) for one, result in results.items() if result is None}
        with self._changed:
            self._own |= mine
            for result in filter(None, results.values()):  # the job was requeued before it delivered them
                self._own[result] = _Own(provenance, over=True)
                if self._writes:
                    self._left.append(result)
            self._beat_at, self._pause_s = time.monotonic() + 1, 1.0  # soon, so that its step is shown
            self._tell()
            self._changed.wait_for(lambda: all(own.asked for own in mine.values()), BEGIN_WITHIN_S)
            for own in mine.values():
                own.over = own.reply not in (None, Reply.ACCEPTED)
        return [attempt for attempt, own in mine.items() if not own.over]

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """The store, for a worker that looks for what its runs build on. Call it before the training.

        Raises:
            StoreError: it has been away for a minute.
        """
        deadline = time.monotonic() + READ_WITHIN_S
        while True:
            try:
                store = self._connect()
                break
            except StoreError as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s; trying again", error)
                time.sleep(2)
        with closing(store):
            yield store

    def progress(self, attempt: Attempt, *, step: int, values: Mapping[str, float]) -> None:
        """Note the progress of an attempt, for its next heartbeat."""
        own = self._own[attempt]
        own.step, own.progress = step, values

    def superseded(self, attempt: Attempt) -> bool:
        """Whether the store has refused the attempt."""
        return self._own[attempt].reply is Reply.REFUSED

    def end(self, attempt: Attempt, ending: RunRecord | Ending) -> None:
        """Note how an attempt ended, which is then safe in the spool; in the store, if the disk is full.

        Raises:
            OSError: the spool cannot be written, and the store is away.
        """
        own = self._own[attempt]
        own.over = True
        if own.reply is Reply.REFUSED and isinstance(ending, Ending):
            return  # a newer attempt counts, and this one left nothing
        entry = Spooled(attempt, ending, own.provenance, time.monotonic() - own.since)
        try:
            self._spool.write(entry)
        except OSError as full:
            log.warning("cannot write the record of run %s: %s", short(attempt.run_id), full)
            self._deliver_now(entry, full)
            return
        if self._writes:
            with self._changed:
                self._left.append(attempt)
                self._tell()

    def close(self) -> None:
        """Wait until the records are delivered, at most `CLOSE_WITHIN_S`."""
        with self._changed:
            self._until = time.monotonic() + CLOSE_WITHIN_S
            self._tell()
        self._thread.join(CLOSE_WITHIN_S)

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()

    def _run(self) -> None:
        while self._until is None or (self._left and time.monotonic() < self._until):
            with self._changed:
                pause_s = max(self._beat_at - time.monotonic(), 0) if self._until is None else 0.5
                self._changed.wait_for(lambda: self._news, pause_s)
                self._news = False
                own = dict(self._own)
            try:
                self._look({attempt: one for attempt, one in own.items() if not one.over})
                self._trouble = ""
            except Exception as error:  # without this thread nothing would be delivered any more
                if str(error) != self._trouble:
                    unexpected = not isinstance(error, (StoreError, OSError))
                    log.warning("%s; continuing without the store", error, exc_info=unexpected)
                self._trouble = str(error)
            with self._changed:
                for one in own.values():
                    one.asked = True
                self._changed.notify_all()

    def _look(self, trained: Mapping[Attempt, _Own]) -> None:
        """Tells the store what is new, and at times which attempts are alive.

        Raises:
            StoreError: it is away.
        """
        beats = time.monotonic() >= self._beat_at
        if beats:
            self._pause_s = min(2 * self._pause_s or HEARTBEAT_EVERY_S, HEARTBEAT_EVERY_S)
            self._beat_at = time.monotonic() + self._pause_s
        for attempt, own in trained.items():
            if not self._writes and own.reply is not Reply.REFUSED:
                self._beat(attempt, own, due=beats or not own.asked)
        if not self._asks or (not trained and not self._left):
            return
        with closing(self._connect()) as store:  # closed at once: a server has few connections for many jobs
            while self._left:
                self._deliver(store, self._left[0])
                self._left.popleft()
            for attempt, own in trained.items():
                if own.reply is not Reply.REFUSED:
                    self._hear(attempt, own, self._ask(store, attempt, own, beats=beats))

    def _beat(self, attempt: Attempt, own: _Own, *, due: bool) -> None:
        """Writes the file of a heartbeat that is `due`; a newer attempt's file says that this one does not count."""
        if due:
            self._alive.write(Heartbeat(attempt, own.provenance, own.step, own.progress))
        newest = self._alive.newest(attempt.run_id)
        if newest is not None and (newest.number, newest.restart) > (attempt.number, attempt.restart):
            self._hear(attempt, own, Reply.REFUSED)

    def _ask(self, store: Store, attempt: Attempt, own: _Own, *, beats: bool) -> Reply:
        """The store's reply to what there is to tell about a training attempt."""
        if not self._writes:
            return store.standing(attempt)
        reply = own.reply
        if reply is not Reply.ACCEPTED:
            reply = store.begin(attempt, own.provenance)
        if reply is Reply.ACCEPTED and beats:
            reply = store.heartbeat(attempt, step=own.step, progress=own.progress)
        return reply

    def _hear(self, attempt: Attempt, own: _Own, reply: Reply) -> None:
        if own.over:
            return  # it has ended during this heartbeat
        if reply is not own.reply and reply is Reply.UNKNOWN:
            log.warning(
                "run %s: the store did not claim attempt %d, as if the store was replaced; its result will stay in the "
                "spool (imagine-results ingest --adopt)",
                short(attempt.run_id),
                attempt.number,
            )
        if reply is Reply.REFUSED and not self._writes:
            self._alive.remove(attempt)
        own.reply = reply

    def _deliver(self, store: Store, attempt: Attempt) -> None:
        """Delivers a record from the spool.

        Raises:
            StoreError: the store is away.
        """
        try:
            self._own[attempt].reply = deliver(store, self._spool.read(attempt))
        except FileNotFoundError:
            pass  # `ingest` delivered it
        except UnfitError as error:
            with suppress(OSError):  # `ingest` reports it
                log.warning("%s: %s", self._spool.set_aside(attempt), error)
        except StoreError:
            raise
        except Exception as error:  # `ingest` reports it
            log.warning("cannot deliver %s: %s", self._spool.path(attempt), error)

    def _deliver_now(self, entry: Spooled, full: OSError) -> None:
        """Delivers a record that the spool cannot hold.

        Raises:
            OSError: `full`, because the store does not take it.
        """
        try:
            if not self._writes:
                raise full
            with closing(self._connect()) as store:
                self._own[entry.attempt].reply = deliver(store, entry)
        except UnfitError as error:
            log.warning("run %s: %s", short(entry.attempt.run_id), error)
        except StoreError as away:
            raise full from away

    def _result_of(self, attempt: Attempt) -> Attempt | None:
        """The restart of this attempt, from before its job was requeued, whose result is in the spool."""
        for other in self._spool.attempts(attempt.run_id):
            if (other.number, other.nonce) == (attempt.number, attempt.nonce):
                try:
                    if isinstance(self._spool.read(other).ending, RunRecord):
                        return other
                except Exception as error:  # `ingest` reports it
                    log.warning("cannot read %s: %s", self._spool.path(other), error)
        return None
