"""Attempts that are dispatched: claimed before their job is submitted, begun by the job, requeued, ended."""

import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_helpers import (
    OTHER,
    RUN,
    THIRD,
    WHO,
    ThroughSpool,
    at_once,
    bare,
    claimed,
    every_way,
    in_threads,
    staged,
    start,
    started,
    states,
)

from results_db.contract import (
    FAILURES,
    INTERRUPTED,
    RESTARTABLE,
    Attempt,
    Ending,
    Reply,
    RunRecord,
    State,
    Store,
    StoreError,
)
from results_db.process import process_name
from results_db.store.sql import SqlStore

pytestmark = every_way

RECORD = RunRecord(RUN, "reached", 1.0, {"metric": 0.5})


def begun(store: Store, restart: int = 0) -> Attempt:
    """RUN's first attempt, claimed and begun as this restart."""
    attempt = replace(claimed(store), restart=restart)
    assert store.begin(attempt, WHO)
    return attempt


def test_a_claimed_attempt_is_pending_without_a_job(store: Store) -> None:
    assert bare(claimed(store)) == Attempt(RUN, 1)
    assert store.states([RUN]) == {RUN: State.PENDING}
    (waiting,) = store.open_attempts()
    assert (bare(waiting.attempt), waiting.state) == (Attempt(RUN, 1), State.PENDING)
    assert (waiting.job_name, waiting.job_id, waiting.launcher) == ("imagine-1", None, "slurm")
    assert (waiting.host, waiting.process, waiting.started_at, waiting.heartbeat_at) == (None,) * 4
    assert abs(waiting.claimed_at - datetime.now(UTC)) < timedelta(seconds=5)


def test_only_runs_that_are_not_active_or_completed_are_claimed(store: Store) -> None:
    names = {state: f"{index:x}" * 64 for index, state in enumerate(State)}
    staged(store, *names.values())
    for state, run_id in names.items():
        if state is State.PENDING:
            store.claim([run_id], job_name="other", launcher="slurm")
        elif state is not State.STAGED:
            attempt = start(store, run_id, WHO)
            if state in (State.COMPLETED, State.DISCARDED):
                store.finish(attempt, replace(RECORD, run_id=run_id))
                if state is State.DISCARDED:
                    store.discard([run_id], why="wrong")
            elif state is not State.RUNNING:
                store.end(attempt, Ending(state))
    free = {State.STAGED, State.DISCARDED} | INTERRUPTED
    claimed_now = store.claim(names.values(), job_name="j", launcher="slurm")
    assert [one.run_id for one in claimed_now] == [names[state] for state in State if state in free]
    assert {one.number for one in claimed_now if one.run_id != names[State.STAGED]} == {2}
    retried = store.claim(names.values(), job_name="j", launcher="slurm", retry_failed=True)
    assert [one.run_id for one in retried] == [names[state] for state in State if state in FAILURES]
    after = store.states(names.values())
    assert {state for state, run_id in names.items() if after[run_id] is State.PENDING} == (
        set(State) - {State.RUNNING, State.COMPLETED}
    )


def test_claims_have_the_order_of_the_runs_and_are_made_once(store: Store) -> None:
    staged(store, RUN, OTHER, THIRD)
    claimed_now = store.claim([THIRD, RUN, THIRD, OTHER], job_name="j", launcher="slurm")
    assert list(map(bare, claimed_now)) == [Attempt(THIRD, 1), Attempt(RUN, 1), Attempt(OTHER, 1)]
    assert store.claim([], job_name="j", launcher="slurm") == []


def test_claiming_is_all_or_nothing(store: Store) -> None:
    staged(store)
    with pytest.raises(StoreError, match="no run efef"):
        store.claim([RUN, THIRD], job_name="j", launcher="slurm")
    assert store.states([RUN]) == {RUN: State.STAGED}


def test_a_local_launch_does_not_claim_a_run_that_waits_for_its_job(store: Store) -> None:
    claimed(store)
    assert store.claim([RUN], launcher="local") == []
    assert states(store) == [(1, 0, "PENDING")]


