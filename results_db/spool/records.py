"""Records on their way to the store: one file per attempt, in the folder beside it, until the store has them.

A file holds two lines of JSON: a head with the checksum of the second, and the record.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results_db.contract import FAILURES, INTERRUPTED, Attempt, Provenance, RunRecord, Sample, State
from results_db.files import Files, write_atomically

FORMAT = "imagine-spool"
VERSION = 1

_NAME = re.compile(r"(?P<run_id>[0-9a-f]+)\.(?P<number>[0-9]+)\.(?P<restart>[0-9]+)\.json")

_ENDED = FAILURES | INTERRUPTED | {State.COMPLETED}


class DamagedError(Exception):
    """A file of the spool that does not hold what was written."""


class NewerFormatError(Exception):
    """A file of the spool that a newer version wrote."""


@dataclass(frozen=True)
class Spooled:
    """How an attempt ended, with all that the store shall know of it.

    Attributes:
        attempt: which.
        state: COMPLETED, or how it ended without a result.
        provenance: who made it, for a store that did not hear it begin.
        lasted_s: seconds from its beginning to its end.
        record: what it leaves behind, if COMPLETED.
        error: see `WorkerStore.end`.
        exit_code: see `WorkerStore.end`.
        log_tail: see `WorkerStore.end`.
    """

    attempt: Attempt
    state: State
    provenance: Provenance
    lasted_s: float
    record: RunRecord | None = None
    error: str | None = None
    exit_code: int | None = None
    log_tail: str | None = None


def encode(entry: Spooled) -> bytes:
    """The file of an entry."""
    plain = {
        **vars(entry),
        "attempt": vars(entry.attempt),
        "provenance": vars(entry.provenance),
        "record": None if entry.record is None else _plain(entry.record),
    }
    body = json.dumps(plain, separators=(",", ":")).encode()
    head = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body + b"\n"


def _plain(record: RunRecord) -> dict[str, Any]:
    samples = {name: base64.b64encode(sample.npz).decode() for name, sample in record.samples.items()}
    return {**vars(record), "samples": samples}


def decode(data: bytes) -> Spooled:
    """The entry of a file.

    Raises:
        DamagedError: it is not what `encode` wrote.
        NewerFormatError: a newer version wrote it.
    """
    head, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    try:
        about = json.loads(head)
        if about["format"] != FORMAT:
            raise DamagedError(f"its format is {about['format']!r}")
        if int(about["version"]) > VERSION:
            raise NewerFormatError(f"it has version {about['version']}, this one reads {VERSION}")
        if hashlib.sha256(body).hexdigest() != about["sha256"]:
            raise DamagedError("its checksum does not fit")
        return _entry(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"it cannot be read: {error}") from None


def _entry(plain: dict[str, Any]) -> Spooled:
    record = plain["record"]
    if record is not None:
        record["samples"] = {name: Sample(base64.b64decode(npz)) for name, npz in record["samples"].items()}
        record["traces"] = {name: (steps, values) for name, (steps, values) in record["traces"].items()}
    given: dict[str, Any] = {
        "attempt": Attempt(**plain["attempt"]),
        "state": State(plain["state"]),
        "provenance": Provenance(**plain["provenance"]),
        "record": None if record is None else RunRecord(**record),
    }
    return Spooled(**{**plain, **given})


class Spool:
    """The folder `spool` beside a store.

    Args:
        folder: `Store.folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Files(folder).spool

    def path(self, attempt: Attempt) -> Path:
        """The file of an attempt; several machines may see it, and one writes it, once."""
        return self.folder / f"{attempt.run_id}.{attempt.number}.{attempt.restart}.json"

    def write(self, entry: Spooled) -> Path:
        """Put an entry there, whole and to stay.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        path = self.path(entry.attempt)
        write_atomically(path, encode(entry))
        return path

    def attempts(self, run_id: str = "") -> list[Attempt]:
        """The attempts that have a file, of one run or of all; a run's oldest first."""
        return in_order(self.folder.glob(f"{run_id}*.json"))

    def read(self, attempt: Attempt) -> Spooled:
        """An attempt's entry.

        Raises:
            FileNotFoundError: somebody else has taken it in.
            OSError: it cannot be read now.
            DamagedError: it is not what was written.
            NewerFormatError: a newer version wrote it.
        """
        entry = decode(self.path(attempt).read_bytes())
        if entry.attempt != attempt:
            raise DamagedError(f"it is of another attempt, {entry.attempt}")
        if entry.record is not None and entry.record.run_id != attempt.run_id:
            raise DamagedError(f"its record is that of run {entry.record.run_id}")
        if (entry.record is None) == (entry.state is State.COMPLETED) or entry.state not in _ENDED:
            raise DamagedError(
                f"nothing ends as {entry.state} {'without' if entry.record is None else 'with'} a record"
            )
        return entry

    def written_at(self, attempt: Attempt) -> datetime:
        """When its file was written, by the file server's clock: a worker's own may be wrong.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        return datetime.fromtimestamp(self.path(attempt).stat().st_mtime, UTC)

    def remove(self, attempt: Attempt) -> None:
        """The store has it, or refused it."""
        self.path(attempt).unlink(missing_ok=True)

    def set_aside(self, attempt: Attempt) -> Path:
        """Move a damaged file to where nobody takes it in, for a person to look at; where it is then.

        Raises:
            OSError: it cannot be moved.
        """
        path = self.path(attempt)
        damaged = path.parent / "damaged" / path.name
        damaged.parent.mkdir(exist_ok=True)
        path.replace(damaged)
        return damaged


def in_order(paths: Iterable[Path]) -> list[Attempt]:
    """The attempts that these files are named by, by (number, restart); files of other names are left out."""
    found = (_NAME.fullmatch(path.name) for path in paths)
    attempts = [Attempt(name["run_id"], int(name["number"]), int(name["restart"])) for name in found if name]
    return sorted(attempts, key=lambda attempt: attempt.order)
