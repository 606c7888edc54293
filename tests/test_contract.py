"""The promises of `results_db.contract`, for every kind of store. test_attempts.py adds those for dispatched jobs,
test_store.py those of SQL alone.
"""

from datetime import UTC, datetime, timedelta

import pytest
from store_helpers import OTHER, RUN, THIRD, WHO, bare, claimed, every_way, staged, start, started

from results_db.contract import (
    FAILURES,
    INTERRUPTED,
    Attempt,
    Ending,
    NewSweep,
    PlannedRun,
    RunRecord,
    State,
    Store,
    StoreError,
)

pytestmark = every_way

RECORD = RunRecord(
    run_id=RUN,
    outcome="reached",
    seconds=12.5,
    metrics={"metric": 0.75, "metric_adv": None, "steps": 1500.0},
    traces={"decoded_1": ([0, 50], [0.5, 0.875])},
    samples={"boards": b"\x00\xff npz"},
)


def test_staging_twice_keeps_the_first_config_and_the_state(store: Store) -> None:
    started(store)
    store.stage([PlannedRun(RUN, {"gol": 99}), *[PlannedRun(OTHER, {"gol": 3})] * 2])
    assert store.states([RUN, OTHER, THIRD]) == {RUN: State.RUNNING, OTHER: State.STAGED}
    frame = store.runs()
    assert list(frame["run_id"]) == [RUN, OTHER]
    assert list(frame["gol"]) == [3, 3]


def test_staging_nothing_is_allowed(store: Store) -> None:
    store.stage([])
    store.stage([], sweep=NewSweep("quick", "name: quick"))
    assert store.states([]) == {}
    assert len(store.runs()) == 0


def test_only_a_staged_run_that_is_not_active_or_completed_is_claimed(store: Store) -> None:
    with pytest.raises(StoreError, match="no run abab"):
        store.claim([RUN], launcher="local")
    attempt = started(store)
    assert bare(attempt) == Attempt(RUN, number=1, restart=0)
    assert store.claim([RUN], launcher="local") == []
    assert store.finish(attempt, RECORD)
    assert store.claim([RUN], launcher="local") == []


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_an_ended_run_can_be_started_again(store: Store, state: State) -> None:
    first = started(store)
    assert store.end(first, Ending(state, error="boom", exit_code=3))
    assert store.states([RUN])[RUN] == state
    assert bare(start(store, RUN, WHO)) == Attempt(RUN, number=2, restart=0)
    ended = store.attempts(RUN)[0]
    assert (ended["state"], ended["error"], ended["exit_code"]) == (state, "boom", 3)


def test_ending_twice_changes_nothing(store: Store) -> None:
    attempt = started(store)
    assert store.end(attempt, Ending(State.FAILED, error="first"))
    assert store.end(attempt, Ending(State.FAILED, error="second"))
    assert store.attempts(RUN)[0]["error"] == "first"


@pytest.mark.parametrize("state", sorted(FAILURES | INTERRUPTED))
def test_an_ended_attempt_changes_only_by_a_result_or_if_it_was_lost(store: Store, state: State) -> None:
    attempt = started(store)
    store.end(attempt, Ending(state, error="first"))
    was_lost = state is State.LOST
    other = State.FAILED if state is not State.FAILED else State.LOST
    again = store.end(attempt, Ending(other, error="second", exit_code=1, log_tail="step 7"))
    assert bool(again) is was_lost
    ended = store.attempts(RUN)[0]
    assert (ended["state"], ended["error"], ended["exit_code"], ended["log_tail"]) == (
        (State.FAILED, "second", 1, "step 7") if was_lost else (state, "first", None, None)
    )
    assert not store.heartbeat(attempt, step=1, progress={})
    assert store.finish(attempt, RECORD)
    assert store.states([RUN])[RUN] == State.COMPLETED
    assert store.attempts(RUN)[0]["error"] is None


def test_a_lost_attempt_with_a_heartbeat_is_running(store: Store) -> None:
    attempt = started(store)
    store.end(attempt, Ending(State.LOST, error="no heartbeat"))
    assert store.heartbeat(attempt, step=8, progress={})
    assert store.states([RUN])[RUN] == State.RUNNING
    (alive,) = store.open_attempts()
    assert (alive.attempt, alive.step) == (attempt, 8)
    (told,) = store.attempts(RUN)
    assert (told["error"], told["ended_at"]) == (None, None)


