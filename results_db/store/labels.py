"""Words that users add to runs: tags, and a note for each run. They change nothing of a result."""

import re
from collections.abc import Collection

from sqlalchemy import delete, insert, select

from results_db.contract import StoreError
from results_db.store import rows, tables
from results_db.store.sql import SqlStore

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]*([.-][A-Za-z0-9_]+)*")
"""What `--where tag=NAME` reads as one word."""

_LONGEST = 64
_RESERVED = ("and", "or", "not", "in", "true", "false", "null")


def check_tag(name: str) -> None:
    """Refuse a tag that a filter could not name.

    Raises:
        StoreError: it is no such word, or too long.
    """
    if not _TAG.fullmatch(name) or len(name) > _LONGEST or name.lower() in _RESERVED:
        raise StoreError(
            f"'{name}' cannot be a tag; give a word of at most {_LONGEST} letters, digits, _, - and ., that begins "
            "with a letter, such as final-2"
        )


def tag(store: SqlStore, run_ids: Collection[str], name: str, *, remove: bool = False) -> list[str]:
    """Give these runs a tag, or `remove` it; returns the ids of those that changed.

    Raises:
        StoreError: see `check_tag`.
        UnknownRunError: a run is not in the store.
    """
    check_tag(name)
    table = tables.tag
    changed = []
    with store._writing() as connection:
        for run_id, run in rows.lock_runs(connection, run_ids).items():
            own = (table.c.run == run.id, table.c.name == name)
            has = connection.scalar(select(table.c.run).where(*own)) is not None
            if has is remove:
                change = delete(table).where(*own) if remove else insert(table).values(run=run.id, name=name)
                connection.execute(change)
                changed.append(run_id)
    return changed


def note(store: SqlStore, run_id: str, text: str) -> None:
    """Set the note of a run; an empty text deletes it.

    Raises:
        UnknownRunError: the run is not in the store.
    """
    with store._writing() as connection:
        rows.set_run(connection, rows.lock_run(connection, run_id).id, note=text.strip() or None)
