"""A consistent copy of a store's database, made while jobs write."""

import json
import os
import secrets
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from results_db.contract import StoreError
from results_db.store import readers
from results_db.store.address import locate
from results_db.store.engine import BUSY_TIMEOUT_S


def back_up(
    db: str | None,
    target: Path,
    *,
    runs: Collection[str] | None = None,
    samples_of: Collection[str] | None = None,
) -> Path:
    """Copy the database of a SQLite store, its id included; returns the path of the copy.

    Args:
        db: see `open_store`.
        target: the file of the copy.
        runs: the ids of the only runs that are copied. Default: all runs.
        samples_of: the ids of the only runs whose samples are copied; the copy is then made small. Default: all runs.

    Raises:
        StoreError: the store is on a server or does not exist, or the target exists or cannot be written.
    """
    file, shown = check(db, target)
    # Complete under another name first, so that a copy that fails is never taken for one.
    unfinished = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        unfinished.touch(exist_ok=False)
        with (
            closing(_source(file)) as source,
            closing(sqlite3.connect(unfinished)) as copy,
        ):
            source.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
            source.backup(copy)
            if runs is not None:
                _leave(copy, runs)
            if samples_of is not None:
                _shrink(copy, samples_of)
        os.link(unfinished, target)  # unlike a renaming, this replaces no file
    except FileExistsError:
        raise StoreError(f"{target} exists; name another file, or move that one away") from None
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot copy {shown} to {target}: {why}; name another file") from None
    finally:
        for path in unfinished.parent.glob(f"{unfinished.name}*"):
            path.unlink(missing_ok=True)
    return target


def check(db: str | None, target: Path) -> tuple[Path, str]:
    """The file of a SQLite store, and its name in messages, if it can be copied to this target.

    Raises:
        StoreError: the store is on a server or does not exist, or the target exists.
    """
    address = locate(db)
    if address.file is None:
        raise StoreError(
            f"{address.shown} is a PostgreSQL database; copy it with: pg_dump --format=custom --file={target} URL"
        )
    if not address.file.exists():
        raise StoreError(f"no store at {address.shown}; a launch creates it")
    if target.exists():
        raise StoreError(f"{target} exists; name another file, or move that one away")
    return address.file, address.shown


def _leave(copy: sqlite3.Connection, runs: Collection[str]) -> None:
    """Remove all other runs, with everything of theirs, and the launches that then have none."""
    copy.execute("PRAGMA foreign_keys = ON")
    copy.execute(
        "DELETE FROM run WHERE run_id NOT IN (SELECT value FROM json_each(?))", [json.dumps(list(runs))]
    )
    copy.execute("DELETE FROM sweep WHERE id NOT IN (SELECT sweep FROM sweep_run)")
    copy.commit()


def _shrink(copy: sqlite3.Connection, samples_of: Collection[str]) -> None:
    copy.execute(
        "DELETE FROM sample WHERE run NOT IN (SELECT run.id FROM run JOIN json_each(?) ON run.run_id = value)",
        [json.dumps(list(samples_of))],
    )
    copy.commit()
    copy.execute("PRAGMA journal_mode = DELETE")  # reading the copy then leaves no files beside it
    copy.execute("VACUUM")


def _source(file: Path) -> sqlite3.Connection:
    if readers.only_reads(file, read_only=True):
        return readers.connect(file, has_log=readers.has_log(file))
    return sqlite3.connect(file)
