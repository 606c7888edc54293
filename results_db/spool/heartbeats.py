"""Heartbeats of jobs that do not write the store: one small file per attempt, replaced at every heartbeat."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from results_db.contract import Attempt, Provenance
from results_db.files import Files, attempts_of, file_name, write_atomically
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
        self._folder = Files(folder).spool / "alive"

    def write(self, heartbeat: Heartbeat) -> None:
        """Replace the attempt's file. An error is only logged: the next heartbeat tries again."""
        try:
            write_atomically(self.path(heartbeat.attempt), json.dumps(asdict(heartbeat)).encode())
        except OSError as error:
            log.warning("cannot write the heartbeat of run %s: %s", short(heartbeat.attempt.run_id), error)

    def remove(self, attempt: Attempt) -> None:
        """Delete the files of an attempt that ended, and of older attempts of its run."""
        for other in attempts_of(self._folder.glob(f"{attempt.run_id}.*")):
            if other <= attempt:
                self.path(other).unlink(missing_ok=True)

    def newest(self, run_id: str) -> Attempt | None:
        """The newest attempt of this run that has a file."""
        return max(attempts_of(self._folder.glob(f"{run_id}.*")), default=None)

    def read(self) -> Iterator[tuple[Heartbeat, datetime]]:
        """Every readable heartbeat and the time of its file, a run's older attempts first."""
        for attempt in attempts_of(self._folder.glob("*.json")):
            path = self.path(attempt)
            try:
                written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                plain = json.loads(path.read_bytes())
                provenance = Provenance(**plain["provenance"])
                heartbeat = Heartbeat(attempt, provenance, plain["step"], plain["progress"])
            except FileNotFoundError:  # another process removed it
                continue
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("cannot read %s: %s", path, error)  # the next heartbeat replaces the file
            else:
                yield heartbeat, written_at

    def path(self, attempt: Attempt) -> Path:
        """The file of an attempt."""
        return self._folder / file_name(attempt, ".json")
