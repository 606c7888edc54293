"""Three witnesses: what became of an attempt, by the store's heartbeat, squeue and sacct. Plain data in and out.

A question that failed is `Unknown`, and no end follows from it: an attempt ends only by what somebody said.

* squeue knows the job and it has not ended: the attempt goes on, however long ago its worker was heard of. A job that
  was requeued waits there like a new one; so neither NODE_FAIL nor PREEMPTED of an earlier start is its end.
* squeue or sacct says how it ended: that is the end. Slurm requeues jobs that lost their node or were preempted some
  seconds later; until then that word is not final, nor while their worker is heard of.
* squeue does not know it, and sacct holds it for waiting or running or does not know it either: it is LOST, once
  nothing was heard of it for `LOST_AFTER`. Tasks that were cancelled before they started leave no trace of their own;
  where sacct knows the rest of their array they are CANCELLED.
* squeue does not know it and there is no sacct: LOST, too, after as long; how it ended nobody can say. Where sacct is
  there and fails, only workers that are silent for `ANSWERS_WITHIN` are given up so.
* squeue does not answer: nothing ends but by sacct's word.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from results_db.contract import EndedAttempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown

LOST_AFTER = timedelta(minutes=5)
"""A job of which nothing was heard for so long, and that Slurm does not know, is gone."""

ANSWERS_WITHIN = timedelta(minutes=30)
"""Silence of a worker after which it is given up though sacct, which might say how it ended, fails."""

REQUEUED_WITHIN = timedelta(minutes=2)
"""A job that lost its node or was preempted, and was not requeued after so long, will not be."""

SEEN_WITHIN = timedelta(minutes=2)
"""What a job wrote on a network file system may be seen elsewhere only after so long."""

FRESH = timedelta(minutes=1)
"""A worker that was heard of so recently is alive: heartbeats come every 15 s."""

MOST_KILLED = 3
"""An attempt of this number whose job was killed by a signal is at fault itself; before, somebody else may be."""

ENDS = {
    "COMPLETED": State.LOST,  # without a word on this run
    "FAILED": State.FAILED,
    "CANCELLED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL,
    "PREEMPTED": State.PREEMPTED,
    "REVOKED": State.CANCELLED,
}
"""Slurm's words for a job that ended, and what that makes of its attempts. Any other word is of one that goes on."""

WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""Slurm's words for a job that waits, for the first time or again."""

_MAY_COME_BACK = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"})
_FROM_OUTSIDE = frozenset({-9, -15, -10, -12})
"""KILL, TERM, and USR1 and USR2, which end a worker that does not listen yet."""

Word = Job | None | Unknown
"""What a witness says of a job: what it knows, that it knows none, or nothing."""


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    Attributes:
        state: how it ended; None: it did not, or nobody knows.
        why: one line.
        exit_code: of its job, where one is known.
        certain: False: no end is known only since a witness is missing.
    """

    state: State | None
    why: str
    exit_code: int | None = None
    certain: bool = True


def word_on(one: OpenAttempt | EndedAttempt, answer: Answer | Unknown) -> Word:
    """What an answer says of an attempt's job. One of another name is another job: ids are given again elsewhere."""
    if isinstance(answer, Unknown):
        return answer
    job = answer.find(one.job_id or "")
    return job if job is None or one.job_name is None or job.name == one.job_name else None


def waits_again(one: EndedAttempt, answer: Answer) -> bool:
    """Whether the job of an interrupted attempt is in the queue and will start it once more.

    Of a job that runs only its own worker's word, PREEMPTED, is believed: it saved and is about to requeue itself.
    """
    job = word_on(one, answer)
    if not isinstance(job, Job):
        return False
    return job.state in WAITS or (one.state is State.PREEMPTED and job.state not in ENDS)


def judge(
    attempt: OpenAttempt, queue: Word, account: Word, *, now: datetime, array_known: bool = False
) -> Verdict:
    """What became of an attempt that the store holds for open.

    Args:
        attempt: as the store has it; with a job id.
        queue: squeue's word on its job.
        account: sacct's word on it, asked after squeue.
        now: the time, by the clock that the store's times are of.
        array_known: sacct knows other tasks of the job's array.
    """
    if isinstance(queue, Job):
        return _queued(attempt, queue, now=now)
    if isinstance(account, Job) and account.state in ENDS:
        final = queue is None or account.state not in _MAY_COME_BACK
        return (
            _ended(attempt, account, now=now) if final else Verdict(None, _may_return(account), certain=False)
        )
    if isinstance(queue, Unknown):
        return Verdict(None, queue.why, certain=False)
    return _gone(attempt, account, now=now, array_known=array_known)


