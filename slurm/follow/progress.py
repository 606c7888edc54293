"""The active runs: where each trains, how far and how fast, and why others wait."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from results_db.contract import Attempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import FRESH, WAITS, word_on


@dataclass(frozen=True)
class Running:
    """A run that trains.

    Attributes:
        attempt: its attempt, from the store.
        node: the node that it trains on.
        phase: `silent` if its heartbeats have stopped for a while, else empty.
        steps_per_s: its speed; None until it is known.
    """

    attempt: OpenAttempt
    node: str
    phase: str
    steps_per_s: float | None


class Pace:
    """The speed of each attempt between its last two heartbeats."""

    def __init__(self) -> None:
        self._last: dict[Attempt, tuple[datetime, int, float | None]] = {}

    def rate(self, one: OpenAttempt) -> float | None:
        """The attempt's steps per second; None until they are known. Call it at every look."""
        if one.heartbeat_at is None:
            return None
        if one.attempt not in self._last:
            rate = _mean_rate(one)
        else:
            at, step, rate = self._last[one.attempt]
            if one.heartbeat_at <= at or one.step < step:
                return rate
            rate = (one.step - step) / (one.heartbeat_at - at).total_seconds()
        self._last[one.attempt] = (one.heartbeat_at, one.step, rate)
        return rate


def _mean_rate(one: OpenAttempt) -> float | None:
    """The rate since the attempt's start. None for later attempts, which may have continued a checkpoint."""
    first = (one.attempt.number, one.attempt.restart) == (1, 0)
    if one.heartbeat_at is None or one.started_at is None or not first:
        return None
    seconds = (one.heartbeat_at - one.started_at).total_seconds()
    return one.step / seconds if seconds > 0 and one.step else None


def under_way(
    attempts: Iterable[OpenAttempt], queue: Answer | Unknown, *, pace: Pace, now: datetime
) -> list[Running]:
    """The attempts that are recorded as RUNNING, without those whose job was requeued and waits."""
    found = []
    for one in attempts:
        job = _job(one, queue)
        if one.state is State.RUNNING and (job is None or job.state not in WAITS):
            silent_for = abs(now - (one.heartbeat_at or one.claimed_at))
            phase = "silent" if silent_for > 3 * FRESH else ""
            found.append(Running(one, (job and job.node) or one.host or "", phase, pace.rate(one)))
    return found


def waiting(attempts: Iterable[OpenAttempt], queue: Answer | Unknown) -> dict[str, str]:
    """Run id to Slurm's reason, for each run whose job waits."""
    jobs = {one.attempt.run_id: _job(one, queue) for one in attempts}
    return {
        run_id: job.reason or "no reason yet"
        for run_id, job in jobs.items()
        if job is not None and job.state in WAITS
    }


def _job(one: OpenAttempt, queue: Answer | Unknown) -> Job | None:
    """The attempt's job, if squeue shows it."""
    job = word_on(one, queue) if one.job_id is not None else None
    return job if isinstance(job, Job) else None
