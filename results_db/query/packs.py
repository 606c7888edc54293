"""Which runs trained together in one process, from the times of their attempts."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from results_db.contract import BegunAttempt, State, Store

if TYPE_CHECKING:  # slow to import
    import pandas as pd

NOT_YET = datetime.max.replace(tzinfo=UTC)
"""The end of an attempt that is RUNNING."""


def packs(attempts: Iterable[BegunAttempt]) -> list[list[BegunAttempt]]:
    """The attempts that trained together: those of one process whose times overlap. `attempts` come oldest first."""
    found: list[list[BegunAttempt]] = []
    last: dict[tuple[str, str], tuple[list[BegunAttempt], datetime]] = {}
    for one in attempts:
        worker, end = (one.host, one.process), one.ended_at or NOT_YET
        pack, until = last.get(worker, ([], one.started_at))
        if one.started_at >= until:
            pack, until = [], one.started_at
            found.append(pack)
        pack.append(one)
        last[worker] = (pack, max(until, end))
    return found


def with_packs(store: Store, runs: "pd.DataFrame") -> "pd.DataFrame":
    """The COMPLETED ones of these runs that had one attempt, with the columns `pack` (its size), `device` and `rate`.

    `rate` is in training steps per second of all runs of the pack: a run's `seconds` are its share of the pack's time.
    """
    attempts = store.begun_attempts()
    tries = Counter(one.attempt.run_id for one in attempts)
    about = {
        one.attempt.run_id: (len(pack), one.device)
        for pack in packs(attempts)
        for one in pack
        if one.state is State.COMPLETED and tries[one.attempt.run_id] == 1
    }
    if "steps" not in runs.columns:  # no experiment of this store counts them
        runs = runs.iloc[:0].assign(steps=float("nan"))
    chosen = runs[runs["run_id"].isin(about) & runs["steps"].notna() & (runs["seconds"] > 0)]
    sizes, devices = (
        zip(*(about[run_id] for run_id in chosen["run_id"]), strict=True) if len(chosen) else ((), ())
    )
    rate = chosen["steps"] / chosen["seconds"]
    return chosen.assign(pack=list(sizes), device=list(devices), rate=rate)
