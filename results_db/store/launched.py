"""What was launched: the runs of each launch, with the config keys that its command line set."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from results_db.store import tables
from results_db.store.sql import SqlStore


@dataclass
class Launched:
    """The launches of one sweep that set the same config keys.

    Attributes:
        name: the sweep.
        overridden: the keys; null if that is not known.
        run_ids: the runs that they wanted.
    """

    name: str
    overridden: Sequence[str] | None
    run_ids: set[str] = field(default_factory=set)


def launched(store: SqlStore) -> list[Launched]:
    """The launches, by sweep and overridden keys, in the order of the first launch of each."""
    sweep, member, run = tables.sweep, tables.sweep_run, tables.run
    columns = (sweep.c.name, sweep.c.overridden, run.c.run_id)
    query = select(*columns).join(member, member.c.sweep == sweep.c.id).join(run, run.c.id == member.c.run)
    found: dict[tuple[str, tuple[str, ...] | None], Launched] = {}
    with store._reading() as connection:
        for name, own, run_id in connection.execute(
            query.order_by(sweep.c.launched_at, sweep.c.id, run.c.id)
        ):
            keys = None if own is None else tuple(own)
            found.setdefault((name, keys), Launched(name, keys)).run_ids.add(run_id)
    return list(found.values())
