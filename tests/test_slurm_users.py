"""Several Unix users in one folder, on a real Slurm: nothing that another user can write is executed or believed."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from slurm_helpers import launch, logs, states, try_launch, wait_for_no_jobs, wait_for_states
from slurm_jobs import claimed_long_ago, job_of, runs, state_of, submitted, wait_for_state
from sweep_helpers import ME, answer, opened, small, staged, write_spec
from user_helpers import NOBODY, as_nobody, shared_folder

from jobs.dispatched import Dispatch, DispatchFolder
from results_db.contract import State
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.store.sql import SqlStore, open_store
from slurm.client.client import Slurm
from slurm.follow.reconcile import Reconciler
from slurm.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

LATER = timedelta(minutes=20)
WAITS = "launcher.additional_parameters={begin: now+1hour}"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may write."""
    with shared_folder() as folder:
        yield folder


def let_others_in(slurm: Testbed, folder: Path) -> None:
    """Let other users read slurm.conf, which a testbed keeps to itself, and write the store."""
    for path in slurm.place.conf.parent.iterdir():
        if path.name != "slurmdbd.conf":
            path.chmod(0o644)
    for path in folder.glob("a.db*"):
        path.chmod(0o666)


def start_now(slurm: Testbed, job: str) -> None:
    """Start a job that was submitted with `WAITS`."""
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def dispatches(folder: Path) -> list[Path]:
    return sorted((folder / "a.files" / "jobs").iterdir())


def test_a_second_user_can_neither_read_nor_replace_a_dispatch(slurm, shared) -> None:
    """Even under a umask that lets everyone write. The job trains, and everyone may read its log."""
    write_spec(shared, runs=1)
    (job,) = launch(shared, WAITS).json["jobs"]
    (dispatch,) = dispatches(shared)

    def attack() -> list[str]:
        done = []
        for name, attempt in {
            "list": lambda: list(dispatch.iterdir()),
            "replace": lambda: dispatch.rename(dispatch.with_name("mine")),
            "rename logs": lambda: (shared / "a.files" / "logs").rename(shared / "a.files" / "mine"),
            "rename jobs": lambda: (shared / "a.files" / "jobs").rename(shared / "a.files" / "mine"),
            "log": lambda: (shared / "a.files" / "logs" / dispatch.name / f"{job}_0_log.err").symlink_to(
                "/x"
            ),
        }.items():
            try:
                attempt()
                done.append(name)
            except PermissionError:
                pass
        return done

    assert as_nobody(attack) == []
    start_now(slurm, job)
    wait_for_states(shared, State.COMPLETED)
    (log,) = (shared / "a.files" / "logs" / dispatch.name).glob("*_log.err")
    assert "started at step 0" in as_nobody(log.read_text)


@pytest.mark.parametrize(
    ("theirs", "why"), [(True, "belongs to another user"), (False, "other users can write")]
)
def test_a_job_runs_nothing_that_another_user_may_have_written(slurm, shared, theirs, why) -> None:
    """Another user has put a folder of that name there, or the owner has opened it. No run is at fault."""
    write_spec(shared, runs=1)
    (job,) = launch(shared, WAITS).json["jobs"]
    (dispatch,) = dispatches(shared)
    if theirs:
        for path in (dispatch, *dispatch.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    else:
        dispatch.chmod(0o770)
    start_now(slurm, job)
    wait_for_no_jobs(slurm)
    assert why in logs(shared)
    assert "started" not in logs(shared)
    dispatch.chmod(0o700)
    os.chown(dispatch, 0, 0)
    said = answer("reconcile", "--db", "a.db", folder=shared)
    assert "NODE_FAIL" in said.out
    assert set(states(shared).values()) == {State.NODE_FAIL}


def test_a_folder_for_logs_that_others_can_write_is_refused(slurm, shared) -> None:
    write_spec(shared, runs=2)
    (shared / "theirs").mkdir(mode=0o777)
    (shared / "mine").mkdir(mode=0o755)
    for name, why in (
        ("theirs", f"other users can write {shared}/theirs; chmod go-w it"),
        ("mine", f"other users can replace what is in {shared}; chmod +t it"),
    ):
        said = try_launch(shared, f"launcher.submitit_folder={shared}/{name}/%A/%a")
        assert said.code == 2
        assert said.err.endswith(f"error: launcher.submitit_folder: {why}, or give another folder\n")
        assert not (shared / "a.db").exists()
    shared.chmod(0o1777)
    (job,) = launch(shared, f"launcher.submitit_folder={shared}/mine/%A/%a").json["jobs"]
    wait_for_states(shared, State.COMPLETED)
    assert "started" in (shared / "mine" / job / "1" / f"{job}_1_0_log.err").read_text()


def test_a_forged_heartbeat_names_a_private_file_as_its_log(slurm, own: SqlStore) -> None:
    ((attempt,),) = submitted(own, slurm, "exit 3", tasks=[runs(1)])
    secret = own.folder.parent / "secret"
    secret.write_text("my private key")
    forged = Heartbeat(attempt, replace(ME, log=str(secret)), 0, {})
    HeartbeatFiles(own.folder).write(forged)
    wait_for_state(slurm, job_of(own, attempt), "FAILED")
    (one,) = Reconciler(own, Slurm()).look().ended
    assert one.verdict.state is State.FAILED
    assert own.attempts(attempt.run_id)[-1]["log"] == str(secret)  # the store does not know better
    (kept,) = own.ended_attempts()
    assert "private" not in (kept.log_tail or "")


def look_later(url: str) -> tuple[int, list[str]]:
    """Reconcile long after; the number of ended attempts, and what is unknown."""
    with closing(open_store(url, create=False)) as store:
        found = Reconciler(store, Slurm()).look(now=datetime.now(UTC) + LATER)
        return len(found.ended), found.unknown


def test_reconcile_of_another_user_leaves_claims_and_folder(slurm, shared) -> None:
    """Their launch has died, or is slow on another host: only their own commands can tell."""
    write_spec(shared, runs=1)
    launch(shared, WAITS)
    let_others_in(slurm, shared)
    with closing(opened(shared)) as store:
        staged(store, small(seed=77))
        (attempt,) = store.claim([small(seed=77).run_id], job_name="s-dead", launcher="slurm")
        about = Dispatch("s-dead", store.url, str(store.folder), None, "other-host", "1:1", "me", None, 5)
        DispatchFolder.beside(store.folder, "s-dead").begin(about)
        claimed_long_ago(shared / "a.db")
        assert as_nobody(look_later, store.url)[0] == 0
        assert state_of(store, attempt) is State.PENDING
        assert len(dispatches(shared)) == 2
        # The owner's own reconcile withdraws them.
        found = Reconciler(store, Slurm()).look()
        assert found.recovered.withdrawn == [attempt]
        assert len(dispatches(shared)) == 1


def test_private_jobs_of_another_user_are_not_lost(slurm_with, shared) -> None:
    """squeue hides them from others. The owner's waiting job would be LOST, and submitted a second time."""
    slurm = slurm_with(nodes=1, accounting=False, private_jobs=True)
    write_spec(shared, runs=2)
    launch(shared, WAITS)
    let_others_in(slurm, shared)
    with closing(opened(shared)) as store:
        ended, unknown = as_nobody(look_later, store.url)
        assert ended == 0
        assert unknown == ["2 runs: the job is another user's, and squeue may hide it"]
    assert set(states(shared).values()) == {State.PENDING}
