"""Which code trained a run, and where: the columns `code` and `host`."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from results_db.contract import State
from results_db.store.newest import trained_by, versions
from results_db.store.sql import SqlStore
from results_db.text import SHORT

if TYPE_CHECKING:  # slow to import
    from results_db.frame import Frame

_UNKNOWN = "unknown"


def with_provenance(store: SqlStore, frame: "Frame") -> "Frame":
    """All runs of the store, `Store.frame`, with the columns `code` and `host`; null until a run is stored."""
    from results_db.frame import Column, column, objects

    found = cache(lambda: trained_by(store))

    def code() -> Column:
        if (
            len(known := versions(store)) == 1
        ):  # then the runs' states say it, which takes a tenth of the time
            stored = np.asarray(frame["state"] == State.COMPLETED, dtype=np.intp)
            return Column(objects([None, version(*known[0])]), stored)
        by = found()
        return column([version(*by[run][:2]) if run in by else None for run in frame["run_id"]])

    def host() -> Column:
        by = found()
        return column([by[run][2] if run in by else None for run in frame["run_id"]])

    return frame.with_column("code", code).with_column("host", host)


@cache
def version(commit: str | None, dirty: bool | None) -> str:
    """The version of the code: the commit, and whether files differed from it."""
    return _UNKNOWN if commit is None else commit[:SHORT] + ("+changes" if dirty else "")
