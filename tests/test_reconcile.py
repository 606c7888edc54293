"""Reconcile on a real Slurm: how jobs ended that reported nothing to the store, and which answers end nothing."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from slurm_jobs import WITHIN_S, begun, job_of, runs, state_of, submitted, wait_for_state

from results_db.contract import Attempt, State
from results_db.store.sql import SqlStore
from slurm.client.client import Slurm
from slurm.client.parse import Unknown
from slurm.follow.reconcile import Ended, Reconciled, Reconciler, describe
from slurm.follow.verdicts import Verdict
from slurm.testbed.processes import wait_for

pytestmark = pytest.mark.slow


def look(store: SqlStore, **options) -> Reconciled:
    return Reconciler(store, Slurm()).look(**options)


def ended(found: Reconciled) -> dict[Attempt, State | None]:
    """The attempts that this look ended."""
    return {one.attempt: one.verdict.state for one in found.ended}


def later(**span: float) -> datetime:
    return datetime.now(UTC) + timedelta(**span)


def test_a_job_that_fails_before_its_worker_begins(slurm, own) -> None:
    script = '[ $SLURM_ARRAY_TASK_ID = 1 ] && sleep 300; echo "ModuleNotFoundError: No module named jobs" >&2; exit 3'
    (failed,), (going,) = submitted(own, slurm, script, tasks=[[run] for run in runs(2)])
    wait_for_state(slurm, job_of(own, failed), "FAILED")
    assert [one.attempt for one in look(own, dry_run=True).ended] == [failed]
    assert state_of(own, failed) is State.PENDING  # a dry run writes nothing
    assert ended(look(own)) == {failed: State.FAILED}
    (kept,) = own.ended_attempts()
    assert kept.exit_code == 3
    assert "No module named jobs" in (kept.log_tail or "")
    assert (kept.error or "").splitlines()[-1] == "ModuleNotFoundError: No module named jobs"
    assert state_of(own, going) is State.PENDING
    again = look(own)
    assert (again.ended, again.lines, again.unknown) == ([], [], [])


def test_scancel_from_outside_of_a_task_that_runs_and_of_one_that_waits(slurm, own) -> None:
    packs = submitted(own, slurm, "sleep 300", tasks=[[run] for run in runs(3)], parallel=1)
    running, waits, stays = (pack[0] for pack in packs)
    begun(own, running)
    wait_for_state(slurm, job_of(own, running), "RUNNING")
    slurm.run("scancel", job_of(own, waits))  # Slurm keeps no trace of it, neither in squeue nor in sacct
    slurm.run("scancel", job_of(own, running))
    wait_for_state(slurm, job_of(own, running), "CANCELLED")
    wait_for("sacct", lambda: job_of(own, running) in slurm.run("sacct", "-nPXo", "JobID"), within_s=WITHIN_S)
    assert ended(look(own)) == {running: State.CANCELLED}
    assert state_of(own, waits) is State.PENDING  # submitted a moment ago: too early to call it lost
    assert ended(look(own, now=later(minutes=10))) == {waits: State.CANCELLED}
    assert state_of(own, running) is State.CANCELLED
    assert state_of(own, stays) is State.PENDING


def test_out_of_memory(slurm, own) -> None:
    script = "exec python3 -c 'import time; x = bytearray(400_000_000); time.sleep(60)'"
    ((attempt,),) = submitted(own, slurm, script, "--mem=100", tasks=[runs(1)])
    begun(own, attempt)
    wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert ended(look(own)) == {attempt: State.OUT_OF_MEMORY}
    assert state_of(own, attempt) is State.OUT_OF_MEMORY


def test_a_worker_that_is_killed_is_lost_not_failed(slurm, own) -> None:
    """Also under the `srun` of submitit's script, whose exit code is 137."""
    ((direct,), (by_srun,)) = (
        submitted(own, slurm, script, tasks=[[run]])[0]
        for run, script in zip(runs(2), ("kill -9 $$", "srun sh -c 'kill -9 $$'"), strict=True)
    )
    for attempt in (direct, by_srun):
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    assert {one.attempt: (one.verdict.state, one.verdict.exit_code) for one in look(own).ended} == {
        direct: (State.LOST, -9),
        by_srun: (State.LOST, -9),
    }


