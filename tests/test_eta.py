"""How long it will still take: by runs that ended, by step limits, and by what was seen to end."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sweep_helpers import small

from results_db.contract import Attempt, OpenAttempt, State
from slurm.answers import Answer, Job, Unknown
from slurm.watch import Pace, Running, under_way, waiting_for
from sweeps.eta import Durations, Left, total_steps

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUNS = [small(seed=seed, max_steps=100) for seed in range(8)]
PLACE = {run.run_id: (index // 4, run) for index, run in enumerate(RUNS)}  # two cells of four


def training(index: int, *, step: int = 0, since_s: float = 10.0, rate: float | None = None) -> Running:
    began = NOW - timedelta(seconds=since_s)
    attempt = OpenAttempt(
        Attempt(RUNS[index].run_id, 1),
        State.RUNNING,
        "slurm",
        "n",
        "1_0",
        "n1",
        "1:1",
        None,
        began,
        began,
        NOW,
        step,
        {},
    )
    return Running(attempt, "n1", "", rate)


def left(running: list[Running], waiting: list[int], *, done: dict[int, float]) -> Left:
    """With these runs training and waiting, and others that took so many seconds."""
    durations = Durations()
    frame = pd.DataFrame(
        {
            "run_id": [RUNS[index].run_id for index in done],
            "state": ["COMPLETED"] * len(done),
            "seconds": list(done.values()),
        }
    )
    durations.learn(frame, PLACE)
    states = {RUNS[index].run_id: State.PENDING for index in waiting}
    states |= {one.attempt.attempt.run_id: State.RUNNING for one in running}
    return Left(durations, states, running, PLACE, now=NOW)


def test_by_runs_that_ended() -> None:
    """Cell 0: mean 60 s; one trains for 10 s (50 left), one waits (60). Cell 1: mean 30 s; one trains (20 left)."""
    now = left([training(1), training(5)], [2], done={0: 60.0, 4: 20.0, 6: 40.0})
    assert now.eta_of(0) == pytest.approx(
        (50 + 60 + 20) / 2
    )  # 110 alone, but the other's worker takes its share
    assert now.eta_of(1) == pytest.approx(20)
    assert now.eta == pytest.approx((50 + 60 + 20) / 2)


def test_a_cell_of_which_none_has_ended_is_taken_for_a_mean_one() -> None:
    now = left([training(5)], [6], done={0: 60.0})
    assert now.eta == pytest.approx(50 + 60)


def test_before_any_run_has_ended_the_step_limit_stands_in() -> None:
    """100 steps at 2 a second: 50 s for one that waits; 40 s for one at step 20."""
    now = left([training(1, step=20, rate=2.0)], [2], done={})
    assert now.of_run(training(1, step=20, rate=2.0)) == pytest.approx(40)
    assert now.eta == pytest.approx(40 + 50)


def test_no_run_takes_longer_than_to_its_step_limit() -> None:
    assert left([], [], done={0: 60.0}).of_run(training(1, step=90, rate=1.0)) == pytest.approx(10)


def test_nothing_is_known_before_anything_was_seen() -> None:
    assert left([training(1)], [2], done={}).eta is None
    waits = left([], [2], done={0: 60.0})
    assert waits.eta is None and waits.eta_of(0) is None  # who knows when Slurm starts it
    assert left([], [], done={}).eta == 0.0


def test_runs_that_are_seen_to_end_are_learned_from() -> None:
    durations = Durations()
    durations.learn(pd.DataFrame({"run_id": [], "state": [], "seconds": []}), PLACE)
    run_id = RUNS[0].run_id
    one = training(0)
    began = datetime.now(UTC) - timedelta(seconds=100)
    attempt = OpenAttempt(**{**vars(one.attempt), "started_at": began})
    durations.see({run_id: State.RUNNING}, [Running(attempt, "n1", "", None)], PLACE)
    assert durations.mean(0) is None and durations.ended_per_s is None
    for _ in range(2):  # a second look learns nothing new
        durations.see({run_id: State.COMPLETED}, [], PLACE)
        assert durations.mean(0) == pytest.approx(100, abs=30)
        assert durations.ended_per_s == pytest.approx(1, abs=0.99)


def test_the_second_stage_counts() -> None:
    assert total_steps(small(max_steps=100)) == 100
    assert total_steps(small(max_steps=100, gan="posthoc", adv_steps=30)) == 130


def test_pace_is_by_the_attempts_own_clock() -> None:
    pace = Pace()
    first = training(0, step=50).attempt
    assert pace.rates([first]) == {first.attempt: 5.0}  # 50 steps in the 10 s since it began
    later = OpenAttempt(**{**vars(first), "step": 150, "heartbeat_at": NOW + timedelta(seconds=10)})
    assert pace.rates([later]) == {first.attempt: 10.0}
    assert pace.rates([later]) == {first.attempt: 10.0}  # no news
    resumed = OpenAttempt(**{**vars(first), "attempt": Attempt(first.attempt.run_id, 2)})
    assert pace.rates([resumed]) == {resumed.attempt: None}  # its first steps are those of the attempt before


def test_where_a_run_is() -> None:
    one = training(0).attempt
    for job, node, phase in (
        (Job("RUNNING", node="n7", name="n"), "n7", ""),
        (Job("PENDING", "BeginTime", name="n"), "", "requeued"),
        (Job("RUNNING", node="n7", name="another's"), "n1", ""),
    ):
        (found,) = under_way([one], Answer({"1_0": job}), pace=Pace(), now=NOW)
        assert (found.node, found.phase) == (node, phase)
    (unasked,) = under_way([one], Unknown("x"), pace=Pace(), now=NOW + timedelta(hours=1))
    assert (unasked.node, unasked.phase) == ("n1", "silent")


def test_why_runs_wait() -> None:
    one = training(0).attempt
    waits = [OpenAttempt(**{**vars(one), "state": State.PENDING, "job_id": f"1_{n}"}) for n in range(3)]
    queue = Answer({"1_0": Job("PENDING", "Priority", "n"), "1_1": Job("PENDING", "Priority", "n")})
    assert waiting_for(waits, queue) == {"Priority": 2}
    assert waiting_for(waits, Unknown("x")) == {}