@pytest.mark.parametrize("state", sorted(set(State) - FAILURES - INTERRUPTED))
def test_an_attempt_ends_only_in_an_ending(store: Store, state: State) -> None:
    attempt = started(store)
    with pytest.raises(ValueError, match=state):
        store.end(attempt, Ending(state))
    assert store.states([RUN])[RUN] == State.RUNNING


def test_finish_writes_everything_once(store: Store) -> None:
    attempt = started(store)
    assert store.finish(attempt, RECORD)
    before = store.attempts(RUN)
    assert store.finish(attempt, RECORD)
    assert store.attempts(RUN) == before
    row = store.runs().iloc[0]
    names = ["state", "outcome", "attempts", "seconds", "metric", "steps"]
    assert row[names].tolist() == ["COMPLETED", "reached", 1, 12.5, 0.75, 1500.0]
    assert row["metric_adv"] != row["metric_adv"]  # NaN stands for null
    assert store.traces(RUN) == {"decoded_1": ([0, 50], [0.5, 0.875])}
    assert store.samples(RUN) == {"boards": b"\x00\xff npz"}
    assert before[0]["state"] == "COMPLETED"


@pytest.mark.parametrize(("metrics", "step"), [({"steps": 1500.0}, 1500), ({}, 250), ({"steps": None}, 250)])
def test_a_finished_attempt_has_the_records_steps_else_the_last_heartbeats(
    store: Store, metrics: dict[str, float | None], step: int
) -> None:
    attempt = started(store)
    store.heartbeat(attempt, step=250, progress={})
    store.finish(attempt, RunRecord(RUN, "reached", 1.0, metrics))
    assert store.attempts(RUN)[0]["step"] == step


def test_a_completed_run_never_changes(store: Store) -> None:
    attempt = started(store)
    store.finish(attempt, RECORD)
    other = RunRecord(run_id=RUN, outcome="diverged", seconds=1.0, metrics={"metric": 0.1})
    assert not store.finish(attempt, other)
    assert not store.end(attempt, Ending(State.FAILED))
    assert not store.heartbeat(attempt, step=9, progress={})
    assert store.runs().iloc[0][["state", "outcome", "metric"]].tolist() == ["COMPLETED", "reached", 0.75]


def test_writes_of_an_older_or_unknown_attempt_are_refused(store: Store) -> None:
    old = started(store)
    store.end(old, Ending(State.LOST))
    new = started(store)
    assert not store.heartbeat(old, step=5, progress={"accuracy": 0.5})
    assert not store.end(old, Ending(State.FAILED))
    assert not store.finish(old, RECORD)
    assert not store.finish(Attempt(RUN, new.number + 1), RECORD)
    assert store.states([RUN])[RUN] == State.RUNNING
    assert store.traces(RUN) == {}
    assert store.heartbeat(new, step=1, progress={})
    assert store.finish(new, RECORD)
    # The old attempt does not count even with the very record that completed the run.
    assert not store.finish(old, RECORD)


def test_finish_is_all_or_nothing(store: Store) -> None:
    attempt = started(store)
    # JSON has no NaN, so the trace cannot be written, after the run's own row was.
    broken = RunRecord(RUN, "reached", 1.0, {"metric": 1.0}, {"t": ([0], [float("nan")])})
    with pytest.raises(Exception, match="Out of range float"):
        store.finish(attempt, broken)
    assert store.states([RUN])[RUN] != State.COMPLETED
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


