"""Brings the spool's records and heartbeats into the store.

It may run twice at once, and again after a crash at any moment: the store accepts a repeated record without a change.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from results_db.contract import Attempt, State, Store, UnfitError, UnknownRunError, WorkerStore
from results_db.files import Files
from results_db.spool.heartbeats import HeartbeatFiles
from results_db.spool.records import DamagedError, NewerFormatError, Spool, Spooled

_FRESH = timedelta(minutes=2)
"""The age up to which a heartbeat counts; workers send one every 15 s."""


@dataclass
class Ingested:
    """What became of the spool's records.

    Attributes:
        stored: attempts whose records are in the store now.
        refused: attempts that no longer count; their records are deleted.
        damaged: a line for every damaged file, which was set aside.
        left: a line for every file that stays in the spool.
    """

    stored: list[Attempt] = field(default_factory=list)
    refused: list[Attempt] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __add__(self, later: "Ingested") -> "Ingested":
        return Ingested(**{name: some + getattr(later, name) for name, some in vars(self).items()})

    def as_dict(self) -> dict[str, Any]:
        """The value for `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """One line of counts."""
        parts: dict[str, Sequence[object]] = {
            "stored": self.stored,
            "refused as outdated": self.refused,
            "damaged and set aside": self.damaged,
            "left in the spool": self.left,
        }
        counts = [f"{len(some)} {what}" for what, some in parts.items() if some]
        return f"spool: {', '.join(counts) or 'empty'}"


def ingest(store: Store) -> Ingested:
    """Bring every heartbeat and every record of the store's spool into the store, a run's older attempts first.

    Raises:
        StoreError: the store cannot be reached; the other records stay in the spool.
    """
    spool, found = Spool(store.folder), Ingested()
    Files(store.folder).remove_abandoned()
    _ingest_heartbeats(store)
    for _, attempts in groupby(spool.attempts(), key=lambda attempt: attempt.run_id):
        entries = [entry for attempt in attempts if (entry := _read(spool, attempt, found)) is not None]
        for entry in entries:
            _ingest_record(store, spool, entry, newest=entries[-1], found=found)
    return found


def _ingest_heartbeats(store: Store) -> None:
    """Report fresh heartbeats to the store. An old heartbeat must not revive an attempt that is LOST by now."""
    files = HeartbeatFiles(store.folder)
    known = {one.attempt: one.heartbeat_at for one in store.open_attempts()}
    for heartbeat, written_at in files.read():
        attempt = heartbeat.attempt
        if known.get(attempt) == written_at or datetime.now(UTC) - written_at > _FRESH:
            continue
        with suppress(UnknownRunError):
            if store.begin(attempt, heartbeat.provenance, at=written_at):
                store.heartbeat(attempt, step=heartbeat.step, progress=heartbeat.progress, at=written_at)
            else:
                files.remove(attempt)


def _read(spool: Spool, attempt: Attempt, found: Ingested) -> Spooled | None:
    """The entry of an attempt; None if it is damaged, of a newer version or not readable now."""
    try:
        return spool.read(attempt)
    except FileNotFoundError:
        pass  # another process ingested it
    except DamagedError as error:
        _set_aside(spool, attempt, error, found)
    except (NewerFormatError, OSError) as error:
        found.left.append(f"{spool.path(attempt)} stays in the spool: {error}")
    return None


def _set_aside(spool: Spool, attempt: Attempt, why: object, found: Ingested) -> None:
    path = spool.path(attempt)
    try:
        found.damaged.append(f"{path} is damaged and was moved to {spool.set_aside(attempt)}: {why}")
    except FileNotFoundError:
        pass  # another process moved it
    except OSError as error:
        found.left.append(f"{path} is damaged ({why}) and cannot be moved: {error}")


def _ingest_record(store: Store, spool: Spool, entry: Spooled, *, newest: Spooled, found: Ingested) -> None:
    attempt = entry.attempt
    try:
        if entry.state is State.COMPLETED and newest is not entry:
            # Both attempts ended while the store was away. The newer one must begin first, so that the store refuses
            # the older result.
            store.begin(newest.attempt, newest.provenance)
        counts = bool(deliver(store, entry, ended_at=spool.written_at(attempt)))
        if entry.state is State.COMPLETED:
            _tidy(store, attempt, counts=counts)
        spool.remove(attempt)
        (found.stored if counts else found.refused).append(attempt)
    except FileNotFoundError:
        pass  # another process ingested it
    except UnfitError as error:
        _set_aside(spool, attempt, error, found)
    except (UnknownRunError, OSError) as error:
        found.left.append(f"{spool.path(attempt)} stays in the spool: {error}")


def _tidy(store: Store, attempt: Attempt, *, counts: bool) -> None:
    """Delete what the stored result supersedes, or the weights of a refused result."""
    files = Files(store.folder)
    if counts:
        files.remove_superseded(attempt)
        HeartbeatFiles(store.folder).remove(attempt)
        return
    # The store also refuses to repeat a record whose metrics `replace_metrics` has changed. Its weights belong to the
    # stored run, so they stay.
    stored = [one for one in store.attempts(attempt.run_id) if one["state"] == State.COMPLETED]
    if (attempt.number, attempt.restart) not in [(one["number"], one["restart"]) for one in stored]:
        files.weights(attempt).unlink(missing_ok=True)


def deliver(store: WorkerStore, entry: Spooled, *, ended_at: datetime | None = None) -> bool | None:
    """Tell the store how an attempt ended, and first that it began, which the store may not know yet.

    Returns:
        False if the store refuses it; None if the store cannot know yet.

    Raises:
        StoreError: the store cannot be reached.
        UnfitError: the store will never accept the record.
    """
    started_at = None if ended_at is None else ended_at - timedelta(seconds=entry.lasted_s)
    store.begin(entry.attempt, entry.provenance, at=started_at)
    if entry.record is not None:
        return store.finish(entry.attempt, entry.record, at=ended_at)
    return store.end(
        entry.attempt,
        entry.state,
        error=entry.error,
        exit_code=entry.exit_code,
        log_tail=entry.log_tail,
        at=ended_at,
    )
