"""Where a store is: from the text that names it to a database URL and the folder beside it.

The folder of the SQLite file `X.db` is `X.files`, that of `X.sqlite` is `X.sqlite.files`. IMAGINE_FILES names the
folder of a server's store, on a disk that all workers share; the default is `outputs/HOST-PORT-NAME.files` below the
working directory.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from imagination.schema import nearest
from results_db.contract import StoreError

DEFAULT = "sqlite:///outputs/imagine.db"
DRIVERS = ("sqlite", "postgresql", "sqlite+pysqlite", "postgresql+psycopg")


_PASSWORDS = re.compile(r"(//[^:@/]*:).*(?=@)|((?:ssl)?password=)[^&\s]*", re.IGNORECASE)
"""In a text that need not be a URL: what stands before an @ and after a colon, or after `password=`."""


def _without_password(text: str) -> str:
    return _PASSWORDS.sub(r"\1\2***", text)


def masked(url: URL) -> str:
    """The URL for messages: without the password, which may also be a part of the query."""
    query = {name: "hidden" if "password" in name.lower() else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


@dataclass(frozen=True)
class Address:
    """Where a store is.

    Attributes:
        url: the database URL, password included; a SQLite path in it is absolute.
        shown: the store's name in messages: the file's path, or the URL with its password masked.
        file: the SQLite file; None for a server.
        folder: the folder beside the database.
    """

    url: URL
    shown: str
    file: Path | None
    folder: Path


def locate(db: str | None, *, files: Path | None = None) -> Address:
    """The address of a store: `db`, else IMAGINE_DB, else the default; a URL or a path that ends in .db.

    `files` names another folder than the usual one.

    Raises:
        StoreError: the text is neither of these, or names neither a SQLite file nor a PostgreSQL database.
    """
    found = _locate(db)
    return found if files is None else replace(found, folder=files.absolute())


def _locate(db: str | None) -> Address:
    text, origin = (db, "--db") if db is not None else (os.environ.get("IMAGINE_DB") or DEFAULT, "IMAGINE_DB")
    if "://" not in text:
        if not text.endswith(".db"):
            raise StoreError(
                f"{origin}: '{_without_password(text)}' is neither a URL nor a path that ends in .db, such as {DEFAULT}"
            )
        return _sqlite(URL.create("sqlite", database=text), origin)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(
            f"{origin}: '{_without_password(text)}' is not a database URL, such as {DEFAULT}"
        ) from None
    driver = url.drivername
    if driver not in DRIVERS:
        hint = nearest(driver, DRIVERS)
        raise StoreError(f"{origin}: unknown database '{driver}'{hint}; valid ones: {', '.join(DRIVERS)}")
    return _sqlite(url, origin) if url.get_backend_name() == "sqlite" else _server(url, origin)


def _sqlite(url: URL, origin: str) -> Address:
    if url != URL.create(url.drivername, database=url.database):
        raise StoreError(
            f"{origin}: '{masked(url)}' names more than a file; "
            "write sqlite:///PATH or a path that ends in .db"
        )
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise StoreError(
            f"{origin}: '{masked(url)}' names no file; write sqlite:///PATH or a path that ends in .db"
        )
    given = Path(str(url.database)).expanduser()
    file = Path(os.path.realpath(given))  # a link names the same store: its folder lies beside the file
    return Address(url=url.set(database=str(file)), shown=str(given), file=file, folder=_folder(file))


def _folder(file: Path) -> Path:
    """`X.files` for `X.db`; `X.sqlite.files` for `X.sqlite`, so that the two share none.

    Versions before 0.3 named it `X.files` in any case.
    """
    own, before = file.with_name(f"{file.name}.files"), file.with_suffix(".files")
    if file.suffix == ".db" or (
        before.exists() and not own.exists() and not file.with_suffix(".db").exists()
    ):
        return before
    return own


def _server(url: URL, origin: str) -> Address:
    shown = masked(url)
    if not url.database:
        raise StoreError(f"{origin}: '{shown}' names no database; write {url.drivername}://HOST/NAME")
    url = url.set(drivername="postgresql+psycopg")  # SQLAlchemy 2.0 and 2.1 choose different drivers
    folder = Path(os.environ.get("IMAGINE_FILES") or f"outputs/{_server_name(url)}.files").absolute()
    return Address(url=url, shown=shown, file=None, folder=folder)


def _server_name(url: URL) -> str:
    """`HOST-PORT-NAME` as one file name: two servers may have databases of the same name."""
    query = url.normalized_query
    host = url.host or ",".join(query.get("host", ("localhost",)))
    port = url.port or ",".join(query.get("port", ("5432",)))
    return quote(f"{host}-{port}-{url.database}", safe="")  # the host of a Unix socket is a path
