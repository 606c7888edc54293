"""Stored runs: the store, its queries, tables and figures.

`with results_db.open("outputs/imagine.db") as store: store.runs()` reads runs into a pandas frame.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results_db.store.sql import SqlStore


def open(db: str | None = None) -> "SqlStore":  # noqa: A001 - reads well as `results_db.open`
    """Open a store to read it. Nothing is created: a missing SQLite file is an empty store.

    Args:
        db: a URL or a path that ends in .db; default: IMAGINE_DB, else `sqlite:///outputs/imagine.db`.

    Raises:
        StoreError: the database cannot be reached, is not a store, or has the schema of another version.
    """
    from results_db.store.sql import open_to_read  # SQLAlchemy is slow to import

    return open_to_read(db)
