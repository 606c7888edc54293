"""Engines: how connections and transactions behave, alike on both databases."""

import json
from functools import partial
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from results_db.contract import StoreError
from results_db.text import one_line

BUSY_TIMEOUT_S = 30
"""How long a writer waits for another before it gives up."""

WRITE = "results_db_write"
"""Execution option of engines and connections whose transactions write."""

_JSON = partial(json.dumps, allow_nan=False, separators=(",", ":"))


_SERVER = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""How long to wait for a server (s) and for its answers to arrive (ms): TCP waits a quarter of an hour."""


def make_engine(url: URL, *, read_only: bool = False) -> Engine:
    """An engine for a store; SQLite transactions with the option `WRITE` take the write lock as they begin.

    Args:
        url: from `results_db.store.address`.
        read_only: open a SQLite file so that nothing, not even the repair after a crash, can write it.

    Raises:
        StoreError: the URL's driver is not installed, or refuses a part of the URL.
    """
    options: dict[str, Any] = {"json_serializer": _JSON}
    if url.database == ":memory:":  # one connection is one database, so all threads share it
        options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    elif url.get_backend_name() == "postgresql":
        given = url.normalized_query
        options["connect_args"] = {name: value for name, value in _SERVER.items() if name not in given}
        options["pool_pre_ping"] = True  # a server that was restarted is no error
    elif read_only:
        url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
    try:
        engine = create_engine(url, **options)
    except ArgumentError as error:
        shown = url.render_as_string(hide_password=True)
        raise StoreError(f"--db: '{shown}': {one_line(error)}; name another with --db") from None
    except ImportError as error:
        raise StoreError(
            f"--db: {url.drivername} needs the Python package {error.name}; run: pip install 'psycopg[binary]'"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # The driver would begin transactions late and commit before DDL; with None it leaves both to `_begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes then can meet another of its kind and fail at once, however
    # long the timeout; one that takes the lock first only waits.
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
