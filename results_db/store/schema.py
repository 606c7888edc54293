"""Checks, creates and upgrades the schema of a database.

Alembic is imported only to write a schema; opening a store only reads its version table.
"""

import logging
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from results_db.contract import StoreError
from results_db.store.engine import BUSY_TIMEOUT_S, journal, writing
from results_db.store.lock import WAL, lock_file, only_writer

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
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


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        shown: the store's name.
        before: its revision before.
        after: its revision now.
        sizes: the bytes of a SQLite file before and after; None if nothing was done to make it smaller.
        lacks: the bytes that the disk must have free to make the file smaller; 0 if it has them.
        on_network: whether writers take turns by the lock from now on.
    """

    shown: str
    before: str
    after: str
    sizes: tuple[int, int] | None = None
    lacks: int = 0
    on_network: bool = False


def create(engine: Engine, lock: Path | None, *, shown: str) -> None:
    """Create the tables in an empty database. Of several processes at once, one creates and the others wait.

    Raises:
        StoreError: see `is_empty`.
    """
    if engine.dialect.name == "sqlite" and lock is None:
        _set_journal(engine, WAL)  # before the tables, so that a file with tables says how it is written
    with writing(engine, lock) as connection:
        _lock(connection)
        if is_empty(connection, shown=shown):
            _run_alembic(connection)


def upgrade(engine: Engine, file: Path | None, *, shown: str) -> Upgraded:
    """Bring an older store to the current schema, and a SQLite file to its disk.

    Raises:
        StoreError: the database is empty, belongs to another program, or to a newer version.
    """
    lock = _one_writer(engine, file)
    with writing(engine, lock, patient=True) as connection:
        _lock(connection)
        before = _revision(connection, shown=shown)
        if before is None:
            raise StoreError(f"{shown} is empty, so there is nothing to upgrade; a launch creates the store")
        older = before in REVISIONS[:-1]
        if older:
            _run_alembic(connection)
        else:
            is_empty(connection, shown=shown)
    done = Upgraded(shown, before, REVISIONS[-1])
    if file is None:
        return done
    with only_writer(lock, timeout_s=BUSY_TIMEOUT_S):
        if lock_file(file) and journal_of(engine) == WAL:
            _set_journal(engine, "DELETE")
            done = replace(done, on_network=True)
        return _compact(engine, file, done) if older else done


def _one_writer(engine: Engine, file: Path | None) -> Path | None:
    """The lock of a SQLite file that is on a network, as the file or this machine says."""
    return lock_file(file) or lock_file(file, journal_of(engine))


def _compact(engine: Engine, file: Path, done: Upgraded) -> Upgraded:
    """Give the room that an upgrade freed back to the disk, if a copy of the file and its log fit beside it."""
    before = file.stat().st_size
    needed = 2 * before
    if shutil.disk_usage(file.parent).free < needed:
        return replace(done, lacks=needed)
    with closing(engine.raw_connection()) as connection:
        try:
            connection.cursor().execute("VACUUM")
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (
            sqlite3.OperationalError
        ):  # another process uses the file, or the folder for temporary files is full
            return done
    return replace(done, sizes=(before, file.stat().st_size))


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


def journal_of(engine: Engine) -> str | None:
    """The journal mode of a SQLite file; None for a server."""
    with engine.connect() as connection:
        return journal(connection)


def _set_journal(engine: Engine, mode: str) -> None:
    """Set the journal mode, which the file remembers.

    With a write-ahead log (WAL) readers read during a write. Network file systems do not support it.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    with closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:  # this statement ignores SQLite's timeout
                if time.monotonic() > deadline:
                    raise OperationalError(None, None, error) from error
                time.sleep(0.02)
