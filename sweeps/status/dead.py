"""Runs whose worker is gone, although the store still records them as RUNNING."""

from jobs.provenance import dead_attempts
from results_db.contract import Store


def dead_runs(store: Store) -> list[str]:
    """Ids of runs that the store records as RUNNING though their worker process is gone."""
    return [attempt.run_id for attempt in dead_attempts(store)]
