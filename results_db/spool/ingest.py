"""Brings into the store what workers left in the spool because the store was away, or out of their reach.

May run twice at once, and again after a crash at any moment: the store takes the same record twice as once.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from results_db.contract import Attempt, State, Store, UnfitError, UnknownRunError, WorkerStore
from results_db.files import Files
from results_db.spool.heartbeats import AliveFiles
from results_db.spool.records import DamagedError, NewerFormatError, Spool, Spooled

_FRESH = timedelta(minutes=2)
"""Heartbeats come every 15 s."""


@dataclass
class Ingested:
    """What became of the spool's files.

    Attributes:
        stored: attempts that the store has now.
        refused: attempts that do not count any more; their files are gone.
        damaged: a line for every file that was set aside.
        left: a line for every file that stays where it is.
    """

    stored: list[Attempt] = field(default_factory=list)
    refused: list[Attempt] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __add__(self, later: "Ingested") -> "Ingested":
        return Ingested(
            self.stored + later.stored,
            self.refused + later.refused,
            self.damaged + later.damaged,
            self.left + later.left,
        )

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """One line, for a person."""
        parts: dict[str, Sequence[object]] = {
            "stored": self.stored,
            "refused as outdated": self.refused,
            "damaged and set aside": self.damaged,
            "left where they are": self.left,
        }
        counts = [f"{len(some)} {what}" for what, some in parts.items() if some]
        return f"spool: {', '.join(counts) or 'empty'}"


def ingest(store: Store) -> Ingested:
    """Take in every sign of life and every record of the spool beside the store, a run's older attempts first.

    Raises:
        StoreError: the store is away; what was not taken in stays.
    """
    spool, found = Spool(store.folder), Ingested()
    Files(store.folder).remove_litter()
    _listen(store)
    for _, attempts in groupby(sorted(spool.attempts()), key=lambda attempt: attempt.run_id):
        entries = [entry for attempt in attempts if (entry := _read(spool, attempt, found)) is not None]
        for entry in entries:
            _take_in(store, spool, entry, newest=entries[-1], found=found)
    return found


def _listen(store: Store) -> None:
    """Take in signs of life. Old ones prove nothing, and must not revive what was given up since."""
    files = AliveFiles(store.folder)
    heard = {one.attempt: one.heartbeat_at for one in store.open_attempts()}
    for alive, written_at in files.read():
        attempt = alive.attempt
        if heard.get(attempt) == written_at or datetime.now(UTC) - written_at > _FRESH:
            continue
        with suppress(UnknownRunError):
            if store.begin(attempt, alive.provenance, at=written_at):
                store.heartbeat(attempt, step=alive.step, progress=alive.progress, at=written_at)
            else:
                files.remove(attempt)


def _read(spool: Spool, attempt: Attempt, found: Ingested) -> Spooled | None:
    """The entry of an attempt. A damaged file is set aside, one that cannot be read now stays."""
    try:
        return spool.read(attempt)
    except FileNotFoundError:
        pass  # somebody else was faster
    except DamagedError as error:
        _set_aside(spool, attempt, error, found)
    except (NewerFormatError, OSError) as error:
        found.left.append(f"{spool.path(attempt)} stays: {error}")
    return None


def _set_aside(spool: Spool, attempt: Attempt, why: object, found: Ingested) -> None:
    path = spool.path(attempt)
    try:
        found.damaged.append(f"{path} is damaged and was moved to {spool.set_aside(attempt)}: {why}")
    except FileNotFoundError:
        pass  # somebody else was faster
    except OSError as error:
        found.left.append(f"{path} is damaged ({why}) and stays: {error}")


def _take_in(store: Store, spool: Spool, entry: Spooled, *, newest: Spooled, found: Ingested) -> None:
    attempt = entry.attempt
    try:
        if entry.state is State.COMPLETED and newest is not entry:
            # Both ended while the store was away: it must hear of the newer before it is offered the older's result.
            store.begin(newest.attempt, newest.provenance)
        counts = bool(deliver(store, entry, ended_at=spool.written_at(attempt)))
        if entry.state is State.COMPLETED:
            _tidy(store, attempt, counts=counts)
        spool.remove(attempt)
        (found.stored if counts else found.refused).append(attempt)
    except FileNotFoundError:
        pass  # somebody else was faster
    except UnfitError as error:
        _set_aside(spool, attempt, error, found)
    except (UnknownRunError, OSError) as error:
        found.left.append(f"{spool.path(attempt)} stays: {error}")


def _tidy(store: Store, attempt: Attempt, *, counts: bool) -> None:
    """Remove what the stored result makes useless, or else the weights of a result that was refused."""
    files = Files(store.folder)
    if counts:
        files.settle(attempt)
        AliveFiles(store.folder).remove(attempt)
    elif not any(
        (one["number"], one["restart"]) == attempt.order and one["state"] == State.COMPLETED
        for one in store.attempts(attempt.run_id)  # its metrics may have been replaced since
    ):
        files.weights(attempt).unlink(missing_ok=True)


def deliver(store: WorkerStore, entry: Spooled, *, ended_at: datetime | None = None) -> bool | None:
    """Tell the store how an attempt ended, and that it began, in case it did not hear of that.

    False if it is refused, None if the store cannot know yet.

    Raises:
        StoreError: the store is away.
        UnfitError: the store will never take it.
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
