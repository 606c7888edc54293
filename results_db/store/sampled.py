"""Which runs have samples."""

from sqlalchemy import select

from results_db.store import tables
from results_db.store.sql import SqlStore


def with_samples(store: SqlStore) -> set[str]:
    """The ids of the runs that have samples; in a published store these are few."""
    run, sample = tables.run, tables.sample
    with store._reading() as connection:
        return set(connection.scalars(select(run.c.run_id).join(sample, sample.c.run == run.c.id).distinct()))
