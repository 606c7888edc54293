"""Atomic writes, and the paths of the files beside a store."""

import hashlib
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from results_db.contract import Attempt, OtherStoreError, StoreError
from results_db.trust import UntrustedError, is_from, keep_entries, open_believed, open_own

log = logging.getLogger(__name__)

_TAIL_BYTES = 8192

_KINDS = (
    *("artifacts", "assets", "calibrations", "checkpoints", "discarded", "jobs", "logs"),
    *("spool/alive", "spool/damaged", "weights"),
)

_NAME = re.compile(
    r"(?P<run_id>[0-9a-f]+)\.(?P<number>[0-9]+)\.(?P<restart>[0-9]+)(\.(?P<nonce>[0-9a-f]+))?(\.[a-z]+|-.+)"
)

_ARTIFACT = re.compile(r"\w[\w.-]{0,79}(\.safetensors)?(?<!\.tmp)", re.ASCII)
_SHA256 = re.compile("[0-9a-f]{64}")

_LATEST = 2**33
"""A time in the year 2242."""

_ABANDONED_AFTER_S = 3600
"""No writer needs this long for a file, so the writer of an older unfinished file is dead."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a crash at any moment leaves the old file or the new one, complete.

    No other user can write the file; whoever can write its folder can replace it.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name: two hosts may write the same file in a shared folder at once.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new file name survive a power cut, where the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str | None:
    """The SHA-256 of a file's content; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def written_at(about: os.stat_result) -> datetime:
    """When a file was written; its owner may have set the time to anything."""
    return datetime.fromtimestamp(min(max(about.st_mtime, 0), _LATEST), UTC)


def file_name(attempt: Attempt, suffix: str) -> str:
    """The name of an attempt's file: `RUN.NUMBER.RESTART.NONCE` and the suffix."""
    nonce = f".{attempt.nonce}" if attempt.nonce else ""
    return f"{attempt.run_id}.{attempt.number}.{attempt.restart}{nonce}{suffix}"


