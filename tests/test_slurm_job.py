"""A job that is preempted, timed out, cancelled or started twice saves, comes back, and ends the same."""

from contextlib import closing

import pytest
from slurm_helpers import (
    LONG,
    WITHIN_S,
    assert_whole,
    attempts,
    launch,
    logs,
    states,
    train_here,
    wait_for_log,
    wait_for_no_jobs,
    wait_for_states,
)
from store_helpers import stopped
from sweep_helpers import opened, wait_until, write_spec

from results_db.contract import State
from results_db.process import is_alive
from slurm.client.client import Slurm
from slurm.follow.reconcile import Reconciler

pytestmark = [pytest.mark.slow, pytest.mark.fault]

LONGER = {**LONG, "max_steps": 50_000}
"""Longer than 45 s, at up to a thousand steps per second."""

ON_N1 = "launcher.additional_parameters={nodelist: n1}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of the long spec."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_spec(folder, runs=1, **LONG)
    return train_here(folder)


@pytest.fixture
def long(tmp_path):
    """A folder with the long spec."""
    write_spec(tmp_path, runs=1, **LONG)
    return tmp_path


def tries(folder):
    """Number, restart and state of each attempt of the one run."""
    (found,) = attempts(folder)
    return [(one["number"], one["restart"], str(one["state"])) for one in found]


