"""Runs that a launch cannot train yet, because what they build on is not there."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from results_db.contract import ACTIVE, DIVERGED, FAILURES, PlannedRun, State, Store
from results_db.query.gate import completed, passed
from results_db.text import counted, short


def blocked(runs: Sequence[PlannedRun], store: Store, *, waits: bool) -> dict[str, str]:
    """Run id to why a run cannot be trained with these, which are in the order of training.

    Args:
        runs: the runs to train.
        store: the store.
        waits: whether runs can wait for the jobs of earlier launches, as Slurm's jobs do.
    """
    among = {run.run_id for run in runs}
    others = {need for run in runs for need in run.needs.values()} - among
    if not others and not any(run.needs for run in runs):
        return {}
    reasons = _reasons(others, store, waits=waits)
    for run in runs:
        for need in run.needs.values():
            if need in reasons:
                # What needs a blocked run is blocked for the same reason.
                reasons.setdefault(run.run_id, reasons[need])
    return {run_id: why for run_id, why in reasons.items() if run_id in among}


def lines(runs: Mapping[str, str]) -> list[str]:
    """One line for each reason."""
    return [
        f"{counted(count, 'run')} blocked, because {why}" for why, count in Counter(runs.values()).items()
    ]


def _reasons(needed: set[str], store: Store, *, waits: bool) -> dict[str, str]:
    """Why runs cannot build on these runs, by run id."""
    states = store.states(needed)
    queued = {one.attempt.run_id for one in store.open_attempts() if one.job_id} if waits else set()
    below = _below(store) if State.COMPLETED in states.values() else {}
    found = {}
    for run_id in sorted(needed):
        state = states.get(run_id)
        why = below.get(run_id) if state is State.COMPLETED else _why(run_id, state, queued=queued)
        if why is not None:
            found[run_id] = f"run {short(run_id)}, which they need, {why}"
    return found


def _below(store: Store) -> dict[str, str]:
    """The stored runs that are not kept, and why."""
    runs = completed(store.frame())
    lost = runs[~passed(runs)]
    return {
        str(run_id): DIVERGED if outcome == DIVERGED else f"is below its gate {gate}"
        for run_id, outcome, gate in zip(lost["run_id"], lost["outcome"], lost["gate"], strict=True)
    }


def _why(run_id: str, state: State | None, *, queued: Collection[str]) -> str | None:
    """Why runs cannot build on a run in this state, if it is not COMPLETED."""
    if state is None:
        return "is not in the store"
    if state in FAILURES:
        return f"{state.lower().replace('_', ' ')}; imagine-sweep retry trains it again"
    if state in ACTIVE:
        return None if run_id in queued else "is trained by another launch; launch again when it is stored"
    return "is not trained yet; launch it first"
