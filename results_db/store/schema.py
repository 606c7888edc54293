"""The state of a database: empty, ours, older, newer or not ours; creating and upgrading it.

Alembic is imported only to write a schema; to open a store takes one look at its version table.
"""

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from results_db.contract import StoreError
from results_db.store.engine import BUSY_TIMEOUT_S, WRITE
from results_db.store.lock import lock_file, only_writer

REVISIONS = ("0001", "0002")
"""Every revision of the schema, oldest first; the last is the one that this version reads and writes."""

VERSION_TABLE = "imagine_version"
_ADVISORY_LOCK = 0x1A6E


def is_empty(connection: Connection, *, shown: str) -> bool:
    """Whether the database holds no table yet; if it does, they are ours and of this version.

    Raises:
        StoreError: the tables are not ours, or those of an older or newer version.
    """
    revision = _revision(connection, shown=shown)
    if revision is None:
        return True
    if revision not in REVISIONS:
        raise StoreError(
            f"{shown} was written by a newer version: it has schema {revision}, this version knows up to "
            f"{REVISIONS[-1]}; update imagine-sweep"
        )
    if revision != REVISIONS[-1]:
        raise StoreError(
            f"{shown} has the older schema {revision}, this version needs {REVISIONS[-1]}; "
            "run: imagine-results db upgrade"
        )
    return False


def create(engine: Engine, *, shown: str) -> None:
    """Writes the schema into an empty database; of several processes at once, one does and the others wait.

    Raises:
        StoreError: see `is_empty`.
    """
    with only_writer(_lock_file(engine)), engine.execution_options(**{WRITE: True}).begin() as connection:
        _lock(connection)
        if is_empty(connection, shown=shown):
            _run_alembic(connection)
    _use_write_ahead_log(engine)


def upgrade(engine: Engine, *, shown: str) -> tuple[str, str]:
    """Brings a store of an older version to this one's schema; the revisions before and after.

    Raises:
        StoreError: the database is empty, not ours, or from a newer version.
    """
    with only_writer(_lock_file(engine)), engine.execution_options(**{WRITE: True}).begin() as connection:
        _lock(connection)
        before = _revision(connection, shown=shown)
        if before is None:
            raise StoreError(f"{shown} is empty, so there is nothing to upgrade; a launch creates the store")
        if before not in REVISIONS or before == REVISIONS[-1]:
            is_empty(connection, shown=shown)
            return before, before
        _run_alembic(connection)
    return before, REVISIONS[-1]


def _revision(connection: Connection, *, shown: str) -> str | None:
    """The revision that the database has; None if it is empty."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    rows = (
        connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        if VERSION_TABLE in tables
        else ()
    )
    revision = next((str(row[0]) for row in rows), None)
    if revision is None:
        raise StoreError(
            f"{shown} is a database of something else (its tables: {', '.join(sorted(tables)[:5])}); "
            "name another with --db"
        )
    return revision


def _lock_file(engine: Engine) -> Path | None:
    return lock_file(Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None)


def _lock(connection: Connection) -> None:
    """Until the transaction ends, no other process creates or upgrades. SQLite's `WRITE` does it already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)  # to set up a store is no news
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _use_write_ahead_log(engine: Engine) -> None:
    """Lets readers read while one writes. The file remembers it; machines that share a file cannot share such a log."""
    if engine.dialect.name != "sqlite" or _lock_file(engine) is not None:
        return
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    with closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:  # here SQLite does not wait, whatever its timeout
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