def test_a_job_that_was_requeued_is_not_over(slurm, own) -> None:
    ((attempt,),) = submitted(own, slurm, "sleep 300", tasks=[runs(1)])
    begun(own, attempt)
    job = job_of(own, attempt)
    wait_for_state(slurm, job, "RUNNING")
    slurm.run("scontrol", "requeue", job)
    wait_for_state(slurm, job, "PENDING")
    assert look(own).ended == []
    assert look(own, now=later(hours=3)).ended == []
    assert state_of(own, attempt) is State.RUNNING
    wait_for_state(slurm, job, "RUNNING")
    assert look(own, now=later(hours=3)).ended == []


def test_a_controller_that_does_not_answer_ends_nothing(slurm, own) -> None:
    (running,), (failed,) = submitted(
        own, slurm, "[ $SLURM_ARRAY_TASK_ID = 0 ] && sleep 300; exit 1", tasks=[[run] for run in runs(2)]
    )
    begun(own, running)
    wait_for_state(slurm, job_of(own, failed), "FAILED")
    job = job_of(own, failed)
    wait_for("sacct", lambda: "FAILED" in slurm.run("sacct", "-nPXo", "State", "-j", job), within_s=WITHIN_S)
    slurm.kill_controller()
    found = look(own, now=later(hours=3))
    assert isinstance(found.queue, Unknown)
    assert found.unknown
    # sacct still answers, and its state of an ended job is final.
    assert ended(found) == {failed: State.FAILED}
    assert state_of(own, running) is State.RUNNING


def test_without_accounting_it_says_what_is_unknown(slurm_with, own) -> None:
    slurm = slurm_with(nodes=1, accounting=False, forget_after_s=2)
    ((gone,), (going,)) = submitted(
        own, slurm, "[ $SLURM_ARRAY_TASK_ID = 1 ] && sleep 300; exit 1", tasks=[[run] for run in runs(2)]
    )
    wait_for_state(slurm, job_of(own, gone), "FAILED")
    wait_for(
        "Slurm to forget it",
        lambda: "_0" not in slurm.run("squeue", "-h", "-t", "all", "-o", "%i"),
        within_s=WITHIN_S,
    )
    assert look(own).ended == []
    found = look(own, now=later(minutes=10))
    assert ended(found) == {gone: State.LOST}, found.unknown
    assert "cannot say how it ended: sacct" in found.ended[0].verdict.why
    assert state_of(own, going) is State.PENDING


def test_a_store_of_another_cluster_finds_its_job_ids_taken(slurm, own) -> None:
    """Ids are reused: a job with another name is not ours."""
    ((attempt,),) = submitted(own, slurm, "sleep 300", tasks=[runs(1)])
    slurm.run("scontrol", "update", f"JobId={job_of(own, attempt)}", "JobName=another")
    assert look(own).ended == []
    assert ended(look(own, now=later(minutes=10))) == {attempt: State.LOST}


def test_twice_at_once(slurm, own) -> None:
    packs = submitted(own, slurm, "exit 1", tasks=[[run] for run in runs(6)])
    for (attempt,) in packs:
        wait_for_state(slurm, job_of(own, attempt), "FAILED")
    found: list[Reconciled] = []
    threads = [threading.Thread(target=lambda: found.append(look(own))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert {state_of(own, attempt) for (attempt,) in packs} == {State.FAILED}
    assert {len(own.attempts(attempt.run_id)) for (attempt,) in packs} == {1}


def test_queries_are_counted_and_sacct_is_asked_rarely(slurm, own) -> None:
    submitted(own, slurm, "sleep 300", tasks=[[run] for run in runs(2)])
    cluster = Slurm()
    reconciler = Reconciler(own, cluster)
    for _ in range(5):
        reconciler.look()
    assert [command for _, command in cluster.asked] == ["squeue"] * 5
    slurm.run("scancel", "--name", own.open_attempts()[0].job_name or "")
    wait_for("the end", lambda: not slurm.run("squeue", "-h"), within_s=WITHIN_S)
    reconciler.look()
    assert own.open_attempts() == []
    assert set(cluster.per_minute()) == {"squeue"}  # squeue still knew how it ended


def test_runs_that_ended_alike_are_one_line() -> None:
    def one(run: int, state: State, why: str, *, job: str = "17") -> Ended:
        return Ended(Attempt(f"{run:010x}", 1), f"{job}_{run}", Verdict(state, why))

    alike = [one(run, State.LOST, f"its job ended on n{run}", job=str(20 + run % 7)) for run in range(2000)]
    other = one(2000, State.FAILED, "exit code 3")
    assert describe([other, *alike]) == [
        "2000 runs (job 20, 21, 22, 23, 24 and 2 more): LOST: its job ended on n0",
        "run 00000007d0 (job 17_2000): FAILED: exit code 3",
    ]
