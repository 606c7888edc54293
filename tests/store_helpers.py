"""A store whose attempts end by way of the spool, for the promises that every way must keep."""

import os
from datetime import datetime
from typing import Any

from results_db.contract import Attempt, Provenance, RunRecord, State, StoreError, UnfitError
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store.sql import SqlStore

WORKER = Provenance("slurm", "n9", "9:9", "gpu", None, None, {})


class UnfitFileError(UnfitError, ValueError):
    """What a store that is asked directly raises as one or the other."""


class ThroughSpool:
    """A store to which `finish` and `end` come as files that are then taken in. All else goes to it directly."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def finish(self, attempt: Attempt, record: RunRecord, *, at: datetime | None = None) -> bool:
        return self._pass(Spooled(attempt, State.COMPLETED, WORKER, 0.0, record), at)

    def end(
        self,
        attempt: Attempt,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        log_tail: str | None = None,
        at: datetime | None = None,
    ) -> bool:
        return self._pass(Spooled(attempt, state, WORKER, 0.0, None, error, exit_code, log_tail), at)

    def _pass(self, entry: Spooled, at: datetime | None) -> bool:
        path = Spool(self._store.folder).write(entry)
        if at is not None:
            os.utime(path, (at.timestamp(), at.timestamp()))
        found = ingest(self._store)
        if found.damaged:
            raise UnfitFileError(found.damaged[0])
        if found.left:
            raise StoreError(found.left[0])
        assert not path.exists()
        assert [*found.stored, *found.refused] == [entry.attempt]
        return entry.attempt in found.stored
