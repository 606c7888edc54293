"""Files beside a store that nothing needs any more: what `imagine-results gc` deletes.

A file stays if a stored run, an active one or one that may continue needs it, if a record in the spool may need it, if
the store cannot tell whose it is, or if it changed within the last hour. Then a worker may be about to report it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from results_db.contract import ACTIVE, RESTARTABLE, State
from results_db.files import Files, attempt_of
from results_db.spool.records import Spool
from results_db.store.newest import newest_attempts
from results_db.store.sql import SqlStore

_FRESH_S = 3600
"""A file that changed so recently stays: a worker of which the store does not know may need it."""

_DISPATCH = "dispatch.json"
"""The file of a dispatch that stays: it says where the logs of its jobs are, and what they asked for."""


@dataclass(frozen=True)
class Leftover:
    """A file that nothing needs.

    Attributes:
        kind: `weights`, `artifacts`, `checkpoints`, `spool`, `logs`, `dispatches` or `unfinished`.
        size: in bytes.
    """

    kind: str
    path: Path
    size: int


def leftovers(store: SqlStore) -> list[Leftover]:
    """The files that nothing needs, by kind."""
    needs = _Needs(store)
    checks: dict[str, tuple[Iterable[Path], Callable[[Path], bool]]] = {
        "weights": (needs.files("weights"), needs.has_weights),
        "artifacts": (needs.files("artifacts"), needs.has_artifact),
        "checkpoints": (needs.files("checkpoints"), needs.has_checkpoint),
        "spool": (needs.files("spool"), needs.has_record),
        "logs": (needs.files("logs"), needs.has_log),
        "dispatches": (needs.files("jobs"), needs.has_dispatch),
    }
    return [
        Leftover("unfinished" if path.suffix == ".tmp" else kind, path, size)
        for kind, (paths, is_needed) in checks.items()
        for path in paths
        if (size := _old_size(path)) is not None and (path.suffix == ".tmp" or not is_needed(path))
    ]


def remove(found: Iterable[Leftover]) -> list[str]:
    """Delete these files, and folders that become empty; returns a line for each that could not be deleted."""
    failed = []
    for one in found:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            failed.append(f"cannot delete {one.path}: {error.strerror}")
        with suppress(OSError):  # it is not empty
            if one.kind in ("dispatches", "logs"):
                one.path.parent.rmdir()
    return failed


def _old_size(path: Path) -> int | None:
    """The size of a file that has not changed for a while; None for others, and for links and folders."""
    try:
        about = path.lstat()
    except OSError:  # its owner removed it, or hides it
        return None
    is_old = time.time() - about.st_mtime > _FRESH_S
    return about.st_size if path.is_file() and not path.is_symlink() and is_old else None


class _Needs:
    """What the runs of a store need of the files in its folder."""

    def __init__(self, store: SqlStore) -> None:
        self._files = Files(store.folder)
        self._newest = newest_attempts(store)
        self._records = set(Spool(store.folder).attempts())
        self._local = any(one.job_name is None and one.state in ACTIVE for one in self._newest.values())
        self._weights = {self._files.weights(one.attempt) for one in self._newest.values()}
        self._logs = {
            self._files.find(one.log).resolve() for one in self._newest.values() if one.log is not None
        }
        self._jobs = {one.job_name for one in self._newest.values()}
        self._continuing = {one.job_name for one in self._newest.values() if one.state in RESTARTABLE}
        self._over = {one.job_name for one in store.begun_attempts()} - self._jobs

    def files(self, folder: str) -> Iterator[Path]:
        """All files in a folder of the store, also in folders inside."""
        return (path for path in sorted((self._files.folder / folder).rglob("*")) if not path.is_dir())

    def _is_stored(self, run_id: str) -> bool:
        newest = self._newest.get(run_id)
        return newest is not None and newest.run_state is State.COMPLETED

    def has_weights(self, path: Path) -> bool:
        """Whether a result has these weights, or may have: its attempt is the newest, or its record is in the spool."""
        attempt = attempt_of(path)
        if path in self._weights:
            return True
        if attempt is None:  # as versions before 0.3 named them
            return not self._is_stored(path.name.partition(".")[0])
        return attempt in self._records and not self._is_stored(attempt.run_id)

    def has_artifact(self, path: Path) -> bool:
        """As `has_weights`; or the run may continue from its checkpoint."""
        attempt = attempt_of(path)
        if attempt is None or self.has_weights(self._files.weights(attempt)):
            return True
        checkpoint = self._files.checkpoint(attempt)
        return checkpoint.exists() and self.has_checkpoint(checkpoint)

    def has_checkpoint(self, path: Path) -> bool:
        """Whether the run may continue from it; nothing reads a damaged one."""
        return not path.name.endswith(".damaged") and not self._is_stored(path.name.partition(".")[0])

    def has_record(self, path: Path) -> bool:
        """Whether the record may still be stored, or the attempt that sent this heartbeat may live."""
        attempt = attempt_of(path)
        if attempt is None or not self._is_stored(attempt.run_id):
            return True
        return path.parent == self._files.spool and attempt == self._newest[attempt.run_id].attempt

    def has_log(self, path: Path) -> bool:
        """Whether it is the log of a run's newest attempt. Of a job, all logs of its dispatch are."""
        if path.suffix == ".log":  # of a local worker; Slurm's have other names
            return path.resolve() in self._logs or self._local
        return path.relative_to(self._files.logs).parts[0] not in self._over

    def has_dispatch(self, path: Path) -> bool:
        """Whether a job may read it: one of the dispatch's runs is active, or Slurm may start its job again."""
        name = path.relative_to(self._files.folder / "jobs").parts[0]
        known = name in self._jobs | self._over
        return path.name == _DISPATCH or not known or name in self._continuing


def by_kind(found: Iterable[Leftover]) -> dict[str, tuple[int, int]]:
    """Kind to the number of its files and their size in bytes."""
    counts: dict[str, tuple[int, int]] = {}
    for one in found:
        files, size = counts.get(one.kind, (0, 0))
        counts[one.kind] = (files + 1, size + one.size)
    return counts
