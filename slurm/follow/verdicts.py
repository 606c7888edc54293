"""Decides what became of an attempt, from the heartbeat, squeue and sacct. Plain data in and out.

A query that failed is `Unknown`; it never ends an attempt by itself.

* squeue lists the job as not ended: the attempt continues, however old its heartbeat is. A requeued job is listed as
  waiting, so NODE_FAIL or PREEMPTED of an earlier start is not its end.
* If squeue or sacct gives a final state, the attempt ends in that state. Slurm requeues preempted jobs and jobs of a
  lost node after some seconds. Until then, and while the heartbeat is fresh, NODE_FAIL and PREEMPTED are not final.
* squeue does not list the job, and sacct calls it waiting or running, or does not know it: the attempt is LOST after
  `LOST_AFTER` without a heartbeat. sacct does not know a task that was cancelled before it started; the attempt is
  CANCELLED if sacct knows other tasks of the array.
* squeue does not list the job, and the cluster has no sacct: the attempt is LOST after the same time. If sacct exists
  but fails, a running attempt is LOST after `ANSWERS_WITHIN` without a heartbeat, and a waiting one continues.
* squeue does not answer, or the job is another user's: only a final state can end an attempt.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from results_db.contract import EndedAttempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown

LOST_AFTER = timedelta(minutes=5)
"""The attempt of a job that Slurm does not know is LOST after this time without a heartbeat."""

ANSWERS_WITHIN = timedelta(minutes=30)
"""A running attempt is LOST after this time without a heartbeat, even if sacct fails."""

REQUEUED_WITHIN = timedelta(minutes=2)
"""Slurm requeues a preempted job, or one of a lost node, within this time or never."""

SEEN_WITHIN = timedelta(minutes=2)
"""On a network file system, other machines may see a job's files only after this time."""

FRESH = timedelta(minutes=1)
"""A worker with a heartbeat this recent is alive. Heartbeats come every 15 s."""

MOST_KILLED = 3
"""From this attempt on, a job killed by a signal is FAILED. In earlier attempts the signal may come from outside."""

