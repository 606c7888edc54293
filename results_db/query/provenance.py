"""Which code trained a run, and where: the columns `code` and `host`."""

from functools import cache
from typing import TYPE_CHECKING

from results_db.store.newest import trained_by
from results_db.store.sql import SqlStore
from results_db.text import SHORT

if TYPE_CHECKING:  # slow to import
    from results_db.frame import Column, Frame

_UNKNOWN = "unknown"


def with_provenance(store: SqlStore, frame: "Frame") -> "Frame":
    """All runs of the store, `Store.frame`, with the columns `code` and `host`; null until a run is stored."""
    from results_db.frame import column

    found = cache(lambda: trained_by(store))

    def code() -> "Column":
        by = found()
        return column([version(*by[run][:2]) if run in by else None for run in frame["run_id"]])

    def host() -> "Column":
        by = found()
        return column([by[run][2] if run in by else None for run in frame["run_id"]])

    return frame.with_column("code", code).with_column("host", host)


def version(commit: str | None, dirty: bool | None) -> str:
    """The version of the code: the commit, and whether files differed from it."""
    return _UNKNOWN if commit is None else commit[:SHORT] + ("+changes" if dirty else "")
