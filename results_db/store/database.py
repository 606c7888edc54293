"""A store's connections and transactions; errors of the database become one line for a person."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from results_db.contract import StoreError, UnfitError
from results_db.store.address import Address
from results_db.store.engine import WRITE
from results_db.store.lock import lock_file, only_writer
from results_db.text import one_line

_ADVICE = {
    "readonly database": "name another with --db",
    "unable to open": "name another with --db",
    "malformed": "restore a copy of it, or name another with --db",
}
"""From words in a database's message to what a person can do about it."""


def reason(error: DBAPIError) -> str:
    """The database's own words, and what to do about them."""
    words = one_line(error.orig)
    return "; ".join([words, *(advice for part, advice in _ADVICE.items() if part in words)])


class Database:
    """SQLite or PostgreSQL; may be used from several threads and processes at once.

    Attributes:
        url: the SQLAlchemy URL, password included; a SQLite path in it is absolute.
        display_url: how to name the store to a person: its path, or its URL with the password masked.
        folder: the folder beside the store for what does not belong into a database. Not created here.
    """

    def __init__(self, address: Address, engine: Engine) -> None:
        self.url = address.url.render_as_string(hide_password=False)
        self.display_url = address.shown
        self.folder = address.folder
        self._file = address.file
        self._lock = lock_file(address.file)
        self._reader = engine
        self._writer = engine.execution_options(**{WRITE: True})

    def close(self) -> None:
        """Give back connections."""
        self._reader.dispose()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._reader)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._file is not None and not self._file.exists():
            # An open SQLite database goes on in a file that has no name any more, and vanishes with its process.
            raise StoreError(f"{self.display_url} does not exist; a launch creates it")
        with only_writer(self._lock), self._transaction(self._writer) as connection:
            yield connection

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except IntegrityError:  # the mistake is this program's, and its traceback is wanted
            raise
        except DataError as error:
            raise UnfitError(f"{self.display_url}: {reason(error)}") from error
        except DBAPIError as error:
            raise StoreError(f"{self.display_url}: {reason(error)}") from error
        except (
            StatementError,
            ValueError,
        ) as error:  # it did not reach the database: the driver cannot write it
            words = one_line(getattr(error, "orig", error))
            raise UnfitError(f"{self.display_url}: {words}") from error
