"""What became of an attempt, by three sources: the table of cases, and what holds for all of them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_jobs import open_attempt

from results_db.contract import Attempt, EndedAttempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import ENDS, Verdict, judge, waits_again, with_log

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FAILED_QUERY = Unknown("it did not answer")
NO_ACCOUNTING = Unknown("no sacct on PATH", lasting=True)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def waiting(*, number: int = 1, since: datetime | None = None) -> OpenAttempt:
    return open_attempt("ab", "7_3", number=number, claimed=since or ago(days=2))


def running(
    *, heard: datetime | None = None, number: int = 1, started: datetime | None = None
) -> OpenAttempt:
    times = {"claimed": ago(days=2), "started": started or ago(hours=3), "heard": heard or ago(hours=1)}
    return open_attempt("ab", "7_3", State.RUNNING, number=number, **times)


def ended(state: str, *, code: int | None = None, at: datetime | None = None, reason: str = "") -> Job:
    return Job(state, reason, "n", "n1", code, at or ago(minutes=30))


CASES = [
    # attempt, squeue, sacct, its end
    (waiting(), Job("PENDING", "Priority"), None, None),
    (waiting(), Job("RUNNING"), None, None),
    # Silent for an hour, but squeue says that it runs: its store may be down, or its clock wrong.
    (running(), Job("RUNNING"), FAILED_QUERY, None),
    (running(), Job("COMPLETING"), None, None),
    (running(), Job("SUSPENDED"), None, None),
    (running(), Job("A_WORD_OF_TOMORROW"), None, None),
    # Requeued: it waits again. sacct still shows the end of its earlier start.
    (running(), Job("PENDING", "BeginTime"), ended("NODE_FAIL"), None),
    (running(), Job("PENDING", "BeginTime"), ended("PREEMPTED"), None),
    (running(), Job("REQUEUE_HOLD"), ended("FAILED", code=1), None),
    # It ended. squeue remembers that for some minutes, sacct after that.
    (running(), ended("FAILED", code=1), None, State.FAILED),
    (running(), None, ended("FAILED", code=1), State.FAILED),
    (waiting(), None, ended("FAILED", code=1), State.FAILED),
    (running(), ended("TIMEOUT"), None, State.TIMEOUT),
    (running(), ended("DEADLINE"), None, State.TIMEOUT),
    (running(), ended("OUT_OF_MEMORY"), None, State.OUT_OF_MEMORY),
    (running(), ended("CANCELLED"), FAILED_QUERY, State.CANCELLED),
    (running(heard=ago(seconds=5)), ended("CANCELLED"), None, State.CANCELLED),
    (running(), None, ended("COMPLETED", code=0), State.LOST),  # without a result of this run
    # On a network file system its files may not be visible here yet.
    (running(), ended("COMPLETED", code=0, at=ago(seconds=100)), None, None),
    (running(), None, ended("COMPLETED", code=0, at=ago(seconds=100)), None),
    (running(), ended("COMPLETED", code=0, at=ago(seconds=130)), None, State.LOST),
    # The signal of a preemption or time limit came before its worker handled it; 9 and 15 come from outside.
    *((running(), ended("FAILED", code=-number), None, State.LOST) for number in (9, 10, 12, 15)),
    (running(), ended("FAILED", code=-11), None, State.FAILED),  # a segmentation fault is the run's own fault
    # A lost node: first NODE_FAIL, seconds later the requeue. Without a requeue it is the end.
    (running(), ended("NODE_FAIL", at=ago(seconds=20)), None, None),
    (running(), ended("NODE_FAIL", at=ago(minutes=10)), None, State.NODE_FAIL),
    (running(), Job("NODE_FAIL"), None, None),  # without a time
    # Its node was cut off, and the worker still writes.
    (running(heard=ago(seconds=5)), ended("NODE_FAIL", at=ago(minutes=10)), None, None),
    (running(), ended("PREEMPTED", at=ago(seconds=5)), None, None),
    (running(), ended("PREEMPTED", at=ago(minutes=10)), None, State.PREEMPTED),
    (running(), None, ended("NODE_FAIL"), State.NODE_FAIL),  # squeue does not list it as waiting again
    # The controller is down: only a final state in sacct counts, unless the job may be requeued.
    (running(), FAILED_QUERY, ended("FAILED", code=1), State.FAILED),
    (running(), FAILED_QUERY, ended("NODE_FAIL"), None),
    (running(), FAILED_QUERY, ended("PREEMPTED"), None),
    (running(), FAILED_QUERY, Job("RUNNING"), None),
    (running(), FAILED_QUERY, None, None),
    (running(), FAILED_QUERY, FAILED_QUERY, None),
    (waiting(), FAILED_QUERY, NO_ACCOUNTING, None),
    # No source knows the job: a killed controller lost the last seconds.
    (waiting(), None, None, State.LOST),
    (waiting(since=ago(minutes=1)), None, None, None),  # sacct is some seconds behind
    (running(), None, None, State.LOST),
    (running(), None, Job("RUNNING"), State.LOST),  # accounting was never told
    (running(heard=ago(seconds=20)), None, None, None),  # its worker is alive
    (running(heard=ago(minutes=3)), None, None, None),
    # The worker's clock is an hour ahead: a heartbeat in the future proves nothing.
    (running(heard=NOW + timedelta(hours=1)), None, None, State.LOST),
    (running(heard=NOW + timedelta(hours=1)), Job("RUNNING"), None, None),
    (running(heard=ago(hours=9)), Job("RUNNING"), None, None),  # an hour behind, or nine
    # Without sacct.
    (waiting(), None, NO_ACCOUNTING, State.LOST),
    (running(), None, NO_ACCOUNTING, State.LOST),
    (waiting(), None, FAILED_QUERY, None),
    (running(heard=ago(minutes=10)), None, FAILED_QUERY, None),
    (running(heard=ago(minutes=50)), None, FAILED_QUERY, State.LOST),
]


@pytest.mark.parametrize(("attempt", "queue", "account", "state"), CASES)
def test_the_end_of_an_attempt(attempt, queue, account, state) -> None:
    assert judge(attempt, queue, account, now=NOW).state is state


@pytest.mark.parametrize(
    ("state", "job", "again"),
    [
        ("PREEMPTED", Job("PENDING", name="n"), True),
        ("NODE_FAIL", Job("REQUEUE_HOLD", name="n"), True),
        ("LOST", Job("PENDING", name="n"), True),
        # Its worker reported that it saved, and is about to requeue the job.
        ("PREEMPTED", Job("RUNNING", name="n"), True),
        ("PREEMPTED", Job("COMPLETING", name="n"), True),
        ("LOST", Job("RUNNING", name="n"), False),
        ("PREEMPTED", Job("CANCELLED", name="n"), False),
        ("PREEMPTED", Job("PENDING", name="another"), False),
        ("PREEMPTED", None, False),
    ],
)
def test_whether_an_interrupted_run_waits_again(state, job, again) -> None:
    one = EndedAttempt(Attempt("ab", 1), State(state), None, None, None, "n", "7_3", "n1", ago(days=1))
    assert waits_again(one, Answer({"7_3": job} if job else {})) is again


def test_a_cancelled_task_that_waited_leaves_no_trace_but_its_array_does() -> None:
    assert judge(waiting(), None, None, now=NOW, array_known=True).state is State.CANCELLED
    assert judge(running(), None, None, now=NOW, array_known=True).state is State.LOST  # it had begun


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [
        (1, -9, State.LOST),  # `kill -9`, or the kernel out of memory: perhaps not the run's fault
        (2, -15, State.LOST),
        (3, -9, State.FAILED),  # the third time it is
        (1, -11, State.FAILED),  # a segmentation fault does not come from outside
        (1, 1, State.FAILED),
        (1, None, State.FAILED),
    ],
)
def test_a_job_that_was_killed_is_tried_again_twice(number, code, state) -> None:
    verdict = judge(running(number=number), ended("FAILED", code=code), None, now=NOW)
    assert (verdict.state, verdict.exit_code) == (state, code)


NO_MEMORY = "step 10\nslurmstepd-n1: error: Exceeded job memory limit\nsrun: error: n1: task 0: Killed"


@pytest.mark.parametrize(
    ("before", "code", "log", "after"),
    [
        (State.LOST, -9, NO_MEMORY, State.OUT_OF_MEMORY),
        (State.FAILED, -9, NO_MEMORY, State.OUT_OF_MEMORY),
        (State.FAILED, -9, "slurmstepd: error: Detected 1 oom-kill event(s)", State.OUT_OF_MEMORY),
        (State.LOST, -9, "step 10", State.LOST),
        (State.LOST, -9, None, State.LOST),
        (State.FAILED, 1, NO_MEMORY, State.FAILED),  # it survived that
        (State.CANCELLED, -15, NO_MEMORY, State.CANCELLED),
    ],
)
def test_only_the_log_tells_of_out_of_memory(before, code, log, after) -> None:
    assert with_log(Verdict(before, "killed", code), log).state is after


def test_a_verdict_says_what_is_unknown() -> None:
    assert "cannot say how it ended: no sacct on PATH" in judge(waiting(), None, NO_ACCOUNTING, now=NOW).why
    assert not judge(waiting(), FAILED_QUERY, None, now=NOW).certain


TIMES = st.integers(-7200, 200_000).map(lambda seconds: NOW - timedelta(seconds=seconds))
WORDS = st.sampled_from([*ENDS, "PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SPECIAL_EXIT", "??"])
JOBS = st.builds(
    Job,
    WORDS,
    st.sampled_from(["", "BeginTime"]),
    exit_code=st.none() | st.integers(-31, 255),
    ended_at=st.none() | TIMES,
)
ATTEMPTS = st.builds(
    lambda begun, since, heard, number: (
        running(heard=heard, started=since, number=number) if begun else waiting(since=since, number=number)
    ),
    st.booleans(),
    TIMES,
    TIMES,
    st.integers(1, 5),
)
FAILED_QUERIES = st.builds(Unknown, st.just("it did not answer"), st.booleans())
ANY_WORD = st.none() | JOBS | FAILED_QUERIES


@given(ATTEMPTS, FAILED_QUERIES, FAILED_QUERIES | st.none(), st.booleans())
def test_a_failed_query_never_leads_to_an_end(attempt, queue, account, array_known) -> None:
    """However long the silence: without squeue, absence from sacct proves nothing."""
    assert judge(attempt, queue, account, now=NOW, array_known=array_known).state is None


@given(ATTEMPTS, JOBS, ANY_WORD, st.booleans())
def test_a_job_that_goes_on_in_squeue_goes_on(attempt, queue, account, array_known) -> None:
    verdict = judge(attempt, queue, account, now=NOW, array_known=array_known)
    assert verdict.state is None or (queue.state in ENDS and verdict.certain)


@given(ATTEMPTS, ANY_WORD, ANY_WORD, st.booleans())
def test_every_end_is_a_state_that_the_store_accepts(attempt, queue, account, array_known) -> None:
    verdict = judge(attempt, queue, account, now=NOW, array_known=array_known)
    assert verdict.state is None or verdict.state in {*ENDS.values()}
    assert verdict.why
    assert "\n" not in verdict.why
