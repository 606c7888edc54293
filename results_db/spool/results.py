"""The result of a run that another run builds on: in the store, or in the spool on its way there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from results_db.contract import Artifact, Attempt, Experiment, RunRecord, State, Store, UnknownRunError
from results_db.spool.records import DamagedError, NewerFormatError, Spool


@dataclass(frozen=True)
class Result:
    """A run's result.

    Attributes:
        attempt: the attempt that made it, which names its files.
        config: the run's config.
        metrics: its metrics.
        artifacts: the files that it left.
        missed: the gate that it missed, in words; None: it is kept.
    """

    attempt: Attempt
    config: dict[str, Any]
    metrics: dict[str, float | None]
    artifacts: Mapping[str, Artifact]
    missed: str | None


def result(store: Store, run_id: str) -> Result | State | None:
    """The run's result; its state if it has none yet; None if the store has no such run.

    Raises:
        StoreError: the store cannot be reached.
    """
    found = _result(store, run_id)
    # Its record may have gone from the spool into the store between the two looks.
    return _result(store, run_id) if isinstance(found, State) else found


def _result(store: Store, run_id: str) -> Result | State | None:
    try:
        run = store.run(run_id)
    except UnknownRunError:
        return None
    experiment = store.experiments().get(str(run["config"].get("experiment")), Experiment(()))
    if run["state"] == State.COMPLETED:
        (done,) = [one for one in store.attempts(run_id) if one["state"] == State.COMPLETED]
        attempt = Attempt(run_id, done["number"], done["restart"], done["nonce"])
        missed = experiment.missed(run["outcome"], run["metrics"])
        return Result(attempt, run["config"], run["metrics"], store.artifacts(run_id), missed)
    spool = Spool(store.folder)
    for attempt in reversed(spool.attempts(run_id)):
        try:
            if not store.standing(attempt):
                continue
            ending = spool.read(attempt).ending
        except (OSError, DamagedError, NewerFormatError):
            continue  # `ingest` reports it
        if isinstance(ending, RunRecord):
            missed = experiment.missed(ending.outcome, ending.metrics)
            return Result(attempt, run["config"], dict(ending.metrics), ending.artifacts, missed)
    return State(run["state"])
