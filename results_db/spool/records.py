"""Records in the spool: one file per attempt, until the store has it.

A file has two lines of JSON: a head with the checksum of the second line, and the record.
"""

import base64
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from results_db.contract import FAILURES, INTERRUPTED, Attempt, Ending, Provenance, RunRecord
from results_db.files import Files, attempts_of, file_name, write_atomically, written_at
from results_db.spool.plain import read

FORMAT = "imagine-spool"
VERSION = 2
"""Attempts have a nonce since version 2."""

_LONGEST_S = 1e9
"""No attempt and no run lasts 30 years."""


class DamagedError(Exception):
    """A file of the spool does not contain what was written."""


class NewerFormatError(Exception):
    """A newer version of this program wrote the spool file."""


@dataclass(frozen=True)
class Spooled:
    """How an attempt ended.

    Attributes:
        ending: the run's record, or how the attempt ended without a result.
        provenance: what trained it, for a store that does not know that it began.
        lasted_s: seconds from its beginning to its end.
    """

    attempt: Attempt
    ending: RunRecord | Ending
    provenance: Provenance
    lasted_s: float


def encode(entry: Spooled) -> bytes:
    """The content of an entry's file."""
    body = json.dumps(vars(entry), separators=(",", ":"), default=_plain).encode()
    head = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if is_dataclass(value):
        return vars(value)
    raise TypeError(f"a record cannot hold {value!r}")


def decode(data: bytes) -> Spooled:
    """The entry, from the content of its file.

    Raises:
        DamagedError: this is not what `encode` wrote.
        NewerFormatError: a newer version of this program wrote it.
    """
    head, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    try:
        about = read(dict, json.loads(head))
        if about["format"] != FORMAT:
            raise DamagedError(f"its format is {about['format']!r}")
        if read(int, about["version"]) > VERSION:
            raise NewerFormatError(f"it has version {about['version']}, this one reads {VERSION}")
        if hashlib.sha256(body).hexdigest() != about["sha256"]:
            raise DamagedError("its checksum is wrong")
        return _entry(read(dict, json.loads(body)))
    except (ValueError, KeyError, RecursionError) as error:
        raise DamagedError(f"it cannot be read: {error}") from None


def _entry(plain: dict[str, Any]) -> Spooled:
    if "ending" not in plain:  # version 1
        ending = {name: plain.pop(name) for name in ("state", "error", "exit_code", "log_tail")}
        plain["ending"] = plain.pop("record") or ending
    entry: Spooled = read(Spooled, plain)
    for seconds in (entry.lasted_s, entry.ending.seconds if isinstance(entry.ending, RunRecord) else 0):
        if not 0 <= seconds < _LONGEST_S:
            raise ValueError(f"{seconds} s")
    return entry


class Spool:
    """The folder `spool` in a store's folder."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder)
        self.folder = self._files.spool

    def path(self, attempt: Attempt) -> Path:
        """The file of an attempt. Several machines may read it; one writes it, once."""
        return self.folder / file_name(attempt, ".json")

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
            UntrustedError: another user may have written it.
            OSError: it cannot be read now.
            DamagedError: it is not what was written.
            NewerFormatError: a newer version of this program wrote it.
        """
        with self._files.open(self.path(attempt)) as file:
            entry = decode(file.read())
        if entry.attempt != attempt:
            raise DamagedError(f"it belongs to another attempt, {entry.attempt}")
        if isinstance(entry.ending, RunRecord):
            if entry.ending.run_id != attempt.run_id:
                raise DamagedError(f"its record belongs to run {entry.ending.run_id}")
            for name, one in entry.ending.artifacts.items():
                try:
                    self._files.artifact(attempt, name, one.sha256)
                except ValueError as error:
                    raise DamagedError(str(error)) from None
        elif entry.ending.state not in FAILURES | INTERRUPTED:
            raise DamagedError(f"no attempt ends as {entry.ending.state} without a record")
        return entry

    def written_at(self, attempt: Attempt) -> datetime | None:
        """When the attempt's file was written, by the file server's clock; None if there is none.

        The worker's clock may be wrong.
        """
        try:
            return written_at(self.path(attempt).lstat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, attempt: Attempt) -> None:
        """Delete an attempt's file, because the store has or refused its record."""
        with suppress(NotADirectoryError):
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
