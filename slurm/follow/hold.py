"""Holds the waiting jobs of a launch when its first runs all failed with the same error.

`watch`, `reconcile`, `launch` and every job with a failed run decide this from the store, so no daemon is needed. A job
that cannot start its worker reports nothing, so only the commands notice it. `scontrol hold` holds the jobs in the
queue, and a file in their dispatch's folder says why. A launch is held at most once. After
`imagine-sweep reconcile --release` or `scontrol release` it stays released.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jobs.dispatched import DispatchFolder
from results_db.contract import FAILURES, EndedAttempt, OpenAttempt, State, Store, StoreError
from results_db.files import write_atomically
from results_db.query.failures import Cause, by_cause
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import word_on

log = logging.getLogger(__name__)

HOLD_AFTER = 5
"""A launch is held after this many failures with the same error, by default."""

FAULTS = FAILURES | {State.NODE_FAIL}
"""The ends that hold a launch: failures, and nodes that cannot train."""

_HELD_FILE = "held.json"
_HELD = frozenset({"JobHeldUser", "JobHeldAdmin"})


@dataclass(frozen=True)
class Hold:
    """Why a dispatch is held, or was.

    Attributes:
        job_name: the name of the dispatch.
        cause: the error of its first runs.
        failures: how many runs failed with it.
        held_at: when, in ISO form.
        released: whether it was released since.
    """

    job_name: str
    cause: str
    failures: int
    held_at: str
    released: bool = False

    def describe(self) -> str:
        """One line for the user."""
        return (
            f"{self.job_name} is held, because its first {self.failures} runs failed with the same error; correct it "
            f"and run imagine-sweep reconcile --release, or end the jobs with imagine-sweep cancel: {self.cause}"
        )


def shared_cause(failed: Iterable[EndedAttempt], *, after: int) -> Cause | None:
    """A cause with at least `after` failures; None if there is none, or if `after` is 0."""
    return next((cause for cause in by_cause(failed) if 0 < after <= _times(cause)), None)


def _times(cause: Cause) -> int:
    """How many failures count. A job on a faulty node fails all of its runs at once; that is one failure."""
    jobs = {one.job_id for one in cause.attempts if one.state is State.NODE_FAIL}
    return len(jobs) + sum(one.state is not State.NODE_FAIL for one in cause.attempts)


def hold_failing(store: Store, waiting: Sequence[OpenAttempt], *, queue: Answer, slurm: Slurm) -> list[Hold]:
    """Hold every launch whose first runs all failed with the same error.

    Args:
        store: the store.
        waiting: the open attempts of any launches.
        queue: squeue's answer.
        slurm: the cluster.

    Returns:
        The new holds; a launch that was held before is not held again.

    Raises:
        SlurmError: Slurm did not hold a job.
    """
    launches = _launches(store.folder, waiting)
    if not launches:
        return []
    failed = defaultdict(list)
    for one in store.ended_attempts(FAULTS):
        failed[one.job_name].append(one)
    holds = []
    for names, after in launches:
        cause = shared_cause([one for name in names for one in failed[name]], after=after)
        if cause is None:
            continue
        completed = {one.job_name for one in store.ended_attempts({State.COMPLETED})}
        if completed.isdisjoint(names):
            holds += _hold(store.folder, names, cause, _pending(names, waiting, queue), slurm)
    return holds


def held(folder: Path, job_names: Iterable[str]) -> list[Hold]:
    """The holds of these dispatches that are not released; `folder` is `Store.folder`."""
    found = (_read(DispatchFolder.beside(folder, name)) for name in sorted(set(job_names)))
    return [hold for hold in found if hold is not None and not hold.released]


def release(store: Store, waiting: Sequence[OpenAttempt], *, queue: Answer, slurm: Slurm) -> list[Hold]:
    """Release the held dispatches of these attempts for good.

    Raises:
        SlurmError: Slurm did not release a job.
    """
    holds = held(store.folder, [one.job_name for one in waiting if one.job_name])
    for hold in holds:
        jobs = [job_id for job_id, is_held in _pending([hold.job_name], waiting, queue).items() if is_held]
        if jobs:
            slurm.release(jobs)
        _write(store.folder, replace(hold, released=True))
    return holds


def hold_from_job(db: str | None) -> None:
    """Called by a job after a run failed. Holds its launch if the first runs all failed with one error.

    Its own errors go only to the job's log.
    """
    from results_db.store import open_store  # slow to import

    try:
        slurm = Slurm()
        queue = slurm.queue()
        if isinstance(queue, Unknown):
            raise SlurmError(queue.why)
        with closing(open_store(db, create=False, read_only=True)) as store:
            for hold in hold_failing(store, store.open_attempts(), queue=queue, slurm=slurm):
                log.warning("%s", hold.describe())
    except (StoreError, SlurmError, OSError) as error:
        log.warning("could not decide whether to hold this launch: %s", error)


def _launches(folder: Path, waiting: Iterable[OpenAttempt]) -> list[tuple[list[str], int]]:
    """The dispatches of each launch with waiting jobs that was never held, and the launch's `hold_after`.

    The same process submits all dispatches of a launch.
    """
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    after = {}
    for name in sorted({one.job_name for one in waiting if one.job_name and one.state is State.PENDING}):
        dispatch = DispatchFolder.beside(folder, name).dispatch()
        if dispatch is not None:  # else another user's, or damaged: whether to hold it is unknown
            launch = dispatch.host, dispatch.process
            names[launch].append(name)
            after[launch] = dispatch.hold_after
    return [
        (together, after[launch])
        for launch, together in names.items()
        if not any(_file(folder, name).exists() for name in together)
    ]


def _hold(
    folder: Path, names: Sequence[str], cause: Cause, pending: dict[str, bool], slurm: Slurm
) -> list[Hold]:
    if not pending:
        return []
    # All may be held already: an earlier call failed at a job that had just started, and wrote no file.
    if jobs := [job_id for job_id, is_held in pending.items() if not is_held]:
        slurm.hold(jobs)
    # The files are written last. If this process dies before, the next call holds the jobs again, which is harmless.
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holds = [Hold(name, cause.example, cause.count, now) for name in names]
    for hold in holds:
        _write(folder, hold)
    return holds


def _pending(names: Sequence[str], waiting: Sequence[OpenAttempt], queue: Answer) -> dict[str, bool]:
    """The waiting jobs of these dispatches, and whether each is held."""
    found = {one.job_id: word_on(one, queue) for one in waiting if one.job_id and one.job_name in names}
    return {
        job_id: job.reason in _HELD
        for job_id, job in sorted(found.items())
        if isinstance(job, Job) and job.state == "PENDING"
    }


def _file(folder: Path, job_name: str) -> Path:
    return DispatchFolder.beside(folder, job_name).path / _HELD_FILE


def _write(folder: Path, hold: Hold) -> None:
    write_atomically(_file(folder, hold.job_name), json.dumps(asdict(hold)).encode())


def _read(folder: DispatchFolder) -> Hold | None:
    with suppress(OSError, ValueError, TypeError):
        return Hold(**json.loads(folder.read(_HELD_FILE)))
    return None
