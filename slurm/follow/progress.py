"""What the runs do that are under way: where each trains, how far it is, and how fast."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from results_db.contract import OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import FRESH, WAITS, word_on


@dataclass(frozen=True)
class Running:
    """A run that trains.

    Attributes:
        attempt: its attempt, as the store has it.
        node: where.
        phase: empty; or `silent`: it was not heard of for a while.
        steps_per_s: by its last heartbeats; None before there are two.
    """

    attempt: OpenAttempt
    node: str
    phase: str
    steps_per_s: float | None


class Pace:
    """Steps per second of every attempt, by what it said of itself at two times; the clock is its own."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[datetime, int, float | None]] = {}

    def rates(self, attempts: Iterable[OpenAttempt]) -> dict[object, float | None]:
        """Attempt to its rate; None where it is not known yet. Call it at every look, with all that train."""
        now: dict[object, tuple[datetime, int, float | None]] = {}
        for one in attempts:
            if one.heartbeat_at is None:
                continue
            before = self._seen.get(one.attempt)
            if before is None:
                now[one.attempt] = (one.heartbeat_at, one.step, _from_the_start(one))
            elif one.heartbeat_at > before[0] and one.step >= before[1]:
                rate = (one.step - before[1]) / (one.heartbeat_at - before[0]).total_seconds()
                now[one.attempt] = (one.heartbeat_at, one.step, rate)
            else:
                now[one.attempt] = before
        self._seen = now
        return {attempt: rate for attempt, (_, _, rate) in now.items()}


def _from_the_start(one: OpenAttempt) -> float | None:
    """The mean rate of an attempt that began at step 0, as only a run's first does for sure."""
    if one.heartbeat_at is None or one.started_at is None or one.attempt.order != (1, 0):
        return None
    seconds = (one.heartbeat_at - one.started_at).total_seconds()
    return one.step / seconds if seconds > 0 and one.step else None


def under_way(
    attempts: Iterable[OpenAttempt], queue: Answer | Unknown, *, pace: Pace, now: datetime
) -> list[Running]:
    """The attempts that the store holds for RUNNING, but for those whose job was requeued and waits: see `waiting`.

    Args:
        attempts: open ones.
        queue: squeue's answer.
        pace: remembers what they said before.
        now: the time.
    """
    words = [(one, _job(one, queue)) for one in attempts if one.state is State.RUNNING]
    running = [(one, job) for one, job in words if job is None or job.state not in WAITS]
    rates: Mapping[object, float | None] = pace.rates(one for one, _ in running)
    return [_running(one, job, rate=rates.get(one.attempt), now=now) for one, job in running]


def _running(one: OpenAttempt, job: Job | None, *, rate: float | None, now: datetime) -> Running:
    last = one.heartbeat_at or one.claimed_at
    silent = "silent" if abs(now - last) > 3 * FRESH else ""
    return Running(one, (job and job.node) or one.host or "", silent, rate)


def waiting(attempts: Iterable[OpenAttempt], queue: Answer | Unknown) -> dict[str, str]:
    """Run id to Slurm's reason, of the runs whose job waits."""
    words = ((one, _job(one, queue)) for one in attempts)
    return {
        one.attempt.run_id: job.reason or "no reason yet"
        for one, job in words
        if job is not None and job.state in WAITS
    }


def _job(one: OpenAttempt, queue: Answer | Unknown) -> Job | None:
    """What squeue says of its job."""
    job = word_on(one, queue) if one.job_id is not None else None
    return job if isinstance(job, Job) else None