def test_open_attempts_show_what_trains_and_when(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    attempt = started(store)
    assert store.heartbeat(attempt, step=250, progress={"accuracy": 0.5})
    (alive,) = store.open_attempts()
    assert (alive.attempt, alive.state) == (attempt, State.RUNNING)
    assert (alive.launcher, alive.job_id, alive.host, alive.process, alive.log) == (
        *("slurm", "12_3", "n1", "7:1", "/l"),
    )
    assert (alive.step, alive.progress) == (250, {"accuracy": 0.5})
    assert alive.started_at is not None
    assert alive.heartbeat_at is not None
    assert before <= alive.claimed_at <= alive.started_at <= alive.heartbeat_at
    assert alive.heartbeat_at <= datetime.now(UTC) + timedelta(seconds=1)
    store.finish(attempt, RECORD)
    assert store.open_attempts() == []


def test_begun_attempts_show_what_trained_where_and_when(store: Store) -> None:
    """One that only waits is left out; one that has ended stays."""
    claimed(store, OTHER)
    assert store.begun_attempts() == []
    first = started(store)
    assert store.end(first, Ending(State.FAILED))
    second = started(store)
    one, two = store.begun_attempts()
    assert (one.attempt, one.state, one.device, one.host) == (first, State.FAILED, WHO.device, WHO.host)
    assert one.ended_at is not None
    assert one.started_at <= one.ended_at <= two.started_at
    assert (two.attempt, two.state, two.process, two.ended_at) == (second, State.RUNNING, WHO.process, None)


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
    staged(store, RUN, OTHER, "abab" + "0" * 60)
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


def test_traces_of_several_runs(store: Store) -> None:
    store.finish(started(store), RECORD)
    staged(store, OTHER)
    assert (store.traces(OTHER), store.samples(OTHER), store.attempts(OTHER)) == ({}, {}, [])
    assert store.traces_of([RUN, OTHER, THIRD]) == {RUN: store.traces(RUN)}
    assert store.traces_of([]) == {}
    # More ids than one statement may contain.
    assert store.traces_of([*(f"{number:064x}" for number in range(2000)), RUN]) == {RUN: store.traces(RUN)}


def test_one_run_in_full(store: Store) -> None:
    for name in ("table1", "quick", "quick"):
        store.stage([PlannedRun(RUN, {"seed": 3})], sweep=NewSweep(name, f"name: {name}"))
    store.finish(started(store), RECORD)
    run = store.run(RUN)
    assert (run["config"], run["metrics"]) == ({"seed": 3}, RECORD.metrics)
    assert run["sweeps"] == ["quick", "table1"]  # two launches of quick, named once
    assert run["staged_at"].utcoffset() == timedelta(0)
    with pytest.raises(StoreError, match="no run"):
        store.run(OTHER)


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


def test_a_launch_that_submitted_nothing_is_forgotten(store: Store) -> None:
    runs = [PlannedRun(RUN, {}), PlannedRun(OTHER, {})]
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
    assert (store.launches(), store.sweeps()) == ([], {})
    assert store.states([RUN, OTHER]) == {RUN: State.STAGED, OTHER: State.STAGED}


def test_sweeps_count_each_run_once_and_by_its_state(store: Store) -> None:
    # "one" is launched twice, the second time with one more run; "two" shares a run with it.
    first, both = [PlannedRun(RUN, {})], [PlannedRun(RUN, {}), PlannedRun(OTHER, {})]
    assert store.sweeps() == {}
    store.stage(first, sweep=NewSweep("one", ""))
    store.stage(both, sweep=NewSweep("one", ""))
    store.stage(first, sweep=NewSweep("two", ""))
    started(store)
    assert store.sweeps() == {"one": {State.RUNNING: 1, State.STAGED: 1}, "two": {State.RUNNING: 1}}


def test_the_members_of_sweeps(store: Store) -> None:
    one, two, three = (PlannedRun(f"{number:064x}", {}) for number in range(3))
    store.stage([one], sweep=NewSweep("table1", ""))
    store.stage([one, two], sweep=NewSweep("table1", "", ("preset",)))
    store.stage([three], sweep=NewSweep("table1", "", ("batch", "preset")))
    store.stage([three], sweep=NewSweep("table2", ""))
    assert store.members(["table1"], overridden=[]) == {one.run_id}
    assert store.members(["table1"], overridden=["preset"]) == {one.run_id, two.run_id}
    assert store.members(["table1"], overridden=["preset", "batch"]) == {
        run.run_id for run in (one, two, three)
    }
    assert store.members(["table1", "table2"], overridden=[]) == {one.run_id, three.run_id}
    assert store.members([], overridden=[]) == store.members(["none"], overridden=[]) == set()


def test_it_is_not_known_what_an_earlier_version_overrode(store: Store) -> None:
    store.stage([PlannedRun(RUN, {})], sweep=NewSweep("table1", "", None))
    assert store.launches() == [NewSweep("table1", "", None)]
    assert store.members(["table1"], overridden=["preset"]) == set()


def test_of_a_spec_that_changed_the_last_content_counts(store: Store) -> None:
    one, two, three = (PlannedRun(f"{number:064x}", {}) for number in range(3))
    store.stage([one], sweep=NewSweep("table1", "1", (), "old"))
    store.stage([two], sweep=NewSweep("table1", "2", (), "new"))
    store.stage([three], sweep=NewSweep("table1", "3", (), "new"))
    store.stage([one], sweep=NewSweep("table1", "4", ("batch",), "other"))
    assert store.members(["table1"], overridden=[]) == {two.run_id, three.run_id}