def test_a_claim_without_a_job_names_the_process_that_made_it(store: Store) -> None:
    """So that the claims of a launch that died are found."""
    staged(store)
    (attempt,) = store.claim([RUN], launcher="local")
    (waiting,) = store.open_attempts()
    assert (waiting.attempt, waiting.state, waiting.job_name) == (attempt, State.PENDING, None)
    assert (waiting.host, waiting.process) == (socket.gethostname(), process_name(os.getpid()))


def test_claims_have_nonces(store: Store) -> None:
    """A store that was replaced by an older copy numbers anew; then the number alone names two attempts."""
    mine = claimed(store)
    strange = replace(mine, nonce="0123abcd")
    assert mine.nonce
    assert store.begin(strange, WHO) is Reply.UNKNOWN
    assert store.begin(mine, WHO) is Reply.ACCEPTED
    for restart in (0, 1):
        other = replace(strange, restart=restart)
        before = store.attempts(RUN)
        assert store.standing(other) is Reply.UNKNOWN
        assert store.heartbeat(other, step=1, progress={}) is Reply.UNKNOWN
        assert store.end(other, Ending(State.FAILED)) in (Reply.UNKNOWN, Reply.REFUSED)
        assert store.finish(other, RECORD) is Reply.UNKNOWN
        assert store.withdraw([other]) == []
        assert store.attempts(RUN) == before
    assert store.finish(mine, RECORD) is Reply.ACCEPTED
    # The run has its result, so another one is of no use.
    assert store.finish(strange, RECORD) is Reply.REFUSED


def test_a_result_of_an_unknown_attempt_can_be_adopted(store: Store) -> None:
    mine = claimed(store)
    strange = Attempt(RUN, 7, 1, "0123abcd")
    adopted = store.adopt(strange, RECORD, WHO)
    assert adopted == Attempt(RUN, 2, 0, "0123abcd")
    assert states(store) == [(1, 0, "LOST"), (2, 0, "COMPLETED")]
    assert store.run(RUN)["metrics"] == {"metric": 0.5}
    assert store.begin(mine, WHO) is Reply.REFUSED
    assert store.adopt(replace(strange, nonce="4567abcd"), RECORD, WHO) is None
    with pytest.raises(StoreError, match="no run cdcd"):
        store.adopt(Attempt(OTHER, 1), replace(RECORD, run_id=OTHER), WHO)


def test_job_ids_are_noted_before_or_after_the_job_began(store: Store) -> None:
    waiting, running = claimed(store), claimed(store, OTHER)
    assert store.begin(replace(running, restart=1), replace(WHO, job_id=None))
    store.note_jobs({waiting: "40_0", running: "40_1"})
    store.note_jobs({})
    assert [one.job_id for one in store.open_attempts()] == ["40_0", "40_1"]
    assert store.begin(waiting, replace(WHO, job_id=None))  # the worker does not know its job's id
    alive = store.open_attempts()[0]
    assert (alive.job_name, alive.job_id, alive.host, alive.log) == ("imagine-1", "40_0", "n1", "/l")
    assert (alive.state, alive.heartbeat_at) == (State.RUNNING, alive.started_at)


def test_a_withdrawn_claim_leaves_nothing(store: Store) -> None:
    attempt = claimed(store)
    assert store.withdraw([attempt]) == [attempt]
    assert store.states([RUN]) == {RUN: State.STAGED}
    assert (store.open_attempts(), store.attempts(RUN)) == ([], [])
    assert store.runs()["attempts"].tolist() == [0]
    assert store.withdraw([attempt]) == [] == store.withdraw([])


