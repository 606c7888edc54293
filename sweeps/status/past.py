"""Where the stored runs were trained, and how long they took there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.dispatched import DispatchFolder
from jobs.progress import Where
from results_db.contract import BegunAttempt, State, Store
from results_db.query.packs import NOT_YET, packs

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd


@dataclass(frozen=True)
class PastRun:
    """How a stored run was trained.

    Attributes:
        where: its device, and the runs that trained with it.
        seconds: its share of its worker's time: its training, and its part of what came between, such as the
            evaluation.
        job_name: the name of its job; None without a scheduler.
    """

    where: Where
    seconds: float
    job_name: str | None


def past_runs(store: Store, frame: "pd.DataFrame") -> dict[str, PastRun]:
    """Run id to how it was trained, for the stored runs that one kind of device trained; the newest last."""
    stored = frame[frame["state"] == State.COMPLETED]
    seconds = dict(zip(stored["run_id"], stored["seconds"], strict=True))
    attempts = store.begun_attempts()
    devices: defaultdict[str, set[str]] = defaultdict(set)
    for one in attempts:
        devices[one.attempt.run_id].add(one.device)
    found = []
    for pack in packs(attempts):
        overhead = _overhead(pack, seconds)
        for one in pack:
            run_id = one.attempt.run_id
            if one.state is State.COMPLETED and run_id in seconds and len(devices[run_id]) == 1:
                past = PastRun(Where(one.device, len(pack)), seconds[run_id] * overhead, one.job_name)
                found.append((one.ended_at or NOT_YET, run_id, past))
    return {run_id: past for _, run_id, past in sorted(found, key=lambda each: each[0])}


def device_of_jobs(past: Mapping[str, PastRun], store: Store, *, gpus: int) -> str | None:
    """The device of the newest of these runs whose job asked for GPUs if `gpus`, else for none; None: no such run."""
    kinds: dict[str | None, bool | None] = {None: None}
    for one in reversed(list(past.values())):
        if one.job_name is not None and one.job_name not in kinds:
            kinds[one.job_name] = _asked_for_gpus(store, one.job_name)
        if kinds[one.job_name] is (gpus > 0):
            return one.where.device
    return None


def _asked_for_gpus(store: Store, job_name: str) -> bool | None:
    """Whether a job asked for GPUs; None: unknown."""
    dispatch = DispatchFolder.beside(store.folder, job_name).dispatch()
    return None if dispatch is None or dispatch.gpus is None else dispatch.gpus > 0


def _overhead(pack: Sequence[BegunAttempt], seconds: Mapping[str, float]) -> float:
    """The pack's time by the clock for each second of its training, at least 1; 1 if not all of its runs completed."""
    trained = sum(seconds.get(one.attempt.run_id, 0.0) for one in pack)
    if trained <= 0 or any(one.state is not State.COMPLETED for one in pack):
        return 1.0
    ends = [one.ended_at or NOT_YET for one in pack]
    return max((max(ends) - pack[0].started_at).total_seconds() / trained, 1.0)
