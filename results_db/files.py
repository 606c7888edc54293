"""Files that are there whole or not at all, and where they lie beside the store."""

import logging
import os
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from results_db.contract import Attempt, StoreError

log = logging.getLogger(__name__)

_TAIL_BYTES = 8192

_LITTER_AFTER_S = 3600
"""Nobody writes a file for that long."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a crash at any moment leaves the old file or the new one, both complete.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: on a shared folder two hosts may write the same file at once.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name in it survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_lines(path: Path, count: int = 20) -> str | None:
    """The last lines of a log, of which only the end is read; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return "\n".join(lines[-count:])


@dataclass(frozen=True)
class Files:
    """The folder beside a store: everything that does not belong into a database.

    Attributes:
        folder: `Store.folder`.
    """

    folder: Path

    def check_writable(self) -> None:
        """Look whether the folder can be made and written, before anything is trained whose weights it could not hold.

        Raises:
            StoreError: it cannot.
        """
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.folder}, where weights are kept: {error.strerror}; name another store with --db"
            ) from None

    def pack(self, pack_id: str) -> Path:
        """What a worker is handed; gone when it is done."""
        return self.folder / "packs" / f"{pack_id}.json"

    @property
    def logs(self) -> Path:
        """Log files of local workers."""
        return self.folder / "logs"

    @property
    def spool(self) -> Path:
        """Records on their way to the store."""
        return self.folder / "spool"

    def checkpoint(self, run_id: str) -> Path:
        """Where an unfinished run goes on from."""
        return self.folder / "checkpoints" / f"{run_id}.safetensors"

    def weights(self, attempt: Attempt) -> Path:
        """Final weights that this attempt ended with.

        Named by the attempt, so that an attempt whose result the store refuses cannot replace the weights that
        belong to the stored metrics.
        """
        restart = f".{attempt.restart}" if attempt.restart else ""
        return self.folder / "weights" / f"{attempt.run_id}.{attempt.number}{restart}.safetensors"

    def remove_litter(self) -> None:
        """Take away halves of files whose writers were killed, and which nobody goes on with."""
        for folder in (self.spool, self.folder / "checkpoints", self.folder / "weights"):
            for path in folder.glob("*.tmp"):
                with suppress(OSError):  # of another writer, who is done, or of another user
                    if time.time() - path.stat().st_mtime > _LITTER_AFTER_S:
                        path.unlink()

    def settle(self, attempt: Attempt) -> None:
        """This attempt's result is stored: the checkpoint goes, and weights of attempts that died before their commit.

        What cannot be removed is litter, no loss.
        """
        kept = self.weights(attempt)
        others = [path for path in kept.parent.glob(f"{attempt.run_id}.*") if path != kept]
        for path in (self.checkpoint(attempt.run_id), *others):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cleaning up after run %s: %s", attempt.run_id[:10], error)
