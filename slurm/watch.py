"""What the runs do that are under way: where each trains, how far it is, and how fast."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from results_db.contract import OpenAttempt, State
from slurm.answers import Answer, Job, Unknown
from slurm.states import FRESH, WAITS, word_on


@dataclass(frozen=True)
class Running:
    """A run that trains.

    Attributes:
        attempt: its attempt, as the store has it.
        node: where; empty: nowhere, its job waits to go on.
        phase: empty; or why it may not be training: `requeued`, `silent`.
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
    """The attempts that the store holds for RUNNING, as squeue sees them.

    Args:
        attempts: open ones.
        queue: squeue's answer.
        pace: remembers what they said before.
        now: the time.
    """
    running = [one for one in attempts if one.state is State.RUNNING]
    rates: Mapping[object, float | None] = pace.rates(running)
    return [_running(one, queue, rate=rates.get(one.attempt), now=now) for one in running]


def _running(one: OpenAttempt, queue: Answer | Unknown, *, rate: float | None, now: datetime) -> Running:
    job = word_on(one, queue) if one.job_id is not None else None
    if isinstance(job, Job) and job.state in WAITS:
        return Running(one, "", "requeued", None)
    node = job.node if isinstance(job, Job) and job.node else one.host or ""
    last = one.heartbeat_at or one.intended_at
    return Running(one, node, "silent" if abs(now - last) > 3 * FRESH else "", rate)


def waiting_for(attempts: Iterable[OpenAttempt], queue: Answer | Unknown) -> dict[str, int]:
    """Slurm's reason to let runs wait, and how many it lets wait for it."""
    counts: dict[str, int] = {}
    for one in attempts:
        if one.state is State.PENDING and one.job_id is not None:
            job = word_on(one, queue)
            if isinstance(job, Job) and job.state in WAITS:
                reason = job.reason or "no reason yet"
                counts[reason] = counts.get(reason, 0) + 1
    return counts
