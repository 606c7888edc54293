"""Holds what waits of a launch whose first runs all failed alike, before the rest of it does.

Whoever looks decides, from what the store says: `watch`, `reconcile`, `launch`, and a job whose run failed, so
that it needs neither a person nor a daemon. A job that cannot start its worker is seen from outside alone. The jobs
stay in the queue, held by `scontrol hold`, and a file in their dispatch's folder says why. A launch is held once: where
that file is, nobody holds it again, so that a person's release (by `imagine-sweep reconcile --release`, or by Slurm's
own command) stands.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jobs.dispatched import DispatchFolder
from results_db.contract import FAILURES, EndedAttempt, OpenAttempt, State, Store, StoreError
from results_db.files import write_atomically
from results_db.query.failures import Cause, by_cause
from slurm.client.client import Slurm
from slurm.client.commands import SlurmError
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import word_on

log = logging.getLogger(__name__)

HOLD_AFTER = 5
"""Identical failures at the start of a launch after which the rest of it is held, unless it was told otherwise."""

FAULTS = FAILURES | {State.NODE_FAIL}
"""Ends that tell of a fault which the next run may meet as well: in the run, or on the nodes."""

_HELD = frozenset({"JobHeldUser", "JobHeldAdmin"})


@dataclass(frozen=True)
class Hold:
    """A job that is held, or was.

    Attributes:
        job_name: which.
        cause: how its first runs failed.
        failures: how many of them.
        held_at: when, in ISO form.
        released: it was let go.
    """

    job_name: str
    cause: str
    failures: int
    held_at: str
    released: bool = False

    def describe(self) -> str:
        """One line, for a person."""
        return (
            f"{self.job_name} is held, for its first {self.failures} runs failed alike; mend that and let it go with "
            f"imagine-sweep reconcile --release, or drop it with imagine-sweep cancel: {self.cause}"
        )


def hopeless(
    failed: Iterable[EndedAttempt], completed: Collection[str], *, after: int = HOLD_AFTER
) -> Cause | None:
    """The one cause for which a launch should be held: so many runs failed of it, and none is complete.

    Args:
        failed: the launch's failed attempts.
        completed: ids of the jobs of the launch that completed a run.
        after: how many; 0: never.
    """
    if completed or not after:
        return None
    return next((cause for cause in by_cause(failed) if _times(cause) >= after), None)


def _times(cause: Cause) -> int:
    """How often it struck: of a job whose node was at fault all runs failed at once, and that is once."""
    jobs = {one.job_id for one in cause.attempts if one.state is State.NODE_FAIL}
    return len(jobs) + sum(one.state is not State.NODE_FAIL for one in cause.attempts)


def hold_hopeless(store: Store, waiting: Sequence[OpenAttempt], *, queue: Answer, slurm: Slurm) -> list[Hold]:
    """Hold the jobs that wait of every launch that seems hopeless, unless it was held before; what was held now.

    Args:
        store: where the launches were granted.
        waiting: its open attempts, of any launch.
        queue: squeue's answer.
        slurm: the cluster.

    Raises:
        SlurmError: Slurm did not hold a job.
    """
    launches = {
        key: names
        for key, names in _launches(store.folder, waiting).items()
        if not any(_file(store.folder, name).exists() for name in names)
    }
    if not launches:
        return []
    failed = _by_name(store.ended_attempts(FAULTS))
    held = []
    for names in launches.values():
        after = _after(store.folder, names[0])
        ended = [attempt for name in names for attempt in failed.get(name, ())]
        if hopeless(ended, (), after=after) is None:
            continue
        done = _by_name(store.ended_attempts({State.COMPLETED}))
        cause = hopeless(ended, [name for name in names if name in done], after=after)
        if cause is not None:
            held += _hold(store.folder, names, waiting, cause=cause, queue=queue, slurm=slurm)
    return held


def held(folder: Path, job_names: Iterable[str]) -> list[Hold]:
    """What is held of these jobs.

    Args:
        folder: `Store.folder`.
        job_names: names of dispatches.
    """
    found = (_read(_file(folder, name)) for name in sorted(set(job_names)))
    return [hold for hold in found if hold is not None and not hold.released]


def release(store: Store, waiting: Sequence[OpenAttempt], *, queue: Answer, slurm: Slurm) -> list[Hold]:
    """Let go what is held of these attempts' jobs, for good.

    Raises:
        SlurmError: Slurm did not release a job.
    """
    released = []
    for hold in held(store.folder, [one.job_name for one in waiting if one.job_name]):
        jobs = _waiting_jobs([hold.job_name], waiting, queue, held=True)
        if jobs:
            slurm.release(jobs)
        _write(store.folder, replace(hold, released=True))
        released.append(hold)
    return released


def _hold(
    folder: Path,
    names: Sequence[str],
    waiting: Sequence[OpenAttempt],
    *,
    cause: Cause,
    queue: Answer,
    slurm: Slurm,
) -> list[Hold]:
    jobs = _waiting_jobs(names, waiting, queue, held=False)
    # One may have begun meanwhile, and fail what holds the others: then all that wait are held, and nobody said why.
    if not jobs and not _waiting_jobs(names, waiting, queue, held=True):
        return []
    if jobs:
        slurm.hold(jobs)
    # Written after: who dies in between leaves it to the next one, and to hold twice is as once.
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holds = [Hold(name, cause.example, cause.count, now) for name in names]
    for hold in holds:
        _write(folder, hold)
    return holds


def _waiting_jobs(
    names: Sequence[str], waiting: Sequence[OpenAttempt], queue: Answer, *, held: bool
) -> list[str]:
    """Ids of the jobs with these names that wait in the queue, held or not."""
    found = {one.job_id: word_on(one, queue) for one in waiting if one.job_id and one.job_name in names}
    return [
        job_id
        for job_id, job in sorted(found.items())
        if isinstance(job, Job) and job.state == "PENDING" and (job.reason in _HELD) is held
    ]


def _launches(folder: Path, waiting: Iterable[OpenAttempt]) -> Mapping[object, list[str]]:
    """The dispatches of each launch, which is known by the process that made it."""
    found: dict[object, list[str]] = defaultdict(list)
    for name in sorted({one.job_name for one in waiting if one.job_name and one.state is State.PENDING}):
        dispatch = DispatchFolder.beside(folder, name).dispatch()
        found[name if dispatch is None else (dispatch.host, dispatch.process)].append(name)
    return found


def _after(folder: Path, job_name: str) -> int:
    """What its launch was told."""
    dispatch = DispatchFolder.beside(folder, job_name).dispatch()
    return HOLD_AFTER if dispatch is None else dispatch.hold_after


def _by_name(attempts: Iterable[EndedAttempt]) -> dict[str, list[EndedAttempt]]:
    """Attempts by the name of their job."""
    found: dict[str, list[EndedAttempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.job_name is not None:
            found[attempt.job_name].append(attempt)
    return found


def _file(folder: Path, job_name: str) -> Path:
    return DispatchFolder.beside(folder, job_name).path / "held.json"


def _write(folder: Path, hold: Hold) -> None:
    write_atomically(_file(folder, hold.job_name), json.dumps(asdict(hold)).encode())


def _read(path: Path) -> Hold | None:
    with suppress(OSError, ValueError, TypeError):
        return Hold(**json.loads(path.read_text()))
    return None


def from_a_job(db: str | None) -> list[Hold]:
    """For a job whose run failed: hold what is hopeless. Whatever goes wrong with that is a line in its log, no more.

    Args:
        db: the store; read, and not written.
    """
    from results_db.store.sql import open_store  # which `--help` need not wait for

    try:
        slurm = Slurm()
        queue = slurm.queue()
        if isinstance(queue, Unknown):
            raise SlurmError(queue.why)
        with closing(open_store(db, create=False, read_only=True)) as store:
            found = hold_hopeless(store, store.open_attempts(), queue=queue, slurm=slurm)
    except (StoreError, SlurmError, OSError) as error:
        log.warning("whether this launch should be held: %s", error)
        return []
    for hold in found:
        log.warning("%s", hold.describe())
    return found
