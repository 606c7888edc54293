"""Checks, creates and upgrades the schema of a database.

Alembic is imported only to write a schema; opening a store only reads its version table.
"""

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from results_db.contract import StoreError
from results_db.store.engine import BUSY_TIMEOUT_S, writing

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""Every revision of the schema, oldest first. This version reads and writes the last."""

VERSION_TABLE = "imagine_version"
_ADVISORY_LOCK = 0x1A6E


def is_empty(connection: Connection, *, shown: str) -> bool:
    """Whether the database has no tables. Otherwise they are a store's, with the current schema.

    Raises:
        StoreError: the tables belong to another program, or to an older or newer version.
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
            f"run: imagine-results db upgrade --db {shown}"
        )
    return False


def create(engine: Engine, lock: Path | None, *, shown: str) -> None:
    """Create the tables in an empty database. Of several processes at once, one creates and the others wait.

    Raises:
        StoreError: see `is_empty`.
    """
    with writing(engine, lock) as connection:
        _lock(connection)
        if is_empty(connection, shown=shown):
            _run_alembic(connection)
    if engine.dialect.name == "sqlite" and lock is None:
        _use_write_ahead_log(engine)


def upgrade(engine: Engine, lock: Path | None, *, shown: str) -> tuple[str, str]:
    """Bring an older store to the current schema; returns the revisions before and after.

    Raises:
        StoreError: the database is empty, belongs to another program, or to a newer version.
    """
    with writing(engine, lock) as connection:
        _lock(connection)
        before = _revision(connection, shown=shown)
        if before is None:
            raise StoreError(f"{shown} is empty, so there is nothing to upgrade; a launch creates the store")
        if before not in REVISIONS[:-1]:
            is_empty(connection, shown=shown)
            return before, before
        _run_alembic(connection)
    return before, REVISIONS[-1]


def _revision(connection: Connection, *, shown: str) -> str | None:
    """The database's revision; None if it has no tables."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    revision = None
    if VERSION_TABLE in tables:
        revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if revision is None:
        raise StoreError(
            f"{shown} is another program's database (its tables: {', '.join(sorted(tables)[:5])}); "
            "name another with --db"
        )
    return str(revision)


def _lock(connection: Connection) -> None:
    """Keep other processes from creating or upgrading until the transaction ends. SQLite locks writers itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)  # creating a store is not worth a log line
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _use_write_ahead_log(engine: Engine) -> None:
    """Let readers read during a write. The file remembers this setting, which network file systems do not support."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    with closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:  # this statement ignores SQLite's timeout
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
