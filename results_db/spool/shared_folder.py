"""The store as a job sees it that must not write it: SQLite on a file system that machines share.

The job reads the database to learn whether it still counts, shows that it is alive in files beside it, and its
results stay in the spool, from where `ingest` takes them all.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from results_db.contract import RESTARTABLE, Attempt, Provenance, RunRecord, State, Store, StoreError
from results_db.spool.heartbeats import Alive, AliveFiles

log = logging.getLogger(__name__)


class FolderStore:
    """A `WorkerStore` that only reads the database. An attempt counts for as long as nothing is known against it.

    Args:
        folder: `Store.folder`.
        database: the store, opened so that it cannot be written.
    """

    def __init__(self, folder: Path, database: Store) -> None:
        self.folder = folder
        self._database = database
        self._alive = AliveFiles(folder)
        self._own: dict[Attempt, Provenance] = {}

    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        """The state of each of these runs that the store knows."""
        return self._database.states(run_ids)

    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        """Nobody can be granted an attempt here.

        Raises:
            StoreError: always.
        """
        raise StoreError(
            f"{self._database.display_url} lies on a network file system, so jobs do not write it; "
            "dispatch them with: imagine-sweep launch SPEC launcher=slurm"
        )

    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool:
        """Show that the attempt is alive. False if it does not count."""
        self._own[attempt] = provenance
        return self.heartbeat(attempt, step=0, progress={})

    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool:
        """Show that the attempt is alive. False if it does not count any more."""
        counts = self._counts(attempt)
        if counts:
            self._alive.write(Alive(attempt, self._own[attempt], step, progress))
        else:
            self._alive.remove(attempt)
        return counts

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool | None:
        """None, since `ingest` is to store the result; False if it does not count."""
        return self._over(attempt)

    def end(
        self,
        attempt: Attempt,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
        at: datetime | None = None,
    ) -> bool | None:
        """None, since `ingest` is to store it; False if the attempt does not count."""
        return self._over(attempt)

    def close(self) -> None:
        """Give back connections."""
        self._database.close()

    def _over(self, attempt: Attempt) -> bool | None:
        self._alive.remove(attempt)
        return None if self._counts(attempt) else False

    def _counts(self, attempt: Attempt) -> bool:
        """False if a newer attempt is known, or this one was withdrawn, cancelled or is at fault."""
        newest = self._alive.newest(attempt.run_id)
        if newest is not None and newest.order > attempt.order:
            return False
        try:
            known = self._database.attempts(attempt.run_id)
            if not known:
                return attempt.run_id not in self._database.states([attempt.run_id])
        except StoreError as error:
            log.warning("%s", error)
            return True
        last = known[-1]
        same = last["number"] == attempt.number and last["restart"] <= attempt.restart
        return same and State(last["state"]) in RESTARTABLE
