"""A copy of a store to give away: all results, and the files of a few runs."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from results_db.contract import State, StoreError
from results_db.files import Files, write_atomically
from results_db.store.address import locate
from results_db.store.backup import back_up, check
from results_db.store.newest import newest_attempts
from results_db.store.sql import SqlStore


def publish(
    store: SqlStore, target: Path, groups: Iterable[Sequence[str]], *, each: int, runs: Collection[str] | None
) -> list[str]:
    """Copy a SQLite store, but weights, artifacts and samples of only a few runs; returns the ids of these.

    The files come first, so a copy that is interrupted has no database, and copying again completes it.

    Args:
        store: the store.
        target: the file of the copy.
        groups: the run ids of each group, of which the first by id that have weights are copied.
        each: how many runs of a group.
        runs: the ids of the only runs that are copied; None for all.

    Raises:
        StoreError: see `back_up`; or a file cannot be copied.
    """
    check(store.display_url, target)
    source, copy = Files(store.folder), Files(locate(str(target)).folder)
    newest = newest_attempts(store)
    attempts = {run_id: one.attempt for run_id, one in newest.items() if one.state is State.COMPLETED}
    chosen = [
        run_id
        for group in groups
        for run_id in islice(
            (one for one in sorted(group) if one in attempts and source.has(source.weights(attempts[one]))),
            each,
        )
    ]
    copy.check_owner(store.uuid, shown=str(target))
    try:
        for attempt in map(attempts.__getitem__, chosen):
            copy.take(store.uuid)
            for path in (source.weights(attempt), *source.artifacts(attempt)):
                write_atomically(copy.folder / path.relative_to(source.folder), source.read(path))
    except OSError as error:
        raise StoreError(f"cannot copy {error.filename} to {copy.folder}: {error.strerror}") from None
    back_up(store.display_url, target, runs=runs, samples_of=chosen)
    return chosen
