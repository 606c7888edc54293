"""Heartbeats of jobs that do not write the store: one small file per attempt, replaced at every heartbeat."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from results_db.contract import Attempt, Provenance
from results_db.files import Files, attempts_of, file_name, write_atomically, written_at
from results_db.spool.plain import read
from results_db.spool.records import DamagedError
from results_db.text import short

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heartbeat:
    """An attempt's report that it is alive: what trains it, and its progress."""

    attempt: Attempt
    provenance: Provenance
    step: int
    progress: Mapping[str, float]


class HeartbeatFiles:
    """The folder `spool/alive` in a store's folder."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder)
        self._folder = self._files.spool / "alive"

    def write(self, heartbeat: Heartbeat) -> None:
        """Replace the attempt's file. An error is only logged: the next heartbeat tries again."""
        try:
            write_atomically(self.path(heartbeat.attempt), json.dumps(asdict(heartbeat)).encode())
        except OSError as error:
            log.warning("cannot write the heartbeat of run %s: %s", short(heartbeat.attempt.run_id), error)

    def remove(self, attempt: Attempt) -> None:
        """Delete the files of an attempt that ended, and of older attempts of its run."""
        for other in self.attempts(attempt.run_id):
            if other <= attempt:
                self.path(other).unlink(missing_ok=True)

    def newest(self, run_id: str) -> Attempt | None:
        """The newest attempt of this run that has a file which is believed."""
        return max(filter(self._is_believed, self.attempts(run_id)), default=None)

    def _is_believed(self, attempt: Attempt) -> bool:
        try:
            self.read(attempt)
        except (OSError, DamagedError):
            return False
        return True

    def attempts(self, run_id: str = "") -> list[Attempt]:
        """The attempts that have a file, of one run or of all runs, a run's older attempts first."""
        return attempts_of(self._folder.glob(f"{run_id}*.json"))

    def read(self, attempt: Attempt) -> tuple[Heartbeat, datetime]:
        """An attempt's heartbeat, and the time of its file.

        Raises:
            UntrustedError: another user may have written it.
            OSError: it cannot be read.
            DamagedError: it is not what was written.
        """
        with self._files.open(self.path(attempt)) as file:
            at = written_at(os.fstat(file.fileno()))
            data = file.read()
        try:
            heartbeat: Heartbeat = read(Heartbeat, json.loads(data))
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"it cannot be read: {error}") from None
        if heartbeat.attempt != attempt:
            raise DamagedError(f"it belongs to another attempt, {heartbeat.attempt}")
        return heartbeat, at

    def path(self, attempt: Attempt) -> Path:
        """The file of an attempt."""
        return self._folder / file_name(attempt, ".json")