ENDS = {
    "COMPLETED": State.LOST,  # without a result of this run
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
"""Slurm's final states, and what each makes of an attempt. In any other state the job continues."""

WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""Slurm's states of a job that waits, for the first time or again."""

MAY_COME_BACK = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"})
"""Final states after which Slurm may requeue the job by itself."""

COULD_NOT_BEGIN = 75
"""A job's exit code if it trained nothing, because its node could not read its work or write its files."""

_FROM_OUTSIDE = frozenset({-9, -15, -10, -12})
"""KILL and TERM; and USR1 and USR2, which kill a worker that does not handle signals yet."""

Word = Job | None | Unknown
"""A source's answer on a job; None if it does not know the job, `Unknown` if it did not answer."""


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    Attributes:
        state: how it ended; None if it continues or nothing is known.
        why: the reason, in one line.
        exit_code: its job's exit code, if known.
        certain: False if a missing answer may hide its end.
    """

    state: State | None
    why: str
    exit_code: int | None = None
    certain: bool = True


def word_on(one: OpenAttempt | EndedAttempt, answer: Answer | Unknown) -> Word:
    """The answer on an attempt's job. A job with another name does not count: Slurm has used the id again."""
    if isinstance(answer, Unknown):
        return answer
    job = answer.find(one.job_id or "")
    return job if job is None or one.job_name is None or job.name == one.job_name else None


def waits_again(one: EndedAttempt, answer: Answer) -> bool:
    """Whether the job of an interrupted attempt is in the queue and will start it again.

    While the job still runs, only PREEMPTED counts: its worker saved and is about to requeue the job.
    """
    job = word_on(one, answer)
    if not isinstance(job, Job):
        return False
    return job.state in WAITS or (one.state is State.PREEMPTED and job.state not in ENDS)


def judge(
    attempt: OpenAttempt,
    queue: Word,
    account: Word,
    *,
    now: datetime,
    array_known: bool = False,
    foreign: bool = False,
) -> Verdict:
    """What became of an attempt that is open in the store.

    Args:
        attempt: the attempt; it has a job id.
        queue: what squeue says about its job.
        account: what sacct says about it, asked after squeue.
        now: the time, by the clock of the store's times.
        array_known: whether sacct knows other tasks of the job's array.
        foreign: whether another user submitted the job. Slurm may hide such jobs, so its silence means nothing.
    """
    if isinstance(queue, Job):
        return _listed(attempt, queue, now=now)
    if isinstance(account, Job) and account.state in ENDS:
        if isinstance(queue, Unknown) and account.state in MAY_COME_BACK:
            return _may_return(account)
        return _ended(attempt, account, now=now)
    if isinstance(queue, Unknown):
        return Verdict(None, queue.why, certain=False)
    if foreign:
        return Verdict(None, "the job is another user's, and squeue may hide it", certain=False)
    return _gone(attempt, account, now=now, array_known=array_known)


def _listed(attempt: OpenAttempt, job: Job, *, now: datetime) -> Verdict:
    """The verdict on a job that squeue lists."""
    if job.state not in ENDS:
        where = f" on {job.node}" if job.node else f" ({job.reason})" if job.reason else ""
        return Verdict(None, f"{job.state}{where}")
    recent = job.ended_at is None or now - job.ended_at < REQUEUED_WITHIN
    if job.state in MAY_COME_BACK and (recent or _is_fresh(attempt, now)):
        return _may_return(job)
    return _ended(attempt, job, now=now)


def _may_return(job: Job) -> Verdict:
    return Verdict(None, f"{job.state}, but Slurm may requeue it", certain=False)


def _gone(
    attempt: OpenAttempt, account: Job | Unknown | None, *, now: datetime, array_known: bool
) -> Verdict:
    """The verdict on a job that squeue does not list and whose end is unknown."""
    silent = now - _last_report(attempt, now)
    if _is_fresh(attempt, now) or silent < LOST_AFTER:
        return Verdict(None, "squeue does not list its job; it is too early to call it lost", certain=False)
    if isinstance(account, Unknown):
        # A waiting job sends no heartbeats, so its silence means nothing.
        may_answer_later = attempt.state is State.PENDING or silent < ANSWERS_WITHIN
        if may_answer_later and not account.lasting:
            return Verdict(None, f"squeue does not list its job, and {account.why}", certain=False)
        return Verdict(
            State.LOST, f"Slurm no longer knows its job, and cannot say how it ended: {account.why}"
        )
    if account is not None:
        return Verdict(State.LOST, f"Slurm lost its job; sacct still calls it {account.state}")
    if array_known and attempt.state is State.PENDING:
        return Verdict(State.CANCELLED, "its task was cancelled outside imagine-sweep before it started")
    return Verdict(State.LOST, "neither squeue nor sacct knows its job")


def _last_report(attempt: OpenAttempt, now: datetime) -> datetime:
    """The time of its latest report, without times in the future, which come from a wrong clock."""
    times = (attempt.claimed_at, attempt.started_at, attempt.heartbeat_at)
    return max((at for at in times if at is not None and at <= now + FRESH), default=attempt.claimed_at)


def _is_fresh(attempt: OpenAttempt, now: datetime) -> bool:
    return attempt.heartbeat_at is not None and abs(now - attempt.heartbeat_at) < FRESH


def _ended(attempt: OpenAttempt, job: Job, *, now: datetime) -> Verdict:
    """The verdict on a job that ended."""
    state, code = ENDS[job.state], job.exit_code
    if state is State.LOST and job.ended_at is not None and now - job.ended_at < SEEN_WITHIN:
        return Verdict(None, "its job is done, but its result may not be visible here yet", certain=False)
    said = f"its job ended as {job.state}"
    if job.node:
        said += f" on {job.node}"
    if job.reason and job.state not in ("COMPLETED", "CANCELLED"):
        said += f" ({job.reason})"
    if state is State.LOST:
        return Verdict(state, f"{said} without a result of this run", code)
    if state is State.FAILED and code == COULD_NOT_BEGIN:
        return Verdict(State.NODE_FAIL, f"{said}: it could not begin its work there", code)
    if state is State.FAILED and code in _FROM_OUTSIDE and attempt.attempt.number < MOST_KILLED:
        return Verdict(State.LOST, f"{said}: killed by signal {-code}; Slurm does not say why", code)
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
"""Slurm writes these into a job's standard error, here in lower case, when it kills the job for its memory."""


def with_log(verdict: Verdict, log_tail: str | None) -> Verdict:
    """The verdict, corrected by the job's log. Without control groups, Slurm calls an out-of-memory kill FAILED."""
    killed = verdict.exit_code is not None and verdict.exit_code < 0
    low = (log_tail or "").lower()
    if verdict.state in (State.FAILED, State.LOST) and killed and any(words in low for words in MEMORY_WORDS):
        return Verdict(State.OUT_OF_MEMORY, "its job was killed for its memory", verdict.exit_code)
    return verdict
