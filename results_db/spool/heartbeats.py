"""Signs of life of jobs that do not write the store: a small file per attempt, replaced at every heartbeat."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from results_db.contract import Attempt, Provenance
from results_db.files import Files, write_atomically
from results_db.spool.records import in_order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alive:
    """What an attempt says of itself: who makes it, and where it stands."""

    attempt: Attempt
    provenance: Provenance
    step: int
    progress: Mapping[str, float]


class AliveFiles:
    """The folder `spool/alive` beside a store.

    Args:
        folder: `Store.folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Files(folder).spool / "alive"

    def write(self, alive: Alive) -> None:
        """Replace the attempt's file. One that cannot be written is a sign of life less, no more."""
        try:
            write_atomically(self._path(alive.attempt), json.dumps(asdict(alive)).encode())
        except OSError as error:
            log.warning("sign of life of run %s: %s", alive.attempt.run_id[:10], error)

    def remove(self, attempt: Attempt) -> None:
        """The attempt is over, and with it every older one of its run."""
        for other in in_order(self._folder.glob(f"{attempt.run_id}.*")):
            if other.order <= attempt.order:
                self._path(other).unlink(missing_ok=True)

    def newest(self, run_id: str) -> Attempt | None:
        """The newest attempt of this run that has a file."""
        attempts = in_order(self._folder.glob(f"{run_id}.*"))
        return attempts[-1] if attempts else None

    def read(self) -> Iterator[tuple[Alive, datetime]]:
        """Every file that can be read, a run's oldest attempts first, and when it was written."""
        for attempt in in_order(self._folder.glob("*.json")):
            path = self._path(attempt)
            try:
                written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                plain = json.loads(path.read_bytes())
                alive = Alive(attempt, Provenance(**plain["provenance"]), plain["step"], plain["progress"])
            except (
                OSError,
                ValueError,
                TypeError,
                KeyError,
            ) as error:  # a new one comes with the next heartbeat
                log.warning("%s: %s", path, error)
                continue
            yield alive, written_at

    def _path(self, attempt: Attempt) -> Path:
        return self._folder / f"{attempt.run_id}.{attempt.number}.{attempt.restart}.json"