@pytest.mark.parametrize("state", sorted(INTERRUPTED))
def test_a_job_that_waits_again_is_pending_as_its_next_restart(store: Store, state: State) -> None:
    attempt = begun(store)
    store.note_jobs({attempt: "12_3"})
    assert store.end(attempt, Ending(state))
    again = replace(attempt, restart=1)
    if state is State.CANCELLED:  # a user wanted its end
        assert store.requeue([attempt]) == []
        assert states(store) == [(1, 0, "CANCELLED")]
        return
    assert store.requeue([attempt]) == [again]
    assert states(store) == [(1, 0, str(state)), (1, 1, "PENDING")]
    (waiting,) = store.open_attempts()
    assert (waiting.attempt, waiting.state, waiting.job_id) == (again, State.PENDING, "12_3")
    assert (waiting.host, waiting.started_at, waiting.step) == (None, None, 0)
    assert store.requeue([attempt]) == [] == store.requeue([again])  # twice is as once
    assert store.claim([RUN], job_name="other", launcher="slurm") == []
    # The copy before it, should it be alive after all, does not go on; a later one does.
    assert not store.begin(attempt, WHO)
    later = replace(attempt, restart=3)
    assert store.begin(later, WHO)
    assert store.finish(later, RECORD)
    assert states(store) == [(1, 0, str(state)), (1, 3, "COMPLETED")]


@pytest.mark.parametrize("state", [State.LOST, State.NODE_FAIL, State.PREEMPTED])
def test_an_attempt_that_never_began_keeps_its_restart_when_it_waits_again(
    store: Store, state: State
) -> None:
    """Its job counts its own starts, and the first is still to come."""
    attempt = claimed(store)
    store.note_jobs({attempt: "12_3"})
    # Reconcile ends it, not a worker by way of the spool.
    looked = store.direct if isinstance(store, ThroughSpool) else store
    for _ in range(2):
        assert looked.end(attempt, Ending(state, error="unknown to Slurm", exit_code=1))
        assert store.requeue([attempt]) == [attempt]
    assert states(store) == [(1, 0, "PENDING")]
    (told,) = store.attempts(RUN)
    assert (told["ended_at"], told["error"], told["exit_code"]) == (None, None, None)
    assert store.begin(attempt, WHO)
    assert store.finish(attempt, RECORD)


def test_a_run_started_without_a_claim_waits_in_no_queue(store: Store) -> None:
    attempt = started(store)
    assert store.end(attempt, Ending(State.PREEMPTED))
    assert store.requeue([attempt]) == []
    assert claimed(store).number == 2  # local workers and jobs count together


def test_only_the_newest_attempt_of_a_run_waits_again(store: Store) -> None:
    first = begun(store)
    assert store.requeue([first]) == []  # it trains
    store.end(first, Ending(State.NODE_FAIL))
    second = claimed(store, job_name="imagine-2")
    assert store.requeue([first]) == []
    store.end(second, Ending(State.FAILED))
    assert store.requeue([second]) == [] == store.requeue([])
    assert states(store) == [(1, 0, "NODE_FAIL"), (2, 0, "FAILED")]
    with pytest.raises(StoreError):
        store.requeue([Attempt(OTHER, 1)])


def test_a_withdrawn_number_is_not_given_again(store: Store) -> None:
    """Its job may exist after all, if sbatch was killed before it printed the job's id."""
    withdrawn = claimed(store)
    store.withdraw([withdrawn])
    again = claimed(store)
    assert again.number == 2
    assert not store.begin(withdrawn, WHO)
    assert not store.finish(withdrawn, RECORD)
    assert store.begin(again, WHO)


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_withdrawing_gives_a_run_its_state_back(store: Store, state: State) -> None:
    store.end(begun(store), Ending(state, error="boom"))
    store.withdraw([claimed(store, retry_failed=True)])
    assert store.states([RUN]) == {RUN: state}
    assert states(store) == [(1, 0, state)]


def test_what_was_submitted_or_began_is_not_withdrawn(store: Store) -> None:
    submitted, running = claimed(store, OTHER), begun(store)
    store.note_jobs({submitted: "40_0"})
    assert store.withdraw([submitted, running, Attempt(RUN, 9)]) == []
    assert store.states([RUN, OTHER]) == {RUN: State.RUNNING, OTHER: State.PENDING}


def test_a_job_that_never_ran_ends(store: Store) -> None:
    attempt = claimed(store)
    assert not store.heartbeat(attempt, step=1, progress={})
    assert store.end(attempt, Ending(State.CANCELLED, error="cancelled while it waited"))
    assert states(store) == [(1, 0, "CANCELLED")]
    assert not store.begin(attempt, WHO)


