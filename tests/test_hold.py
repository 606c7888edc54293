"""A launch whose first runs all fail with the same error is held once, says why, and can be released."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from slurm_jobs import WITHIN_S, begun, job_of, runs, slurm_state, state_of, submitted, wait_for_state
from sweep_helpers import answer

from results_db.contract import Attempt, EndedAttempt, Ending, RunRecord, State
from slurm.client.client import Slurm
from slurm.follow.hold import held, hold_from_job, shared_cause
from slurm.follow.reconcile import Reconciler
from slurm.testbed.processes import wait_for

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def failed(run: str, error: str) -> EndedAttempt:
    return EndedAttempt(Attempt(run, 1), State.FAILED, error, 1, None, "j", "1_0", "n1", NOW)


def test_five_failures_with_the_same_error() -> None:
    same = [failed(f"r{n}", f"ImportError: line {n}") for n in range(5)]  # numbers make no difference
    cause = shared_cause(same, after=5)
    assert cause is not None
    assert cause.count == 5
    assert shared_cause(same[:4], after=5) is None
    assert shared_cause(same[:3], after=3) is not None
    assert shared_cause(same, after=0) is None  # never
    different = [failed(f"r{n}", error) for n, error in enumerate(["ImportError", "OSError"] * 4)]
    assert shared_cause(different, after=5) is None  # four of each
    assert shared_cause([*different, failed("r9", "OSError")], after=5) is not None


def test_all_runs_of_a_job_on_a_faulty_node_count_once() -> None:
    def lost(run: str, job: str) -> EndedAttempt:
        error = "node n1 cannot train: no driver"
        return replace(failed(run, error), state=State.NODE_FAIL, job_id=job)

    assert shared_cause([lost(f"r{n}", "1_0") for n in range(16)], after=5) is None  # one pack
    assert shared_cause([lost(f"r{n}", f"1_{n // 2}") for n in range(8)], after=5) is None  # four
    assert shared_cause([lost(f"r{n}", f"1_{n // 2}") for n in range(10)], after=5) is not None


def one_run_each(store, slurm, count: int, *, script: str = "", **options: int) -> list[Attempt]:
    """The attempts of an array with one run per task."""
    packs = submitted(store, slurm, script or SCRIPT, tasks=[[run] for run in runs(count)], **options)
    return [attempt for (attempt,) in packs]


SCRIPT = "[ $SLURM_ARRAY_TASK_ID -ge 6 ] && exec sleep 300; echo 'ImportError: no such module' >&2; exit 1"


@pytest.mark.slow
def test_on_slurm(slurm, own, tmp_path) -> None:
    """Tasks 0 to 5 fail, one after the other; 6 would train. Task 7 has the lowest priority."""
    packs = one_run_each(own, slurm, 8, parallel=1)
    for attempt in packs[:4]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    slurm.run("scontrol", "update", f"JobId={job_of(own, packs[7])}", "Priority=1")
    reconciler = Reconciler(own, Slurm())
    wait_for("the hold", lambda: bool(reconciler.look().held), within_s=WITHIN_S)
    last = job_of(own, packs[7])
    assert slurm_state(slurm, last) == "PENDING"
    assert "JobHeld" in slurm.run("squeue", "-h", "-j", last, "-o", "%r")
    names = [one.job_name for one in own.open_attempts() if one.job_name]
    (hold,) = held(own.folder, names)
    assert hold.cause == "ImportError: no such module"
    assert hold.failures >= 5
    assert reconciler.look().held == []  # once
    seen = answer("watch", "--once", "--db", "a.db", "--json", folder=tmp_path).json
    assert seen["held"] == []  # these are plain jobs, of no sweep
    said = answer("reconcile", "--release", "--db", "a.db", folder=tmp_path)
    assert said.code == 0
    assert f"{hold.job_name} is released" in said.out
    assert "JobHeld" not in slurm.run("squeue", "-h", "-j", last, "-o", "%r")
    assert reconciler.look().held == []
    assert held(own.folder, names) == []


@pytest.mark.slow
def test_a_launch_with_a_completed_run_is_never_held(slurm, own) -> None:
    packs = one_run_each(own, slurm, 8, parallel=2)
    first = packs[0]
    begun(own, first)
    assert own.finish(first, RunRecord(first.run_id, "reached", 1.0, {}))
    for attempt in packs[1:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert Reconciler(own, Slurm()).look().held == []
    assert [state_of(own, attempt) for attempt in packs[1:6]] == [State.FAILED] * 5


@pytest.mark.slow
def test_a_job_whose_run_failed_holds_the_rest(slurm, own, tmp_path, caplog) -> None:
    """As a job does after its worker has recorded the failure, without any command."""
    database = str(tmp_path / "a.db")
    for attempt in one_run_each(own, slurm, 7, script="sleep 300", parallel=1)[:5]:
        hold_from_job(database)
        assert caplog.text == ""
        begun(own, attempt)
        assert own.end(attempt, Ending(State.FAILED, error="ValueError: lr"))
    hold_from_job(database)
    (line,) = caplog.messages
    assert "first 5 runs failed with the same error" in line
    assert line.endswith("ValueError: lr")
    assert "JobHeld" in slurm.run("squeue", "-h", "-t", "PD", "-o", "%r")
    hold_from_job(database)
    assert caplog.messages == [line]  # once
    slurm.kill_controller()
    hold_from_job(database)
    assert "could not decide whether to hold this launch" in caplog.messages[1]


@pytest.mark.slow
def test_jobs_that_are_held_already_are_reported(slurm, own) -> None:
    """As after an earlier look that held some jobs and failed at one that had just begun."""
    packs = one_run_each(own, slurm, 8, parallel=2)
    slurm.run("scontrol", "hold", *(job_of(own, attempt) for attempt in packs[6:]))
    for attempt in packs[:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    (hold,) = Reconciler(own, Slurm()).look().held
    assert "no such module" in hold.cause
    assert [one.job_name for one in held(own.folder, [hold.job_name])] == [hold.job_name]
    assert Reconciler(own, Slurm()).look().held == []  # once


@pytest.mark.slow
def test_it_can_be_switched_off(slurm, own, tmp_path) -> None:
    packs = one_run_each(own, slurm, 8, parallel=2, hold_after=0)
    for attempt in packs[:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert answer("reconcile", "--db", "a.db", folder=tmp_path).code == 0
    assert "JobHeld" not in slurm.run("squeue", "-h", "-o", "%r")
