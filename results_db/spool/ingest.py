"""Brings the spool's records and heartbeats into the store.

It may run twice at once, and again after a crash at any moment: the store accepts a repeated record without a change.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from results_db.contract import (
    Attempt,
    Ending,
    Reply,
    RunRecord,
    State,
    Store,
    UnfitError,
    UnknownRunError,
)
from results_db.files import Files
from results_db.spool.heartbeats import HeartbeatFiles
from results_db.spool.records import DamagedError, NewerFormatError, Spool, Spooled
from results_db.trust import UntrustedError

log = logging.getLogger(__name__)

_FRESH = timedelta(minutes=2)
"""The age up to which a heartbeat counts; workers send one every 15 s."""


@dataclass
class Ingested:
    """What became of the spool's records.

    Attributes:
        stored: attempts whose records are in the store now, or were adopted.
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


def ingest(store: Store, *, adopt: bool = False) -> Ingested:
    """Bring every heartbeat and every record of the store's spool into the store, a run's older attempts first.

    Args:
        store: the store.
        adopt: also store results of attempts that this store did not claim, unless their runs are COMPLETED.

    Raises:
        StoreError: the store cannot be reached; the other records stay in the spool.
    """
    found = Ingested()
    spool = Spool(store.folder)
    Files(store.folder).remove_abandoned()
    _ingest_heartbeats(store, found)
    for _, attempts in groupby(spool.attempts(), key=lambda attempt: attempt.run_id):
        entries = [entry for attempt in attempts if (entry := _read(spool, attempt, found)) is not None]
        for entry in entries:
            if entries[-1] is not entry and isinstance(entry.ending, RunRecord):
                # Both attempts ended while the store was away. The newer one must begin first, so that the store
                # refuses the older result.
                store.begin(entries[-1].attempt, entries[-1].provenance)
            _ingest_record(store, spool, entry, adopt=adopt, found=found)
    return found


def _ingest_heartbeats(store: Store, found: Ingested) -> None:
    """Report fresh heartbeats to the store. An old heartbeat must not revive an attempt that is LOST by now."""
    files = HeartbeatFiles(store.folder)
    known = {one.attempt: one.heartbeat_at for one in store.open_attempts()}
    for attempt in files.attempts():
        try:
            heartbeat, written_at = files.read(attempt)
        except FileNotFoundError:
            continue  # another process removed it
        except UntrustedError as error:
            found.left.append(f"{files.path(attempt)} stays in the spool: {error}")
            continue
        except (OSError, DamagedError) as error:
            log.warning("cannot read %s: %s", files.path(attempt), error)  # the next heartbeat replaces it
            continue
        if known.get(attempt) == written_at or datetime.now(UTC) - written_at > _FRESH:
            continue
        try:
            reply = store.begin(attempt, heartbeat.provenance, at=written_at)
            if reply is Reply.ACCEPTED:
                store.heartbeat(attempt, step=heartbeat.step, progress=heartbeat.progress, at=written_at)
            elif reply is Reply.REFUSED:
                files.remove(attempt)
        except UnfitError as error:
            log.warning("cannot store %s: %s", files.path(attempt), error)


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


def _ingest_record(store: Store, spool: Spool, entry: Spooled, *, adopt: bool, found: Ingested) -> None:
    attempt = entry.attempt
    try:
        reply = deliver(store, entry, adopt=adopt)
    except UnfitError as error:
        _set_aside(spool, attempt, error, found)
    except (UnknownRunError, OSError) as error:
        found.left.append(f"{spool.path(attempt)} stays in the spool: {error}")
    else:
        if reply is Reply.UNKNOWN and isinstance(entry.ending, RunRecord):
            why = "this store did not claim its attempt; imagine-results ingest --adopt stores it"
            found.left.append(f"{spool.path(attempt)} stays in the spool: {why}")
        else:
            (found.stored if reply else found.refused).append(attempt)


def deliver(store: Store, entry: Spooled, *, adopt: bool = False) -> Reply:
    """Tell the store how an attempt ended, and delete the files that are of no use any more.

    The attempt begins first, in case the store does not know that yet. A result stays in the spool if the store did not
    claim its attempt, unless it may `adopt` it.

    Raises:
        StoreError: the store cannot be reached.
        UnknownRunError: the store cannot adopt a result of a run that it does not have.
        UnfitError: the store will never accept the record. The attempt is FAILED.
    """
    attempt, ending, spool = entry.attempt, entry.ending, Spool(store.folder)
    ended_at = spool.written_at(attempt)
    began_at = None if ended_at is None else ended_at - timedelta(seconds=entry.lasted_s)
    reply = store.begin(attempt, entry.provenance, at=began_at)
    if isinstance(ending, Ending):
        reply = store.end(attempt, ending, at=ended_at)
    else:
        try:
            reply = store.finish(attempt, ending, at=ended_at)
        except UnfitError as error:
            store.end(attempt, Ending(State.FAILED, f"its record cannot be stored: {error}"), at=ended_at)
            raise
        if reply is Reply.UNKNOWN and adopt:
            adopted = store.adopt(attempt, ending, entry.provenance, began_at=began_at, at=ended_at)
            reply = Reply.REFUSED if adopted is None else Reply.ACCEPTED
        if reply is Reply.UNKNOWN:
            return reply
    _tidy(store, attempt)
    spool.remove(attempt)
    return reply


def _tidy(store: Store, attempt: Attempt) -> None:
    """Delete what a run's stored result supersedes, or an attempt's weights without a result."""
    files, run_id = Files(store.folder), attempt.run_id
    HeartbeatFiles(store.folder).remove(attempt)
    stored = [one for one in store.attempts(run_id) if one["state"] == State.COMPLETED]
    if stored:
        named = (stored[-1][name] for name in ("number", "restart", "nonce"))
        files.remove_superseded(Attempt(run_id, *named))
    else:
        files.weights(attempt).unlink(missing_ok=True)
