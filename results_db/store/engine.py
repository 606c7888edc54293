"""Engines, connections and transactions for both databases. A database error becomes one line for the user."""

import errno
import json
import os
import random
import re
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    OperationalError,
    StatementError,
)
from sqlalchemy.pool import NullPool, StaticPool

from results_db.contract import OtherStoreError, StoreError, UnfitError
from results_db.store import readers, tables
from results_db.store.address import Address, masked
from results_db.store.lock import WAL, lock_file, only_writer
from results_db.store.mounts import on_network
from results_db.text import one_line

BUSY_TIMEOUT_S = 30
"""How long a writer waits for another writer."""

_WAIT = f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}"

_TRY_AGAIN_S = (0.002, 0.02)
"""How long a writer waits between two tries."""

CONNECT_WITHIN_S = 10
"""How long a server may take to accept a connection."""

ANSWER_WITHIN_S = 45
"""How long a server may be silent. One that accepts and never answers knows no limit of its own."""

_FULL = re.compile(
    f"too many (clients|connections)|remaining connection slots|failed: {re.escape(os.strerror(errno.EAGAIN))}"
)
"""What the driver says when a server has no connection left, or when too many wait at its socket; it gives no code."""

_CONNECT_AGAIN_S = (0.05, 0.5)
"""How long to wait, at random, before connecting again to a server that has no connection left."""

_LIMITS = "SET LOCAL lock_timeout = '20s'; SET LOCAL statement_timeout = '30s'"

_WRITE = "results_db_write"
"""Execution option of connections whose transactions write."""

_PATIENT = "results_db_patient"
"""Execution option of connections to a server whose statements may take long."""

_FILE = "file"
"""Where a connection keeps the id of its file."""

_JSON = partial(json.dumps, allow_nan=False, separators=(",", ":"))

_ADVICE = {
    "readonly database": "this user may only read it; name another with --db",
    "unable to open": "name another with --db",
    "malformed": "restore a copy of it, or name another with --db",
}
"""From words in a database's message to what the user can do."""


def make_engine(url: URL, *, read_only: bool = False) -> Engine:
    """An engine for a URL from `results_db.store.address`; see `open_store` for `read_only`.

    Raises:
        StoreError: the URL's driver is not installed, or refuses a part of the URL.
    """
    options: dict[str, Any] = {"json_serializer": _JSON}
    file = (
        Path(str(url.database)) if url.get_backend_name() == "sqlite" and url.database != ":memory:" else None
    )
    if url.database == ":memory:":  # one connection is one database, so all threads share it
        options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    elif url.get_backend_name() == "postgresql":
        if "connect_timeout" not in url.normalized_query:
            options["connect_args"] = {"connect_timeout": CONNECT_WITHIN_S}
        options["poolclass"] = NullPool  # a server has few connections, and a process is mostly silent
    elif file is not None and readers.only_reads(file, read_only=read_only):
        options |= {
            "creator": partial(readers.connect, file, has_log=readers.has_log(file)),
            "poolclass": NullPool,
        }
    elif read_only:
        url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
    try:
        engine = create_engine(url, **options)
    except ArgumentError as error:
        shown = masked(url)
        raise StoreError(f"--db: '{shown}': {one_line(error)}; name another with --db") from None
    except ImportError as error:
        raise StoreError(
            f"--db: {url.drivername} needs the Python package {error.name}; run: pip install 'psycopg[binary]'"
        ) from None
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _connect_to_server)
        event.listen(engine, "begin", _limit)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        if file is not None:
            if "creator" in options:
                event.listen(engine, "connect", partial(readers.note, file))
            event.listen(engine, "connect", partial(_note_file, file))
            event.listen(engine, "checkout", partial(_check_file, file))
    return engine


def _connect_to_server(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """A new connection. A server that has all that it allows soon has one again: a worker's lasts for a moment."""
    deadline = time.monotonic() + CONNECT_WITHIN_S
    while True:
        try:
            return _impatient().connect(*arguments, **options)
        except Exception as error:
            if not _FULL.search(str(error)) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(*_CONNECT_AGAIN_S))


@cache
def _impatient() -> Any:
    """A class of connections that give up after `ANSWER_WITHIN_S`. psycopg is optional, so it is imported late."""
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        patient = False

        def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
            if self.patient:
                return super().wait(gen, *arguments, **options)
            silent = psycopg.OperationalError(f"no answer within {ANSWER_WITHIN_S} s")
            try:
                return super().wait(_limited(gen, silent), *arguments, **options)
            except psycopg.OperationalError as error:
                if error is silent:
                    self.pgconn.finish()
                raise

    return Impatient