def test_beginning_twice_is_as_beginning_once(store: Store) -> None:
    attempt = begun(store)
    before = store.attempts(RUN)
    assert store.begin(attempt, replace(WHO, host="n2"))
    assert store.attempts(RUN) == before


def test_beginning_at_a_given_time(store: Store) -> None:
    attempt = claimed(store)
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert store.begin(attempt, WHO, at=at)
    assert store.end(attempt, Ending(State.TIMEOUT), at=at + timedelta(hours=1))
    (ended,) = store.attempts(RUN)
    assert (ended["started_at"], ended["ended_at"]) == (at, at + timedelta(hours=1))


def test_beginning_what_was_never_claimed(store: Store) -> None:
    for _ in range(2):
        assert store.begin(Attempt(RUN, 1), WHO) is Reply.UNKNOWN
        staged(store)
    claimed(store)
    assert store.begin(Attempt(RUN, 2), WHO) is Reply.UNKNOWN
    assert store.states([RUN]) == {RUN: State.PENDING}


def test_a_requeued_job_goes_on_in_a_row_of_its_own(store: Store) -> None:
    first = begun(store)
    store.heartbeat(first, step=70, progress={})
    store.end(first, Ending(State.PREEMPTED))
    second = replace(first, restart=1)
    assert store.begin(second, replace(WHO, host="n2"))
    assert states(store) == [(1, 0, "PREEMPTED"), (1, 1, "RUNNING")]
    (alive,) = store.open_attempts()
    assert (alive.attempt, alive.host, alive.job_name, alive.step) == (second, "n2", "imagine-1", 0)
    assert store.runs()["attempts"].tolist() == [1]  # one dispatch
    assert store.finish(second, RECORD)
    assert states(store) == [(1, 0, "PREEMPTED"), (1, 1, "COMPLETED")]


def test_a_result_that_arrives_while_its_requeued_job_waits_counts(store: Store) -> None:
    """The node of the first start died, and its record became visible late."""
    first = begun(store)
    store.end(first, Ending(State.NODE_FAIL))
    (second,) = store.requeue([first])
    assert store.finish(first, RECORD)
    assert store.finish(first, RECORD)  # again changes nothing
    assert states(store) == [(1, 0, "COMPLETED")]
    assert store.run(RUN)["metrics"] == {"metric": 0.5}
    assert not store.begin(second, WHO)
    assert store.open_attempts() == []


def test_of_two_copies_alive_at_once_the_newer_wins(store: Store) -> None:
    old = begun(store)
    new = replace(old, restart=1)
    assert store.begin(new, replace(WHO, host="n2"))
    # The older one was cut off and is back: all its writes are refused and change nothing.
    before = store.attempts(RUN)
    assert not store.begin(old, WHO)
    assert not store.heartbeat(old, step=5, progress={})
    assert not store.finish(old, RECORD)
    assert not store.end(old, Ending(State.FAILED, error="late"))
    assert store.attempts(RUN) == before
    assert states(store) == [(1, 0, "LOST"), (1, 1, "RUNNING")]
    assert "restart 1 began" in before[0]["error"]
    assert store.heartbeat(new, step=1, progress={})
    assert store.finish(new, RECORD)
    assert not store.finish(old, RECORD)


def test_a_restart_may_be_the_first_beginning_that_the_store_knows(store: Store) -> None:
    attempt = begun(store, restart=2)
    assert states(store) == [(1, 2, "RUNNING")]
    assert not store.begin(replace(attempt, restart=0), WHO)
    assert not store.begin(replace(attempt, restart=1), WHO)
    assert store.finish(attempt, RECORD)


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_after_which_endings_an_attempt_or_its_requeued_job_goes_on(store: Store, state: State) -> None:
    """A run at fault would fail again, and a cancelled one must stay cancelled."""
    attempt = begun(store)
    store.end(attempt, Ending(state))
    assert bool(store.begin(attempt, WHO)) is (state is State.LOST)
    goes_on = state not in (State.FAILED, State.OUT_OF_MEMORY, State.CANCELLED)
    assert bool(store.begin(replace(attempt, restart=1), WHO)) is goes_on
    assert (state in RESTARTABLE) is goes_on
    assert store.states([RUN])[RUN] == (State.RUNNING if goes_on else state)


