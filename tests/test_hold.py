"""A launch whose first runs all fail alike is held, once, says why, and can be let go."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from slurm_jobs import WITHIN_S, begun, job_of, runs, slurm_state, state_of, submitted, wait_for_state
from sweep_helpers import answer

from results_db.contract import Attempt, EndedAttempt, RunRecord, State
from results_db.store import open_store
from slurm.client.client import Slurm
from slurm.follow.hold import from_a_job, held, hopeless
from slurm.follow.reconcile import Reconciler
from slurm.testbed.processes import wait_for

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def failed(run: str, error: str) -> EndedAttempt:
    return EndedAttempt(Attempt(run, 1), State.FAILED, error, 1, None, "j", "1_0", "n1", NOW)


def test_five_alike_and_nothing_complete() -> None:
    alike = [failed(f"r{n}", f"ImportError: line {n}") for n in range(5)]  # numbers are no difference
    cause = hopeless(alike, ())
    assert cause is not None
    assert cause.count == 5
    assert hopeless(alike[:4], ()) is None
    assert hopeless(alike, ["a job that completed a run"]) is None
    assert hopeless(alike[:3], (), after=3) is not None
    assert hopeless(alike, (), after=0) is None  # never
    different = [failed(f"r{n}", error) for n, error in enumerate(["ImportError", "OSError"] * 4)]
    assert hopeless(different, ()) is None  # four of each
    assert hopeless([*different, failed("r9", "OSError")], ()) is not None


def test_of_a_job_whose_node_was_at_fault_all_runs_failed_at_once() -> None:
    def lost(run: str, job: str) -> EndedAttempt:
        return replace(
            failed(run, "node n1 cannot train: no driver"), state=State.NODE_FAIL, job_name="j", job_id=job
        )

    assert hopeless([lost(f"r{n}", "1_0") for n in range(16)], ()) is None  # one pack
    assert hopeless([lost(f"r{n}", f"1_{n // 2}") for n in range(8)], ()) is None  # four
    assert hopeless([lost(f"r{n}", f"1_{n // 2}") for n in range(10)], ()) is not None


@pytest.fixture
def own(tmp_path):
    store = open_store(str(tmp_path / "a.db"), create=True)
    yield store
    store.close()


SCRIPT = "[ $SLURM_ARRAY_TASK_ID -ge 6 ] && exec sleep 300; echo 'ImportError: no such module' >&2; exit 1"


@pytest.mark.slow
def test_on_slurm(slurm, own, tmp_path) -> None:
    """Tasks 0 to 5 fail, one after the other; 6 would train. Task 7 was to wait for long."""
    packs = [pack[0] for pack in submitted(own, slurm, SCRIPT, tasks=[[run] for run in runs(8)], parallel=1)]
    for attempt in packs[:4]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    slurm.run("scontrol", "update", f"JobId={job_of(own, packs[7])}", "Priority=1")
    reconciler = Reconciler(own, Slurm())

    def is_held() -> bool:
        return bool(reconciler.look().held)

    wait_for("the hold", is_held, within_s=WITHIN_S)
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
def test_what_completes_something_is_never_held(slurm, own) -> None:
    packs = [pack[0] for pack in submitted(own, slurm, SCRIPT, tasks=[[run] for run in runs(8)], parallel=2)]
    first = packs[0]
    begun(own, first)
    assert own.finish(first, RunRecord(first.run_id, "reached", 1.0, {}))
    for attempt in packs[1:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert Reconciler(own, Slurm()).look().held == []
    assert [state_of(own, attempt) for attempt in packs[1:6]] == [State.FAILED] * 5


@pytest.mark.slow
def test_a_job_whose_run_failed_holds_the_rest(slurm, own, tmp_path, caplog) -> None:
    """What its worker does when it has told the store; nobody watches."""
    packs = [
        pack[0] for pack in submitted(own, slurm, "sleep 300", tasks=[[run] for run in runs(7)], parallel=1)
    ]
    database = str(tmp_path / "a.db")
    for attempt in packs[:5]:
        assert from_a_job(database) == []
        begun(own, attempt)
        assert own.end(attempt, State.FAILED, error="ValueError: lr")
    assert [hold.cause for hold in from_a_job(database)] == ["ValueError: lr"]
    assert "is held, for its first 5 runs failed alike" in caplog.text
    assert "JobHeld" in slurm.run("squeue", "-h", "-t", "PD", "-o", "%r")
    assert from_a_job(database) == []
    slurm.kill_controller()
    assert from_a_job(database) == []
    assert "whether this launch should be held" in caplog.text


@pytest.mark.slow
def test_what_is_held_already_is_told(slurm, own) -> None:
    """As by a look before that held some, and failed for one that had just begun."""
    packs = [pack[0] for pack in submitted(own, slurm, SCRIPT, tasks=[[run] for run in runs(8)], parallel=2)]
    slurm.run("scontrol", "hold", *(job_of(own, attempt) for attempt in packs[6:]))
    for attempt in packs[:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    (hold,) = Reconciler(own, Slurm()).look().held
    assert "no such module" in hold.cause
    assert [one.job_name for one in held(own.folder, [hold.job_name])] == [hold.job_name]
    assert Reconciler(own, Slurm()).look().held == []  # once


@pytest.mark.slow
def test_it_can_be_left_out(slurm, own, tmp_path) -> None:
    tasks = [[run] for run in runs(8)]
    packs = [pack[0] for pack in submitted(own, slurm, SCRIPT, tasks=tasks, parallel=2, hold_after=0)]
    for attempt in packs[:6]:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert answer("reconcile", "--db", "a.db", folder=tmp_path).code == 0
    assert "JobHeld" not in slurm.run("squeue", "-h", "-o", "%r")
