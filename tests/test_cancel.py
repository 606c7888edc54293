"""Cancel: which attempts and jobs, as plain data; and on a real Slurm, by explicit ids only."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from slurm_jobs import begun, job_of, open_attempt, runs, slurm_state, state_of, submitted, wait_for_state
from store_helpers import start
from sweep_helpers import ME, answer, opened, write_spec

from results_db.contract import OpenAttempt, State
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Answer, Job
from slurm.follow.cancel import needs_slurm, plan
from sweeps.spec.expand import expand
from sweeps.spec.load import load

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WAITS, RUNS = Job("PENDING", name="n"), Job("RUNNING", name="n")


def attempt(run: str, job: str | None, state: State = State.PENDING) -> OpenAttempt:
    return open_attempt(run, job, state, claimed=NOW)


def test_a_job_is_cancelled_only_with_its_last_run() -> None:
    attempts = [
        attempt("a", "1_0"),
        attempt("b", "1_0"),
        attempt("c", "1_1", State.RUNNING),
        attempt("d", "1_2"),
    ]
    queue = Answer({"1_0": WAITS, "1_1": RUNS, "1_2": WAITS})
    found = plan(attempts, queue=queue, run_ids={"a", "b", "c"})
    assert (found.jobs, found.shared) == (["1_0", "1_1"], [])
    assert [one.run_id for one in found.training] == ["c"]
    assert [one.run_id for one in found.waiting] == ["a", "b"]
    part = plan(attempts, queue=queue, run_ids={"a"})
    assert (part.jobs, part.shared, part.run_ids) == ([], ["a"], ["a"])


def test_states_choose() -> None:
    attempts = [attempt("a", "1_0"), attempt("b", "1_1", State.RUNNING)]
    queue = Answer({"1_0": WAITS, "1_1": RUNS})
    assert plan(attempts, queue=queue, run_ids={"a", "b"}, states=[State.RUNNING]).jobs == ["1_1"]
    assert plan(attempts, queue=queue, run_ids={"a", "b"}, states=[State.PENDING]).jobs == ["1_0"]


@pytest.mark.parametrize(
    ("jobs", "cancelled"),
    [
        ({"1_0": RUNS}, ["1_0"]),
        ({"1_0": Job("RUNNING", name="of mine")}, []),  # ids begin anew where a cluster is set up again
        ({}, []),  # Slurm does not know it, so it is cancelled only in the store
    ],
)
def test_only_our_own_jobs_are_cancelled(jobs, cancelled) -> None:
    found = plan([attempt("a", "1_0")], queue=Answer(jobs), run_ids={"a"})
    assert (found.jobs, found.run_ids) == (cancelled, ["a"])


def test_claims_and_local_runs_have_no_job_to_cancel() -> None:
    both = [attempt("a", None), attempt("b", None, State.RUNNING)]
    found = plan(both, queue=Answer(), run_ids={"a", "b"})
    assert [one.run_id for one in found.claims] == ["a"]
    assert (found.local, found.jobs) == (["b"], [])


def test_a_run_made_by_hand_within_a_job_does_not_cancel_that_job() -> None:
    by_hand = replace(attempt("a", "1_0", State.RUNNING), job_name=None, launcher="hand")
    found = plan([by_hand], queue=Answer({"1_0": Job("RUNNING", name="my allocation")}), run_ids={"a"})
    assert (found.jobs, found.local) == ([], ["a"])
    assert not needs_slurm([by_hand], {"a"})


def test_never_a_bare_scancel() -> None:
    for tell in (Slurm().cancel, Slurm().hold, Slurm().release):
        with pytest.raises(ValueError, match="at least one job id"):
            tell([])


@pytest.fixture
def sweep(tmp_path, own):
    """A launched sweep of four runs; its folder and its store."""
    own.stage(expand(load(write_spec(tmp_path, runs=4))).runs)
    return tmp_path, own


DB = ("--db", "a.db")


def test_no_match_is_an_error_of_one_line(sweep) -> None:
    folder, _ = sweep
    for arguments in (["s.yaml"], ["--where", "gol=2"], ["s.yaml", "--state", "running"]):
        said = answer("cancel", *arguments, *DB, folder=folder)
        assert said.code == 2
        assert said.err.count("\n") == 1
        assert "no active run matches" in said.err
    bare = answer("cancel", *DB, folder=folder)
    assert bare.code == 2
    assert "no runs chosen" in bare.err


def test_claims_are_withdrawn_and_local_runs_stopped_without_slurm(sweep) -> None:
    folder, store = sweep
    first, second, *_ = expand(load(folder / "s.yaml")).runs
    store.claim([first.run_id], job_name="n", launcher="slurm")
    local = start(store, second.run_id, ME)
    said = answer("cancel", "s.yaml", *DB, "--json", folder=folder)
    assert said.code == 0
    assert len(said.json["runs"]) == 2
    assert store.states([first.run_id, second.run_id]) == {
        first.run_id: State.STAGED,
        second.run_id: State.CANCELLED,
    }
    assert local is not None
    assert not store.heartbeat(local, step=1, progress={})


def test_it_asks_above_ten(own, tmp_path) -> None:
    write_spec(tmp_path, runs=11)
    many = expand(load(tmp_path / "s.yaml")).runs
    own.stage(many)
    for run in many:
        start(own, run.run_id, ME)
    said = answer("cancel", "s.yaml", *DB, folder=tmp_path)
    assert said.code == 2
    assert "give -y" in said.err
    assert len(own.open_attempts()) == 11
    assert answer("cancel", "s.yaml", *DB, "--dry-run", folder=tmp_path).code == 0
    assert len(own.open_attempts()) == 11
    assert answer("cancel", "s.yaml", "-y", *DB, folder=tmp_path).code == 0
    assert own.open_attempts() == []


@pytest.mark.slow
def test_on_slurm(slurm, own, tmp_path) -> None:
    """One pack trains and one waits; both are cancelled. Of a third, one run is. Another user's job stays."""
    a, b, c, d, e = runs(5)
    packs = submitted(
        own, slurm, "trap '' TERM; sleep 300", "--nodelist=n1", tasks=[[e], [a, b], [c, d]], parallel=1
    )
    (trains,), waits, shared = packs
    stranger = slurm.run("sbatch", "--parsable", "--output=/dev/null", "--hold", "--wrap", "sleep 300")
    begun(own, trains)
    wait_for_state(slurm, job_of(own, trains), "RUNNING")
    seeds = [run.config["seed"] for run in (a, b, c, e)]
    where = f"seed in ({', '.join(map(str, seeds))})"
    said = answer("cancel", "--where", where, *DB, folder=tmp_path)
    assert said.code == 0, said.err
    assert "4 runs cancelled, and 2 jobs" in said.out
    assert "1 of them share a job" in said.out
    states = [state_of(own, one) for one in (trains, *waits, *shared)]
    assert states == [*[State.CANCELLED] * 4, State.PENDING]
    wait_for_state(slurm, job_of(own, trains), "CANCELLED")
    assert slurm_state(slurm, stranger) == "PENDING"
    wait_for_state(slurm, job_of(own, shared[0]), "RUNNING")
    # Its worker leaves out the cancelled run.
    assert not own.begin(shared[0], ME)
    assert own.begin(shared[1], ME)


@pytest.mark.slow
def test_a_controller_that_does_not_answer_cancels_nothing(slurm, own, tmp_path) -> None:
    ((attempt,),) = submitted(own, slurm, "sleep 300", tasks=[runs(1)])
    slurm.kill_controller()
    said = answer("cancel", "--state", "pending", *DB, folder=tmp_path)
    assert said.code == 2
    assert "nothing was cancelled" in said.err
    assert said.err.count("\n") == 1
    assert state_of(opened(tmp_path), attempt) is State.PENDING
    with pytest.raises(SlurmError):
        Slurm().cancel(["1"])
