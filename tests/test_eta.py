"""How long it will still take: by runs that ended, by step limits, and by what was seen to end."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sweep_helpers import small

from results_db.contract import Attempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.progress import Pace, Running, under_way, waiting
from sweeps.follow.estimate import Durations, Left, mates, total_steps

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUNS = [small(seed=seed, max_steps=100) for seed in range(8)]
PLACE = {run.run_id: (index // 4, run) for index, run in enumerate(RUNS)}  # two cells of four


def training(index: int, *, step: int = 0, rate: float | None = None, job: str | None = None) -> Running:
    """A run that trains, in a job of its own unless one is named."""
    began = NOW - timedelta(seconds=10)
    attempt = OpenAttempt(
        Attempt(RUNS[index].run_id, 1),
        State.RUNNING,
        "slurm",
        "n",
        job or f"1_{index}",
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


def left(
    running: list[Running], waiting: list[int], *, done: dict[int, float], steps: dict[int, int] | None = None
) -> Left:
    """With these runs training and waiting, and others that took so many seconds, for so many steps."""
    durations = Durations()
    frame = pd.DataFrame(
        {
            "run_id": [RUNS[index].run_id for index in done],
            "state": ["COMPLETED"] * len(done),
            "seconds": list(done.values()),
            **({"steps": list(steps.values())} if steps else {}),
        }
    )
    durations.learn(frame, PLACE)
    states = {RUNS[index].run_id: State.PENDING for index in waiting}
    states |= {one.attempt.attempt.run_id: State.RUNNING for one in running}
    return Left(durations, states, running, PLACE)


def test_by_runs_that_ended() -> None:
    """Cell 0: mean 60 s; one is half way (30 left), one waits (60). Cell 1: mean 30 s; one has 80 of 100 steps (6)."""
    now = left([training(1, step=50), training(5, step=80)], [2], done={0: 60.0, 4: 20.0, 6: 40.0})
    # 90 alone, but the other's worker takes its share.
    assert now.eta_of(0) == now.eta == pytest.approx((30 + 60 + 6) / 2)
    assert now.eta_of(1) == pytest.approx(6)


def test_a_worker_that_is_done_early_does_not_shorten_another_run() -> None:
    """60 and 3 s are left of two, and nothing waits: it takes 60, and not the half of both."""
    now = left([training(1), training(2, step=99)], [], done={0: 60.0})
    assert now.eta == now.eta_of(0) == pytest.approx(60)


def test_the_runs_of_a_pack_share_their_worker() -> None:
    """Two packs of three runs, at step 30 of 100 with 2 steps/s, which is 50 s for a pack and so 50/3 of each run.

    A run's 70 steps take 35 s, by its speed and by past runs alike: 50/3 s x 0.7 x 3. Two that wait: 2 x 50/3 s more.
    """
    packs = [training(n, step=30, rate=2.0, job="1_0" if n < 3 else "1_1") for n in range(6)]
    for done in ({}, {6: 50 / 3}):
        now = left(packs, [], done=done)
        assert now.of_run(packs[0]) == pytest.approx(35) == now.eta
        assert now.eta_of(0) == now.eta_of(1) == pytest.approx(35)
        # Work of a worker's time: 35 s of each of two, and 50/3 s of each run that waits.
        assert left(packs, [6, 7], done=done).eta == pytest.approx((2 * 35 + 2 * 50 / 3) / 2)


def test_a_local_pack_is_known_by_its_process() -> None:
    one, two = (
        Running(OpenAttempt(**{**vars(training(n).attempt), "job_id": None}), "", "", None) for n in (0, 1)
    )
    assert set(mates([one, two, training(2)]).values()) == {2, 1}


def test_a_run_that_is_late_is_never_done_before_its_last_step() -> None:
    """It has trained longer than a mean run takes, and 10 of its 100 steps are left."""
    late = training(1, step=90)
    assert left([late], [], done={0: 5.0}).of_run(late) == pytest.approx(5 * 0.1)


@pytest.mark.parametrize(("step", "rest_s"), [(0, 60), (20, 30), (40, 3), (99, 3)])
def test_where_runs_end_before_their_limit_the_mean_steps_tell(step, rest_s) -> None:
    """A mean run takes 60 s for 40 of its 100 steps. Who needs more is taken to be nearly there: a twentieth."""
    one = training(1, step=step)
    now = left([one], [], done={0: 50.0, 2: 70.0}, steps={0: 30, 2: 50})
    assert now.of_run(one) == pytest.approx(rest_s)


def test_a_cell_of_which_none_has_ended_is_taken_for_a_mean_one() -> None:
    now = left([training(5)], [6], done={0: 60.0})
    assert now.eta == pytest.approx(60 + 60)


def test_before_any_run_has_ended_the_step_limit_stands_in() -> None:
    """100 steps at 2 a second: 50 s for one that waits; 40 s for one at step 20."""
    now = left([training(1, step=20, rate=2.0)], [2], done={})
    assert now.of_run(training(1, step=20, rate=2.0)) == pytest.approx(40)
    assert now.eta == pytest.approx(40 + 50)


def test_no_run_takes_longer_than_to_its_step_limit() -> None:
    assert left([], [], done={0: 600.0}).of_run(training(1, step=90, rate=1.0)) == pytest.approx(10)


def test_nothing_is_known_before_anything_was_seen() -> None:
    assert left([training(1)], [2], done={}).eta is None
    waits = left([], [2], done={0: 60.0})
    assert waits.eta is None
    assert waits.eta_of(0) is None
    assert left([], [], done={}).eta == 0.0


@pytest.mark.parametrize("together", [1, 2])
def test_runs_that_are_seen_to_end_are_learned_from(together) -> None:
    """It ends 100 s after it began; where two train at once it is charged for the half."""
    durations = Durations()
    durations.learn(pd.DataFrame({"run_id": [], "state": [], "seconds": []}), PLACE)
    run_id = RUNS[0].run_id
    began = datetime.now(UTC) - timedelta(seconds=100)
    pack = [training(n, job="1_0") for n in range(together)]
    pack = [
        Running(OpenAttempt(**{**vars(one.attempt), "started_at": began}), "n1", "", None) for one in pack
    ]
    durations.see({run_id: State.RUNNING}, pack, PLACE)
    assert durations.mean(0) is None
    assert durations.ended_per_s is None
    for _ in range(2):  # a second look learns nothing new
        durations.see({run_id: State.COMPLETED}, [], PLACE)
        assert durations.mean(0) == pytest.approx(100 / together, abs=15)
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
    for job, node in (
        (Job("RUNNING", node="n7", name="n"), "n7"),
        (Job("RUNNING", node="n7", name="x"), "n1"),
    ):
        (found,) = under_way([one], Answer({"1_0": job}), pace=Pace(), now=NOW)
        assert (found.node, found.phase) == (node, "")  # a job of another name is not its own
    (unasked,) = under_way([one], Unknown("x"), pace=Pace(), now=NOW + timedelta(hours=1))
    assert (unasked.node, unasked.phase) == ("n1", "silent")


def test_a_run_whose_job_was_requeued_waits() -> None:
    one = training(0).attempt
    queue = Answer({"1_0": Job("PENDING", "BeginTime", name="n")})
    assert under_way([one], queue, pace=Pace(), now=NOW) == []
    assert waiting([one], queue) == {one.attempt.run_id: "BeginTime"}


def test_why_runs_wait() -> None:
    waits = [
        OpenAttempt(**{**vars(training(n).attempt), "state": State.PENDING, "job_id": f"1_{n}"})
        for n in range(3)
    ]
    queue = Answer({"1_0": Job("PENDING", "Priority", "n"), "1_1": Job("PENDING", "", "n")})
    assert waiting(waits, queue) == {RUNS[0].run_id: "Priority", RUNS[1].run_id: "no reason yet"}
    assert waiting(waits, Unknown("x")) == {}