def attempt_of(path: Path) -> Attempt | None:
    """The attempt that a file's name contains; None for other names."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        return None
    return Attempt(name["run_id"], int(name["number"]), int(name["restart"]), name["nonce"] or "")


def attempts_of(paths: Iterable[Path]) -> list[Attempt]:
    """The attempts that these file names contain, sorted by run and then oldest first. Other names are skipped."""
    return sorted(filter(None, map(attempt_of, paths)))


def own_tail(path: Path | None, count: int = 20) -> str | None:
    """The last lines of a log for the store; None if there is none, or another user may have put it there."""
    with suppress(OSError):
        if path is not None:
            with open_own(path) as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    return None


@dataclass(frozen=True)
class Files:
    """A store's folder, and the paths in it."""

    folder: Path

    def check_writable(self) -> None:
        """Check, before a training, that its weights can be written.

        Raises:
            StoreError: the folder cannot be created or written.
        """
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.folder}, where weights are kept: {error.strerror}; name another store with --db"
            ) from None

    def check_owner(self, uuid: str, *, shown: str, user: int | None = None) -> None:
        """Check that this is the folder of the store with this id, or of none yet, and of this `user` if one is given.

        Raises:
            OtherStoreError: it is another store's, or of a user who could put anything there.
        """
        with suppress(FileNotFoundError):
            if user is not None and not is_from(self.folder.stat(), owner=user, group=None):
                raise OtherStoreError(
                    f"{self.folder} belongs to another user than {shown}; move the folder away, or name another store "
                    "with --db"
                )
        try:
            owner, *_ = self._owner.read_text().split() or [""]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(
                f"cannot read {self._owner}: {error.strerror}; ask the owner of {shown}"
            ) from None
        if owner != uuid:
            raise OtherStoreError(
                f"{self.folder} belongs to another store than {shown}, such as one that was there before; "
                "move the folder away, or name another store with --db"
            )

    def take(self, uuid: str) -> None:
        """Make this the folder of the store with this id, if it is of none yet.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._owner.exists():
            write_atomically(self._owner, f"{uuid}\n".encode())

    def share(self, uuid: str, group: int) -> None:
        """Believe from now on what members of this group write, because the store is shared with it.

        Raises:
            OSError: the folder cannot be written.
        """
        write_atomically(self._owner, f"{uuid}\n{group}\n".encode())

    @property
    def _owner(self) -> Path:
        return self.folder / "store"

    def open(self, path: Path) -> BufferedReader:
        """Open a file in the folder for reading, if it is believed: see `open_believed`.

        Raises:
            UntrustedError: it is not.
            OSError: it cannot be opened.
        """
        owner = self.folder.stat().st_uid
        return open_believed(path, owner=owner, group=self._group(owner))

    def read(self, path: Path) -> bytes:
        """The content of a file in the folder, if it is believed.

        Raises:
            UntrustedError: it is not.
            OSError: it cannot be read.
        """
        with self.open(path) as file:
            return file.read()

    def has(self, path: Path) -> bool:
        """Whether this is a file of the folder that is there and is believed.

        Raises:
            OSError: it is there and cannot be opened.
        """
        try:
            self.open(path).close()
        except (FileNotFoundError, NotADirectoryError, UntrustedError):
            return False
        return True

    def holds(self, path: Path, sha256: str) -> bool:
        """Whether a file of the folder has the content with this digest, and is believed."""
        try:
            with self.open(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False

    def _group(self, owner: int) -> int | None:
        """The number of the group that shares the store; None if no group does."""
        try:
            with open_believed(self._owner, owner=owner) as file:
                _uuid, *group = file.read().split()
        except (OSError, ValueError):
            return None
        return int(group[0]) if group else None

    def make_kinds(self) -> None:
        """Make the folders of all kinds of files, so that no other user makes one in their place.

        Raises:
            OSError: one cannot be made.
        """
        for kind in _KINDS:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def make_folder(self, kind: str, name: str, *, mode: int) -> None:
        """Make the new folder `kind/name` with at most these permissions, and those above it as the umask says.

        If others may write those above, only the owner of an entry may replace it there.

        Raises:
            UntrustedError: the folder `kind` is that of a user who is not trusted.
            OSError: the folder exists, or cannot be made.
        """
        above = self.folder / kind
        above.mkdir(parents=True, exist_ok=True)
        owner = self.folder.stat().st_uid
        if not is_from(above.stat(), owner=owner, group=self._group(owner)):
            raise UntrustedError(
                f"{above} belongs to another user; move it away, or name another store with --db"
            )
        for folder in (self.folder, above):
            keep_entries(folder)
        (above / name).mkdir(mode=mode)

    @property
    def logs(self) -> Path:
        """The folder for logs of local workers."""
        return self.folder / "logs"

    @property
    def spool(self) -> Path:
        """The folder for records that the store does not have yet."""
        return self.folder / "spool"

    def checkpoint(self, attempt: Attempt) -> Path:
        """The checkpoint of an unfinished attempt."""
        return self.folder / "checkpoints" / file_name(attempt, ".safetensors")

    def checkpoints(self, run_id: str) -> list[Path]:
        """The checkpoints of a run's attempts, the newest attempt's first. Versions before 0.3 named no attempt."""
        found = (self.folder / "checkpoints").glob(f"{run_id}.*safetensors")
        return sorted(found, key=lambda path: attempt_of(path) or Attempt(run_id, 0), reverse=True)

    def weights(self, attempt: Attempt) -> Path:
        """The final weights of this attempt.

        The name contains the attempt, so that an attempt whose result the store refuses cannot replace the weights
        that belong to the stored metrics. Versions before 0.3 left out a restart that is 0.
        """
        name = file_name(attempt, "")
        return self.folder / "weights" / f"{name if attempt.nonce else name.removesuffix('.0')}.safetensors"

    def artifact(self, attempt: Attempt, name: str, sha256: str) -> Path:
        """The file of the artifact that this attempt left with this name and content.

        The name contains the content's digest, so that a later artifact of the same name does not replace the one that
        a checkpoint names.

        Raises:
            ValueError: no artifact may have this name, or it is no digest.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        if not _ARTIFACT.fullmatch(name):
            raise ValueError(
                f"artifact '{name}' is not of 1 to 80 letters, digits and _.-, beginning with none of .-"
            )
        return self.folder / "artifacts" / file_name(attempt, f"-{sha256[:8]}-{name}")

    def artifacts(self, attempt: Attempt) -> list[Path]:
        """The files of the artifacts that this attempt left."""
        found = (self.folder / "artifacts").glob(file_name(attempt, "-*"))
        return [path for path in found if path.suffix != ".tmp"]

    def asset(self, sha256: str) -> Path:
        """A file that runs build on, named by the digest of its content."""
        return self.folder / "assets" / sha256

    def name(self, path: Path) -> str:
        """The path as the store keeps it: relative to the folder if it lies inside, so that the folder may move."""
        try:
            return str(path.resolve().relative_to(self.folder.resolve()))
        except ValueError:
            return str(path)

    def find(self, name: str) -> Path:
        """The path that `name` named, wherever the folder is now.

        Versions before 0.3 kept absolute paths. If such a file is gone, it is looked for in this folder.
        """
        path = self.folder / name  # this is `name` itself if it is absolute
        if not Path(name).is_absolute() or path.exists():
            return path
        inside = (self.folder.joinpath(*path.parts[start:]) for start in range(1, len(path.parts)))
        return next((moved for moved in inside if moved.exists()), path)

    @property
    def discarded(self) -> Path:
        """The folder for the results of discarded runs."""
        return self.folder / "discarded"

    def discard_results(self, run_id: str, *, but: Attempt | None = None) -> None:
        """Move a run's weights and artifacts to the folder `discarded`, where no later result supersedes them.

        Those of the attempt `but` stay.
        """
        kept = () if but is None else (self.weights(but), *self.artifacts(but))
        for path in self._results(run_id):
            if path in kept:
                continue
            try:
                self.discarded.mkdir(exist_ok=True)
                path.replace(self.discarded / path.name)
            except OSError as error:
                log.warning("cannot move %s to %s: %s", path, self.discarded, error)

    def remove_abandoned(self) -> None:
        """Delete unfinished files of writers that were killed."""
        for kind in ("spool", "checkpoints", "weights", "artifacts"):
            for path in (self.folder / kind).glob("*.tmp"):
                with suppress(OSError):  # its writer finished it just now, or another user owns it
                    if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                        path.unlink()

    def remove_older_checkpoints(self, attempt: Attempt) -> None:
        """Delete the checkpoints of attempts before this one.

        Raises:
            OSError: one cannot be deleted.
        """
        for path in self.checkpoints(attempt.run_id):
            other = attempt_of(path)
            if other is None or (other.number, other.restart) < (attempt.number, attempt.restart):
                path.unlink(missing_ok=True)

    def remove_superseded(self, stored: Attempt) -> None:
        """Delete what the stored result of this attempt supersedes: checkpoints, and other attempts' weights."""
        kept = self.weights(stored), *self.artifacts(stored)
        others = (path for path in self._results(stored.run_id) if path not in kept)
        for path in (*self.checkpoints(stored.run_id), *others):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot delete %s: %s", path, error)

    def _results(self, run_id: str) -> list[Path]:
        """The files of weights and artifacts of all attempts of a run."""
        return [
            path for kind in ("weights", "artifacts") for path in (self.folder / kind).glob(f"{run_id}.*")
        ]
