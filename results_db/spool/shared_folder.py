"""The store for jobs that must not write the database: SQLite on a network file system.

A job reads the database to learn whether its attempt still counts, and writes heartbeats and records to files beside
it. `ingest` brings them into the store.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from results_db.contract import (
    RESTARTABLE,
    Attempt,
    Provenance,
    RunRecord,
    State,
    Store,
    StoreError,
    WorkerStore,
)
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles

log = logging.getLogger(__name__)


class FolderStore(WorkerStore):
    """A `WorkerStore` that only reads the database. An attempt counts until the database or a file says otherwise.

    `finish` and `end` answer None, because `ingest` stores the result later; False if the attempt does not count.
    `database` is opened read-only.
    """

    def __init__(self, folder: Path, database: Store) -> None:
        self.folder = folder
        self._database = database
        self._heartbeats = HeartbeatFiles(folder)
        self._own: dict[Attempt, Provenance] = {}

    @override
    def states(self, run_ids: Iterable[str]) -> dict[str, State]:
        return self._database.states(run_ids)

    @override
    def start(self, run_id: str, provenance: Provenance) -> Attempt | None:
        raise StoreError(
            f"{self._database.display_url} is on a network file system, where jobs must not write SQLite; "
            "submit them with: imagine-sweep launch SPEC launcher=slurm"
        )

    @override
    def begin(self, attempt: Attempt, provenance: Provenance, *, at: datetime | None = None) -> bool:
        self._own[attempt] = provenance
        return self.heartbeat(attempt, step=0, progress={})

    @override
    def heartbeat(
        self, attempt: Attempt, *, step: int, progress: Mapping[str, float], at: datetime | None = None
    ) -> bool:
        counts = self._counts(attempt)
        if counts:
            self._heartbeats.write(Heartbeat(attempt, self._own[attempt], step, progress))
        else:
            self._heartbeats.remove(attempt)
        return counts

    @override
    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool | None:
        return self._over(attempt)

    @override
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
        return self._over(attempt)

    @override
    def close(self) -> None:
        self._database.close()

    def _over(self, attempt: Attempt) -> bool | None:
        self._heartbeats.remove(attempt)
        return None if self._counts(attempt) else False

    def _counts(self, attempt: Attempt) -> bool:
        """False if a newer attempt is known, or this one was withdrawn, cancelled or failed."""
        newest = self._heartbeats.newest(attempt.run_id)
        if newest is not None and newest > attempt:
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