def _limit(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.patient = connection.get_execution_options().get(_PATIENT, False)
    if not driver.patient:
        connection.exec_driver_sql(_LIMITS)


def _limited(steps: Any, silent: Exception) -> Generator[Any, Any, Any]:
    """The steps of psycopg's conversation with the server, until it is `silent` for too long."""
    until = time.monotonic() + ANSWER_WITHIN_S
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > until:
                raise silent
            wanted = steps.send(ready)
    except StopIteration as done:
        return done.value


def _file_id(file: Path) -> tuple[int, int] | None:
    """Which file has this path now: its device and inode; None if there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _note_file(file: Path, _connection: Any, record: Any) -> None:
    record.info[_FILE] = _file_id(file)


def _check_file(file: Path, _connection: Any, record: Any, _proxy: Any) -> None:
    """Replace a pooled connection to a file that was replaced: SQLite would go on with the old one, which is lost."""
    if _file_id(file) not in (None, record.info[_FILE]):
        raise DisconnectionError


def _configure(connection: Any, _record: Any) -> None:
    # By default the driver begins transactions late and commits before DDL. None leaves both to `_begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(_WAIT)
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    # If two transactions read first and write later, one of them fails at once, whatever the timeout. A transaction
    # that takes the write lock when it begins only waits.
    if not connection.get_execution_options().get(_WRITE, False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite itself waits longer and longer between its tries, so of many writers the one that has waited longest has
    # the smallest chance, and some give up. Here all have the same.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(*_TRY_AGAIN_S))
    finally:
        connection.exec_driver_sql(_WAIT)


@contextmanager
def writing(engine: Engine, lock: Path | None, *, patient: bool = False) -> Iterator[Connection]:
    """A transaction that waits for other writers as it begins; if it is `patient`, its statements may take long.

    Raises:
        StoreError: `lock`, which comes from `lock_file`, cannot be taken, or was taken over by another process.
    """
    options = {_WRITE: True, _PATIENT: patient}
    with (
        only_writer(lock, timeout_s=BUSY_TIMEOUT_S) as check,
        engine.execution_options(**options).begin() as connection,
    ):
        yield connection
        check()


def journal(connection: Connection) -> str | None:
    """The journal mode of a SQLite file; None for a server."""
    if connection.dialect.name != "sqlite":
        return None
    return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())


def reason(error: DBAPIError) -> str:
    """The database's own message, and what the user can do."""
    message = one_line(error.orig)
    return "; ".join([message, *(advice for words, advice in _ADVICE.items() if words in message)])


class Database:
    """The connections of one store; see `contract.Store` for its attributes. Threads and processes may share it.

    Attributes:
        uuid: the store's own id; empty for a store that does not exist yet.
        group: the group that shares the store; None if it is not shared.
    """

    def __init__(
        self,
        address: Address,
        engine: Engine,
        *,
        uuid: str,
        group: str | None = None,
        journal: str | None = None,
    ) -> None:
        self.uuid = uuid
        self.group = group
        self.url = address.url.render_as_string(hide_password=False)
        self.display_url = address.shown
        self.folder = address.folder
        self._file = address.file
        self._lock = lock_file(address.file, journal)
        self._splits_log = address.file is not None and journal == WAL and on_network(address.file)
        self._engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def exists(self) -> bool:
        """See `contract.Store`."""
        return self._file is None or self._file.exists()

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a server."""
        return self._file

    def may_write(self) -> bool:
        """See `contract.Store`."""
        if not self.uuid:
            return True  # it does not exist yet
        if self._file is not None:
            return not self._splits_log and readers.may_write(self._file, shared=self.group is not None)
        with self._reading() as connection:
            return bool(connection.scalar(select(func.has_table_privilege("attempt", "UPDATE"))))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._unchanged())

    def _writing(self) -> AbstractContextManager[Connection]:
        if not self.exists:
            # SQLite would go on writing the deleted file, which vanishes with the process.
            raise StoreError(f"{self.display_url} does not exist; a launch creates it")
        if self._splits_log:
            raise StoreError(
                f"{self.display_url} was created where its disk belongs to one machine, and here that is a network "
                "file system; write it there, or, while no other process uses it, run here: imagine-results db upgrade"
            )
        return self._transaction(self._committing())

    @contextmanager
    def _unchanged(self) -> Iterator[Connection]:
        """A transaction that reads; see `readers.check`."""
        with self._engine.begin() as connection:
            try:
                yield connection
            finally:
                if self._file is not None:
                    readers.check(self._file, connection.info, shown=self.display_url)

    @contextmanager
    def _committing(self) -> Iterator[Connection]:
        """A transaction that commits only if this is still the store that was opened."""
        with writing(self._engine, self._lock) as connection:
            yield connection
            if self._file is not None and _file_id(self._file) != connection.info.get(_FILE):
                connection.invalidate()  # the next transaction opens the file that is there now
                raise StoreError(
                    f"{self.display_url} was replaced during a write, which was taken back; try again"
                )
            if connection.scalar(select(tables.store.c.uuid)) != self.uuid:
                raise OtherStoreError(
                    f"{self.display_url} is another store than the one that was opened; start again"
                )

    @contextmanager
    def _transaction(self, begun: AbstractContextManager[Connection]) -> Iterator[Connection]:
        try:
            with begun as connection:
                yield connection
        except IntegrityError:  # a bug of this program: keep its traceback
            raise
        except DataError as error:
            raise UnfitError(f"{self.display_url}: {reason(error)}") from error
        except DBAPIError as error:
            raise StoreError(f"{self.display_url}: {reason(error)}") from error
        except (StatementError, ValueError, OverflowError) as error:  # the driver cannot encode a value
            words = one_line(getattr(error, "orig", error))
            raise UnfitError(f"{self.display_url}: {words}") from error