def _queued(attempt: OpenAttempt, queue: Job, *, now: datetime) -> Verdict:
    """Squeue knows the job."""
    if queue.state not in ENDS:
        where = f" on {queue.node}" if queue.node else f" ({queue.reason})" if queue.reason else ""
        return Verdict(None, f"{queue.state}{where}")
    if queue.state in _MAY_COME_BACK:
        since = queue.ended_at
        if since is None or now - since < REQUEUED_WITHIN or _is_fresh(attempt, now):
            return Verdict(None, _may_return(queue), certain=False)
    return _ended(attempt, queue, now=now)


def _may_return(job: Job) -> str:
    return f"{job.state}, and Slurm may requeue it"


def _gone(
    attempt: OpenAttempt, account: Job | Unknown | None, *, now: datetime, array_known: bool
) -> Verdict:
    """Squeue does not know the job, and nobody says how it ended."""
    silent = now - _last_heard(attempt, now)
    if _is_fresh(attempt, now) or silent < LOST_AFTER:
        return Verdict(None, "squeue does not show its job; too early to give it up", certain=False)
    if isinstance(account, Unknown):
        # How long ago a job that waited was seen in the queue nobody knows; a worker's silence is a sign of its own.
        may_answer_later = attempt.state is State.PENDING or silent < ANSWERS_WITHIN
        if may_answer_later and not account.lasting:
            return Verdict(None, f"squeue does not show its job, and {account.why}", certain=False)
        return Verdict(
            State.LOST, f"Slurm does not know its job any more; how it ended nobody says: {account.why}"
        )
    if account is not None:
        return Verdict(State.LOST, f"Slurm lost its job; accounting still holds it for {account.state}")
    if array_known and attempt.state is State.PENDING:
        return Verdict(State.CANCELLED, "its task was cancelled before it started, by somebody else")
    return Verdict(State.LOST, "neither squeue nor sacct knows its job any more")


def _last_heard(attempt: OpenAttempt, now: datetime) -> datetime:
    """The last sign of it. One from the future was given by a wrong clock, and says nothing."""
    signs = (attempt.claimed_at, attempt.started_at, attempt.heartbeat_at)
    return max(
        (sign for sign in signs if sign is not None and sign <= now + FRESH), default=attempt.claimed_at
    )


def _is_fresh(attempt: OpenAttempt, now: datetime) -> bool:
    return attempt.heartbeat_at is not None and abs(now - attempt.heartbeat_at) < FRESH


def _ended(attempt: OpenAttempt, job: Job, *, now: datetime) -> Verdict:
    """Slurm says how its job ended."""
    state, code = ENDS[job.state], job.exit_code
    if state is State.LOST and job.ended_at is not None and now - job.ended_at < SEEN_WITHIN:
        return Verdict(None, "its job is done, and its result may not be seen here yet", certain=False)
    said = f"its job ended as {job.state}"
    if job.node:
        said += f" on {job.node}"
    if job.reason and job.state not in ("COMPLETED", "CANCELLED"):
        said += f" ({job.reason})"
    if state is State.LOST:
        return Verdict(state, f"{said} without a word on this run", code)
    if state is State.FAILED and code in _FROM_OUTSIDE and attempt.attempt.number < MOST_KILLED:
        return Verdict(State.LOST, f"{said}: killed by signal {-code}, by whom Slurm does not say", code)
    if code:
        said += f", signal {-code}" if code < 0 else f", exit code {code}"
    return Verdict(state, said, code)


MEMORY_WORDS = (
    "exceeded job memory limit",
    "exceeded memory limit",
    "oom-kill event",
    "oom_kill event",
    "out of memory handler",
)
"""What Slurm writes into a job's standard error, in small letters, when it kills the job for its memory."""


def with_log(verdict: Verdict, log_tail: str | None) -> Verdict:
    """The verdict by the end of the job's log, too: without control groups Slurm says FAILED for out of memory."""
    killed = verdict.exit_code is not None and verdict.exit_code < 0
    if verdict.state not in (State.FAILED, State.LOST) or not killed or log_tail is None:
        return verdict
    low = log_tail.lower()
    if not any(words in low for words in MEMORY_WORDS):
        return verdict
    return Verdict(State.OUT_OF_MEMORY, "its job was killed for its memory", verdict.exit_code)
