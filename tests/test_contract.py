"""The promises of `results_db.contract`, over every kind of store, and by way of the spool. What SQL adds is in
test_store.py; what dispatch adds in test_attempts.py."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from store_helpers import ThroughSpool

from results_db.contract import (
    FAILURES,
    INTERRUPTED,
    Attempt,
    NewSweep,
    PlannedRun,
    Provenance,
    RunRecord,
    Sample,
    State,
    Store,
    StoreError,
)
from results_db.store.sql import SqlStore

pytestmark = pytest.mark.parametrize("store_url", ["sqlite", "postgresql", "spooled"], indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, store: SqlStore) -> SqlStore | ThroughSpool:
    """The store; and once with its attempts ending by way of the spool."""
    return ThroughSpool(store) if request.node.callspec.params["store_url"] == "spooled" else store


RUN = "ab" * 32
OTHER = "cd" * 32
CONFIG = {"experiment": "life_state", "gol": 3, "lr": 5e-4, "ae": True, "seed": 0}
WHO = Provenance(
    launcher="local",
    host="node1",
    process="123:1700000000.5",
    device="cpu",
    git_commit="0123abc",
    git_dirty=False,
    versions={"torch": "2.6"},
    job_id="77_1",
    log="/tmp/log",
)
RECORD = RunRecord(
    run_id=RUN,
    outcome="reached",
    seconds=12.5,
    metrics={"metric": 0.75, "metric_adv": None, "steps": 1500.0},
    traces={"decoded_1": ([0, 50], [0.5, 0.875])},
    samples={"boards": Sample(b"\x00\xff npz")},
)


def staged(store: Store, *run_ids: str) -> None:
    store.stage([PlannedRun(run_id, CONFIG) for run_id in run_ids or (RUN,)])


def started(store: Store) -> Attempt:
    staged(store)
    attempt = store.start(RUN, WHO)
    assert attempt is not None
    return attempt


def test_staging_twice_leaves_one_run_as_it_was(store: Store) -> None:
    started(store)
    store.stage([PlannedRun(RUN, {"gol": 99}), PlannedRun(OTHER, CONFIG), PlannedRun(OTHER, CONFIG)])
    assert store.states([RUN, OTHER]) == {RUN: State.RUNNING, OTHER: State.STAGED}
    frame = store.runs()
    assert list(frame["run_id"]) == [RUN, OTHER]
    assert list(frame["gol"]) == [3, 3]


def test_staging_nothing_is_allowed(store: Store) -> None:
    store.stage([])
    store.stage([], sweep=NewSweep("quick", "name: quick"))
    assert store.states([]) == {}
    assert len(store.runs()) == 0


def test_states_leave_out_unknown_runs(store: Store) -> None:
    staged(store)
    assert store.states([RUN, OTHER]) == {RUN: State.STAGED}


def test_starting_an_unknown_run_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="no run abab"):
        store.start(RUN, WHO)


def test_a_running_run_is_not_started_again(store: Store) -> None:
    attempt = started(store)
    assert attempt == Attempt(RUN, number=1, restart=0)
    assert store.start(RUN, WHO) is None
    assert store.states([RUN])[RUN] == State.RUNNING


def test_a_completed_run_is_not_started_again(store: Store) -> None:
    assert store.finish(started(store), RECORD)
    assert store.start(RUN, WHO) is None


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_a_run_that_ended_without_result_can_be_started_again(store: Store, state: State) -> None:
    first = started(store)
    assert store.end(first, state, error="boom", exit_code=3)
    assert store.states([RUN])[RUN] == state
    assert store.start(RUN, WHO) == Attempt(RUN, number=2, restart=0)
    ended = store.attempts(RUN)[0]
    assert (ended["state"], ended["error"], ended["exit_code"]) == (state, "boom", 3)


def test_ending_twice_is_as_ending_once(store: Store) -> None:
    attempt = started(store)
    assert store.end(attempt, State.FAILED, error="first")
    assert store.end(attempt, State.FAILED, error="second")
    assert store.attempts(RUN)[0]["error"] == "first"


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED - {State.LOST}))
def test_an_ended_attempt_ends_in_no_other_way(store: Store, state: State) -> None:
    attempt = started(store)
    store.end(attempt, state, error="first")
    other = State.FAILED if state is not State.FAILED else State.LOST
    assert not store.end(attempt, other, error="second")
    assert not store.heartbeat(attempt, step=1, progress={})
    assert store.states([RUN])[RUN] == state
    assert store.attempts(RUN)[0]["error"] == "first"


def test_of_a_lost_attempt_its_worker_may_say_how_it_ended(store: Store) -> None:
    attempt = started(store)
    store.end(attempt, State.LOST, error="no heartbeat")
    assert store.end(attempt, State.FAILED, error="Traceback", exit_code=1, log_tail="step 7")
    ended = store.attempts(RUN)[0]
    assert (ended["state"], ended["error"], ended["exit_code"]) == (State.FAILED, "Traceback", 1)
    assert ended["log_tail"] == "step 7"


def test_a_lost_attempt_that_is_heard_of_is_alive(store: Store) -> None:
    attempt = started(store)
    store.end(attempt, State.LOST, error="no heartbeat")
    assert store.heartbeat(attempt, step=8, progress={})
    assert store.states([RUN])[RUN] == State.RUNNING
    (alive,) = store.open_attempts()
    assert (alive.attempt, alive.step) == (attempt, 8)
    assert store.attempts(RUN)[0]["error"] is None
    assert store.attempts(RUN)[0]["ended_at"] is None


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_a_result_counts_whatever_was_believed_of_its_attempt(store: Store, state: State) -> None:
    attempt = started(store)
    store.end(attempt, state, error="seen from outside")
    assert store.finish(attempt, RECORD)
    assert store.states([RUN])[RUN] == State.COMPLETED
    assert store.attempts(RUN)[0]["error"] is None


@pytest.mark.parametrize("state", sorted(set(State) - FAILURES - INTERRUPTED))
def test_an_attempt_ends_only_in_an_ending(store: Store, state: State) -> None:
    attempt = started(store)
    with pytest.raises(ValueError, match=state):
        store.end(attempt, state)
    assert store.states([RUN])[RUN] == State.RUNNING


def test_finish_writes_everything(store: Store) -> None:
    assert store.finish(started(store), RECORD)
    row = store.runs().iloc[0]
    assert (row["state"], row["outcome"], row["attempts"], row["seconds"]) == (
        "COMPLETED",
        "reached",
        1,
        12.5,
    )
    assert (row["metric"], row["steps"]) == (0.75, 1500.0)
    assert row["metric_adv"] != row["metric_adv"]  # NaN stands for null
    assert store.traces(RUN) == {"decoded_1": ([0, 50], [0.5, 0.875])}
    assert store.samples(RUN) == {"boards": Sample(b"\x00\xff npz")}
    assert store.attempts(RUN)[0]["state"] == "COMPLETED"


def test_a_finished_attempt_stands_at_the_last_step(store: Store) -> None:
    attempt = started(store)
    store.heartbeat(attempt, step=250, progress={})
    store.finish(attempt, RECORD)
    assert store.attempts(RUN)[0]["step"] == 1500  # the record's metric `steps`


@pytest.mark.parametrize("metrics", [{}, {"steps": None}])
def test_without_a_count_of_steps_the_last_heartbeats_stands(
    store: Store, metrics: dict[str, float | None]
) -> None:
    attempt = started(store)
    store.heartbeat(attempt, step=250, progress={})
    store.finish(attempt, RunRecord(RUN, "reached", 1.0, metrics))
    assert store.attempts(RUN)[0]["step"] == 250


def test_finishing_twice_is_as_finishing_once(store: Store) -> None:
    attempt = started(store)
    assert store.finish(attempt, RECORD)
    before = store.attempts(RUN)
    assert store.finish(attempt, RECORD)
    assert store.attempts(RUN) == before
    assert len(store.runs()) == 1


def test_a_completed_run_never_changes(store: Store) -> None:
    attempt = started(store)
    store.finish(attempt, RECORD)
    other = RunRecord(run_id=RUN, outcome="diverged", seconds=1.0, metrics={"metric": 0.1})
    assert not store.finish(attempt, other)
    assert not store.end(attempt, State.FAILED)
    assert not store.heartbeat(attempt, step=9, progress={})
    row = store.runs().iloc[0]
    assert (row["state"], row["outcome"], row["metric"]) == ("COMPLETED", "reached", 0.75)


def test_writes_of_an_older_attempt_are_refused(store: Store) -> None:
    old = started(store)
    store.end(old, State.LOST)
    new = store.start(RUN, WHO)
    assert new is not None
    assert not store.heartbeat(old, step=5, progress={"accuracy": 0.5})
    assert not store.end(old, State.FAILED)
    assert not store.finish(old, RECORD)
    assert store.states([RUN])[RUN] == State.RUNNING
    assert store.traces(RUN) == {}
    assert store.heartbeat(new, step=1, progress={})
    assert store.finish(new, RECORD)
    # The old attempt with the very record that completed the run is still not the one that counts.
    assert not store.finish(old, RECORD)


def test_an_attempt_that_the_store_never_granted_is_refused(store: Store) -> None:
    attempt = started(store)
    assert not store.finish(Attempt(RUN, attempt.number + 1), RECORD)


def test_finish_is_all_or_nothing(store: Store) -> None:
    attempt = started(store)
    # JSON has no NaN, so the trace cannot be written, after the run's own row was.
    broken = RunRecord(RUN, "reached", 1.0, {"metric": 1.0}, {"t": ([0], [float("nan")])})
    with pytest.raises(Exception, match="Out of range float"):
        store.finish(attempt, broken)
    assert store.states([RUN])[RUN] == State.RUNNING
    assert store.runs()["metric"].isna().all()
    assert store.finish(attempt, RECORD)


def test_a_metric_that_is_nan_is_null(store: Store) -> None:
    record = RunRecord(RUN, "diverged", 1.0, {"metric": float("nan")})
    attempt = started(store)
    assert store.finish(attempt, record)
    assert store.finish(attempt, record)  # NaN differs from itself; the same record does not
    assert store.runs()["metric"].isna().all()


def test_a_record_of_another_run_is_a_mistake(store: Store) -> None:
    attempt = started(store)
    with pytest.raises(ValueError, match=OTHER):
        store.finish(attempt, RunRecord(OTHER, "reached", 1.0, {}))


def test_open_attempts_show_who_is_alive(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    attempt = started(store)
    assert store.heartbeat(attempt, step=250, progress={"accuracy": 0.5})
    (alive,) = store.open_attempts()
    assert alive.attempt == attempt
    assert (alive.state, alive.launcher, alive.job_id) == (State.RUNNING, "local", "77_1")
    assert (alive.host, alive.process, alive.log) == ("node1", "123:1700000000.5", "/tmp/log")
    assert (alive.step, alive.progress) == (250, {"accuracy": 0.5})
    assert alive.started_at is not None
    assert alive.heartbeat_at is not None
    assert before <= alive.claimed_at == alive.started_at <= alive.heartbeat_at
    assert alive.heartbeat_at <= datetime.now(UTC) + timedelta(seconds=1)
    store.finish(attempt, RECORD)
    assert store.open_attempts() == []


def test_replacing_metrics_leaves_the_others(store: Store) -> None:
    attempt = started(store)
    with pytest.raises(StoreError, match="RUNNING"):
        store.replace_metrics(RUN, {"metric": 0.5})
    store.finish(attempt, RECORD)
    store.replace_metrics(RUN, {"metric": 0.25, "metric_plain": 0.125})
    row = store.runs().iloc[0]
    assert (row["metric"], row["metric_plain"], row["steps"]) == (0.25, 0.125, 1500.0)
    with pytest.raises(StoreError, match="no run"):
        store.replace_metrics(OTHER, {"metric": 0.5})


def test_find_by_prefix(store: Store) -> None:
    twin = "abab" + "0" * 60
    staged(store, RUN, OTHER, twin)
    assert store.find("c") == OTHER
    assert store.find("ABABA") == RUN
    assert store.find(RUN) == RUN
    with pytest.raises(StoreError, match="2 runs begin with 'abab'"):
        store.find("abab")
    with pytest.raises(StoreError, match="no run begins with 'ff'"):
        store.find("ff")
    for bad in ("", "xyz", "a%", "a_"):
        with pytest.raises(StoreError, match="not the beginning of a run id"):
            store.find(bad)


def test_a_run_without_results_has_empty_parts(store: Store) -> None:
    staged(store)
    assert (store.traces(RUN), store.samples(RUN), store.attempts(RUN)) == ({}, {}, [])


def test_traces_of_several_runs(store: Store) -> None:
    store.finish(started(store), RECORD)
    staged(store, OTHER)
    assert store.traces_of([RUN, OTHER, "ef" * 32]) == {RUN: store.traces(RUN)}
    assert store.traces_of([]) == {}
    # More ids than one statement may hold.
    assert store.traces_of([*(f"{number:064x}" for number in range(2000)), RUN]) == {RUN: store.traces(RUN)}


def test_runs_keep_the_types_of_their_configs(store: Store) -> None:
    store.stage(
        [
            PlannedRun(RUN, {"gol": 3, "ae": True, "lr": 1e-3, "loss": "bce", "seed": 2**62}),
            PlannedRun(OTHER, {"gol": 2, "ae": False, "lr": 1.0, "loss": "l2", "own_key": 7}),
        ]
    )
    frame = store.runs()
    assert frame["gol"].tolist() == [3, 2]
    assert frame["ae"].dtype == bool
    assert frame["lr"].tolist() == [1e-3, 1.0]
    assert frame["loss"].tolist() == ["bce", "l2"]
    # 2**62 + 1 would not survive as a float: a missing value must not turn the column into one.
    assert frame["seed"].tolist() == [2**62, None]
    assert frame["own_key"].tolist() == [None, 7]
    assert frame["model_t"].tolist() == [None, None]


def test_of_eight_that_start_a_run_at_once_one_gets_it(store: Store) -> None:
    staged(store)
    barrier = threading.Barrier(8)
    got: list[Attempt | None] = []

    def start() -> None:
        barrier.wait()
        got.append(store.start(RUN, WHO))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert [attempt for attempt in got if attempt is not None] == [Attempt(RUN, number=1)]
    assert len(store.attempts(RUN)) == 1


def test_a_launch_that_came_to_nothing_is_forgotten(store: Store) -> None:
    runs = [PlannedRun(RUN, CONFIG), PlannedRun(OTHER, CONFIG)]
    sweep, other = NewSweep("one", "a"), NewSweep("one", "b")
    store.forget(sweep)  # there is none
    for launched in (sweep, sweep, other):
        store.stage(runs, sweep=launched)
    store.forget(sweep)
    assert store.launches() == [sweep, other]  # it was launched before
    store.forget(sweep)
    assert store.launches() == [other]
    assert store.sweeps() == {"one": {State.STAGED: 2}}
    store.forget(other)
    assert store.launches() == []
    assert store.sweeps() == {}
    assert store.states([RUN, OTHER]) == {RUN: State.STAGED, OTHER: State.STAGED}


def test_sweeps_count_each_run_once_and_by_its_state(store: Store) -> None:
    # "one" is launched twice, the second time with a run more; "two" shares a run with it.
    first, both = [PlannedRun(RUN, CONFIG)], [PlannedRun(RUN, CONFIG), PlannedRun(OTHER, CONFIG)]
    assert store.sweeps() == {}
    store.stage(first, sweep=NewSweep("one", ""))
    store.stage(both, sweep=NewSweep("one", ""))
    store.stage(first, sweep=NewSweep("two", ""))
    started(store)
    assert store.sweeps() == {
        "one": {State.RUNNING: 1, State.STAGED: 1},
        "two": {State.RUNNING: 1},
    }
