"""Records in the spool: one file per attempt, until the store has it.

A file has two lines of JSON: a head with the checksum of the second line, and the record.
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

from results_db.contract import FAILURES, INTERRUPTED, Attempt, Provenance, RunRecord, State
from results_db.files import Files, write_atomically

FORMAT = "imagine-spool"
VERSION = 1

_NAME = re.compile(r"(?P<run_id>[0-9a-f]+)\.(?P<number>[0-9]+)\.(?P<restart>[0-9]+)\.json")

_ENDED = FAILURES | INTERRUPTED | {State.COMPLETED}


class DamagedError(Exception):
    """A spool file does not contain what was written."""


class NewerFormatError(Exception):
    """A newer version of this program wrote the spool file."""


@dataclass(frozen=True)
class Spooled:
    """How an attempt ended.

    Attributes:
        state: COMPLETED, or the state in which it ended without a result.
        provenance: what trained it, for a store that does not know that it began.
        lasted_s: seconds from its beginning to its end.
        record: the run's record, if COMPLETED.
        error, exit_code, log_tail: see `EndedAttempt`.
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
    """The content of an entry's file."""
    body = json.dumps(vars(entry), separators=(",", ":"), default=_plain).encode()
    head = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body + b"\n"


def _plain(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else vars(value)


def decode(data: bytes) -> Spooled:
    """The entry, from the content of its file.

    Raises:
        DamagedError: this is not what `encode` wrote.
        NewerFormatError: a newer version of this program wrote it.
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
            raise DamagedError("its checksum is wrong")
        return _entry(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"it cannot be read: {error}") from None


def _entry(plain: dict[str, Any]) -> Spooled:
    record = plain["record"]
    if record is not None:
        record["samples"] = {name: base64.b64decode(npz) for name, npz in record["samples"].items()}
        record["traces"] = {name: (steps, values) for name, (steps, values) in record["traces"].items()}
    plain["attempt"] = Attempt(**plain["attempt"])
    plain["state"] = State(plain["state"])
    plain["provenance"] = Provenance(**plain["provenance"])
    plain["record"] = None if record is None else RunRecord(**record)
    return Spooled(**plain)


class Spool:
    """The folder `spool` in a store's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Files(folder).spool

    def path(self, attempt: Attempt) -> Path:
        """The file of an attempt. Several machines may read it; one writes it, once."""
        return self.folder / f"{attempt.run_id}.{attempt.number}.{attempt.restart}.json"

    def write(self, entry: Spooled) -> Path:
        """Write an entry so that it survives a crash.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        path = self.path(entry.attempt)
        write_atomically(path, encode(entry))
        return path

    def attempts(self, run_id: str = "") -> list[Attempt]:
        """The attempts that have a file, of one run or of all runs; see `attempts_of` for the order."""
        return attempts_of(self.folder.glob(f"{run_id}*.json"))

    def read(self, attempt: Attempt) -> Spooled:
        """An attempt's entry.

        Raises:
            FileNotFoundError: another process ingested it.
            OSError: it cannot be read now.
            DamagedError: it is not what was written.
            NewerFormatError: a newer version of this program wrote it.
        """
        entry = decode(self.path(attempt).read_bytes())
        if entry.attempt != attempt:
            raise DamagedError(f"it belongs to another attempt, {entry.attempt}")
        if entry.record is not None and entry.record.run_id != attempt.run_id:
            raise DamagedError(f"its record belongs to run {entry.record.run_id}")
        if (entry.record is None) == (entry.state is State.COMPLETED) or entry.state not in _ENDED:
            raise DamagedError(
                f"no attempt ends as {entry.state} {'without' if entry.record is None else 'with'} a record"
            )
        return entry

    def written_at(self, attempt: Attempt) -> datetime:
        """When the attempt's file was written, by the file server's clock. The worker's clock may be wrong.

        Raises:
            FileNotFoundError: another process ingested it.
        """
        return datetime.fromtimestamp(self.path(attempt).stat().st_mtime, UTC)

    def remove(self, attempt: Attempt) -> None:
        """Delete an attempt's file, because the store has or refused its record."""
        self.path(attempt).unlink(missing_ok=True)

    def set_aside(self, attempt: Attempt) -> Path:
        """Move a damaged file to `spool/damaged`, which `ingest` does not read; returns its new path.

        Raises:
            OSError: it cannot be moved.
        """
        path = self.path(attempt)
        damaged = path.parent / "damaged" / path.name
        damaged.parent.mkdir(exist_ok=True)
        path.replace(damaged)
        return damaged


def attempts_of(paths: Iterable[Path]) -> list[Attempt]:
    """The attempts that these file names contain, sorted by run and then oldest first. Other names are skipped."""
    found = (_NAME.fullmatch(path.name) for path in paths)
    return sorted(
        Attempt(name["run_id"], int(name["number"]), int(name["restart"])) for name in found if name
    )