def test_a_requeued_job_whose_run_is_complete_has_nothing_to_do(store: Store) -> None:
    attempt = begun(store)
    store.finish(attempt, RECORD)
    assert not store.begin(replace(attempt, restart=1), WHO)
    assert not store.begin(attempt, WHO)
    assert states(store) == [(1, 0, "COMPLETED")]


def test_a_new_dispatch_supersedes_every_restart_of_the_old_one(store: Store) -> None:
    old = begun(store)
    store.end(old, Ending(State.LOST))
    new = claimed(store)
    assert new.number == 2
    assert not store.begin(replace(old, restart=7), WHO)
    assert not store.heartbeat(old, step=1, progress={})
    assert not store.finish(old, RECORD)
    assert store.states([RUN]) == {RUN: State.PENDING}
    assert store.begin(new, WHO)


def test_a_result_counts_without_a_known_beginning(store: Store) -> None:
    assert store.finish(claimed(store), RECORD)
    assert states(store) == [(1, 0, "COMPLETED")]


def test_ended_attempts_are_the_newest_of_their_runs(store: Store) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number, error in ((1, "first"), (2, "second")):
        attempt = started(store)
        assert bare(attempt) == Attempt(RUN, number)
        store.end(attempt, Ending(State.FAILED, error=error, exit_code=1, log_tail="l"), at=at)
    other, third = started(store, OTHER), started(store, THIRD)
    store.end(other, Ending(State.OUT_OF_MEMORY, error="too big"), at=at + timedelta(seconds=1))
    store.end(third, Ending(State.TIMEOUT), at=at)
    later, earlier = store.ended_attempts()
    assert (later.attempt, later.state, later.error) == (other, State.OUT_OF_MEMORY, "too big")
    assert (bare(earlier.attempt), earlier.error, earlier.exit_code) == (Attempt(RUN, 2), "second", 1)
    assert (earlier.log_tail, earlier.job_id, earlier.host, earlier.ended_at) == ("l", "12_3", "n1", at)
    assert [one.attempt for one in store.ended_attempts({State.TIMEOUT})] == [third]
    claimed(store, retry_failed=True)
    assert [one.attempt for one in store.ended_attempts()] == [other]  # RUN is being tried again


def test_of_threads_that_claim_the_same_runs_at_once_each_run_goes_to_one(store: Store) -> None:
    runs = [f"{number:064x}" for number in range(40)]
    staged(store, *runs)
    orders = (runs, runs[::-1], runs, runs[::-1])
    got = in_threads(lambda number: store.claim(orders[number], job_name="j", launcher="slurm"), 4)
    assert sorted(bare(attempt) for part in got for attempt in part) == [Attempt(run, 1) for run in runs]


CLAIM = """
runs = [f"{n:064x}" for n in range(200)]
print(len(open_store(args[0], create=False).claim(runs, job_name="j", launcher="slurm")))
"""


@pytest.mark.slow
def test_of_two_launches_at_the_same_moment_each_run_goes_to_one(store: SqlStore, tmp_path: Path) -> None:
    staged(store, *(f"{n:064x}" for n in range(200)))
    # A launch is one transaction, so one of them gets all runs and the other none.
    assert sorted(map(int, at_once(CLAIM, [store.url], [store.url], folder=tmp_path))) == [0, 200]
    assert len(store.open_attempts()) == 200


@pytest.mark.slow
def test_thousands_of_attempts_pass_in_bulk(store: Store) -> None:
    """More than fit into one statement. A benchmark measures the time."""
    runs = [f"{number:064x}" for number in range(2500)]
    staged(store, *runs)
    claimed_now = store.claim(runs, job_name="j", launcher="slurm")
    assert [bare(attempt) for attempt in claimed_now] == [Attempt(run, 1) for run in runs]
    store.note_jobs({attempt: f"9_{index}" for index, attempt in enumerate(claimed_now[:2000])})
    assert store.withdraw(claimed_now) == claimed_now[2000:]
    found = store.open_attempts()
    assert [(one.attempt, one.job_id) for one in found] == [
        (attempt, f"9_{index}") for index, attempt in enumerate(claimed_now[:2000])
    ]
