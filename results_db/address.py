"""Where a store is: from what a person wrote to a database URL and the folder beside it."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from results_db.contract import StoreError
from results_db.words import nearest

DEFAULT = "sqlite:///outputs/imagine.db"
DIALECTS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Address:
    """Where a store is.

    Attributes:
        url: the database, password included; a file's path is absolute, so that it holds in any folder.
        shown: how to name it to a person: the file's path, or the URL with its password masked.
        file: the SQLite file; None for a server.
        folder: the folder beside the store.
    """

    url: URL
    shown: str
    file: Path | None
    folder: Path


def locate(db: str | None) -> Address:
    """The address that `--db` names: a URL or a path that ends in .db; else IMAGINE_DB; else the default.

    Raises:
        StoreError: neither a URL nor such a path, or no database that a store can live in.
    """
    text, origin = _given(db)
    if "://" not in text:
        if not text.endswith(".db"):
            raise StoreError(
                f"{origin}: '{text}' is neither a URL nor a path that ends in .db, such as {DEFAULT}"
            )
        return _sqlite(URL.create("sqlite", database=text), origin)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(f"{origin}: '{text}' is not a database URL, such as {DEFAULT}") from None
    dialect = url.get_backend_name()
    if dialect not in DIALECTS:
        hint = nearest(dialect, DIALECTS)
        raise StoreError(f"{origin}: unknown database '{dialect}'{hint}; valid ones: {', '.join(DIALECTS)}")
    return _sqlite(url, origin) if dialect == "sqlite" else _server(url, origin)


def _given(db: str | None) -> tuple[str, str]:
    """The text that names the store, and where it stood."""
    if db is not None:
        return db, "--db"
    return os.environ.get("IMAGINE_DB") or DEFAULT, "IMAGINE_DB"


def _sqlite(url: URL, origin: str) -> Address:
    if url.host:
        raise StoreError(
            f"{origin}: '{url}' names a host; a SQLite URL has three slashes and a path: {DEFAULT}"
        )
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise StoreError(f"{origin}: '{url}' names no file; write sqlite:///PATH or a path that ends in .db")
    given = Path(str(url.database)).expanduser()
    file = given.absolute()
    return Address(
        url=url.set(database=str(file)), shown=str(given), file=file, folder=file.with_suffix(".files")
    )


def _server(url: URL, origin: str) -> Address:
    shown = url.render_as_string(hide_password=True)
    if not url.database:
        raise StoreError(f"{origin}: '{shown}' names no database; write {url.drivername}://HOST/NAME")
    if url.drivername == "postgresql":  # SQLAlchemy 2.0 and 2.1 choose different drivers
        url = url.set(drivername="postgresql+psycopg")
    folder = Path(os.environ.get("IMAGINE_FILES") or f"outputs/{url.database}.files").absolute()
    return Address(url=url, shown=shown, file=None, folder=folder)