def preempt(slurm):
    """A job of a higher partition takes the whole node n1 for a moment."""
    slurm.run(*("sbatch", "-p", "urgent", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2"))


def test_preempted_it_saves_comes_back_and_ends_the_same(slurm, long, undisturbed) -> None:
    """A preemption is no time-out, so it comes back although no time-out is allowed."""
    (job,) = launch(long, ON_N1, "launcher.timeout_min=9", "launcher.max_num_timeout=0").json["jobs"]
    wait_for_log(long, "started")
    preempt(slurm)
    wait_for_states(long, State.COMPLETED)
    assert tries(long) == [(1, 0, "PREEMPTED"), (1, 1, "COMPLETED")]
    assert [one["job_id"] for one in attempts(long)[0]] == [job, job]
    assert "saved and requeued" in logs(long)
    assert "start 1, on n1" in logs(long)
    # It continued at its checkpoint.
    resumed = int(logs(long).rpartition(": started at step ")[2].split()[0])
    assert resumed > 0
    assert_whole(long, slurm, undisturbed)


def test_preempted_by_sigterm_alone_it_comes_back_as_well(slurm_with, long, undisturbed) -> None:
    """Where SlurmctldParameters has no preempt_send_user_signal; the grace time begins with SIGTERM."""
    slurm = slurm_with(nodes=1, preempt_signal=False, accounting=False)
    launch(long)
    wait_for_log(long, "started")
    preempt(slurm)
    wait_for_states(long, State.COMPLETED)
    assert tries(long) == [(1, 0, "PREEMPTED"), (1, 1, "COMPLETED")]
    assert_whole(long, slurm, undisturbed)


def test_at_its_time_limit_it_goes_on_until_it_is_done_or_max_num_timeout_is_reached(slurm, tmp_path) -> None:
    """With a limit of a minute, at which submitit would take any signal for one time-out too many.

    Slurm checks limits every 30 s and signals up to 30 s early, so with a delay of 15 s after 15 to 45 s.
    """
    here, on, off = (tmp_path / name for name in ("here", "on", "off"))
    for folder in (here, on, off):
        folder.mkdir()
        write_spec(folder, runs=1, **LONGER)
    limit = ("launcher.timeout_min=1", "launcher.signal_delay_s=15")
    launch(on, *limit)
    launch(off, *limit, "launcher.max_num_timeout=0")
    wait_for_log(on, "saved and requeued")
    wait_for_log(off, "saved; not requeued: max_num_timeout is 0")
    wait_for_states(on, State.COMPLETED, within_s=3 * WITHIN_S)  # where importing takes long, many starts
    found = tries(on)
    assert len(found) > 1
    assert found[-1] == (1, len(found) - 1, "COMPLETED")
    assert {state for *_, state in found[:-1]} == {"PREEMPTED"}
    assert_whole(on, slurm, train_here(here))
    assert tries(off) == [(1, 0, "PREEMPTED")]


def test_cancelled_from_outside_it_saves_and_ends(slurm, long, undisturbed) -> None:
    (job,) = launch(long).json["jobs"]
    wait_for_log(long, "started")
    slurm.run("scancel", job)
    wait_for_no_jobs(slurm)
    assert tries(long) == [(1, 0, "PREEMPTED")]
    assert "told to end" in logs(long)
    assert "requeued" not in logs(long)
    # The next launch continues it.
    launch(long)
    wait_for_states(long, State.COMPLETED)
    assert tries(long) == [(1, 0, "PREEMPTED"), (2, 0, "COMPLETED")]
    assert_whole(long, slurm, undisturbed)


def test_requeued_from_outside(slurm, long, undisturbed) -> None:
    """Until it starts again it waits like any other job, and a launch does not submit it again."""
    (job,) = launch(long).json["jobs"]
    wait_for_log(long, "started")
    slurm.run("scontrol", "requeue", job)
    wait_until(lambda: "PENDING" in slurm.run("squeue", "-h", "-j", job, "-o", "%T"), within_s=WITHIN_S)
    if set(states(long).values()) == {State.PREEMPTED}:  # its worker had the time to report it
        said = launch(long)
        assert said.json["submitted"] == 0
        assert said.json["active"] == 1
        assert "1 interrupted run in the queue again" in said.err
        assert tries(long) == [(1, 0, "PREEMPTED"), (1, 1, "PENDING")]
    wait_for_states(long, State.COMPLETED)
    assert [(number, restart) for number, restart, _ in tries(long)] == [(1, 0), (1, 1)]
    assert_whole(long, slurm, undisturbed)


def test_two_copies_of_a_job_are_two_restarts(slurm, long, undisturbed) -> None:
    """Its node is cut from the network, and Slurm starts it again on another node: the newer copy wins."""
    launch(long, "launcher.additional_parameters={exclude: 'n3,n4'}")
    wait_for_log(long, "started")
    ((one,),) = attempts(long)
    # On a fast machine the first copy would be done before the other begins.
    with stopped(int(one["process"].partition(":")[0])):
        slurm.cut_node(one["host"], noticed=True)
        wait_until(
            lambda: attempts(long)[0][-1]["restart"] and attempts(long)[0][-1]["process"], within_s=WITHIN_S
        )
    wait_for_states(long, State.COMPLETED)
    wait_until(lambda: not is_alive(one["process"]), within_s=WITHIN_S)
    found = tries(long)
    assert found[-1] == (1, 1, "COMPLETED")
    assert found[0][:2] == (1, 0)
    assert {entry["host"] for entry in attempts(long)[0]} == {"n1", "n2"}
    assert_whole(long, slurm, undisturbed)


def test_the_same_restart_count_twice(slurm, long, undisturbed) -> None:
    """A controller that dies before it has written a job's start to disk starts the job again, without counting.

    The node knows the job and refuses it; then Slurm ends the copy that runs, and holds the job.
    """
    launch(long, "launcher.additional_parameters={begin: now+5}")
    slurm.wait_for_save()  # while the job waits
    wait_for_log(long, "start 0, on")  # soon after its start, before the controller writes to disk again
    slurm.kill_controller()
    slurm.start_controller()
    wait_until(
        lambda: "launch failed requeued held" in slurm.run("squeue", "-h", "-t", "PD", "-o", "%r"),
        within_s=WITHIN_S,
    )
    with closing(opened(long)) as store:
        planned = Reconciler(store, Slurm()).look(dry_run=True)
        found = Reconciler(store, Slurm()).look()
    assert len(found.released) == 1
    assert planned.released == found.released
    assert not found.ended
    wait_for_states(long, State.COMPLETED)
    # The first copy may have ended before it could tell the store that it began.
    assert [restart for _, restart, _ in tries(long)] in ([0, 1], [1])
    assert_whole(long, slurm, undisturbed)
