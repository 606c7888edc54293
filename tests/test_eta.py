"""How long it will still take: by runs that ended and by step limits; and where runs are, and how fast."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sweep_helpers import small

from jobs.progress import Training, Where
from results_db.contract import Attempt, OpenAttempt, State
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.progress import Pace, under_way, waiting
from sweeps.spec.expand import Cell
from sweeps.status.estimate import Estimate, total_steps
from sweeps.status.past import PastRun


def cell(gol: int) -> Cell:
    """A cell of four runs, of 100 steps at most."""
    runs = [small(gol=gol, seed=seed, max_steps=100) for seed in range(4)]
    return Cell(columns={"gol": gol}, wanted=4, runs=runs, template=runs[0].config, sample={}, next_seed=4)


CELLS = [cell(2), cell(3)]
RUNS = [run for each in CELLS for run in each.runs]


HERE = Where("this CPU", 1)


def training(
    index: int, *, step: int = 0, rate: float | None = None, together: int = 1, where: Where = HERE
) -> Training:
    return Training(RUNS[index].run_id, step, 100, rate, 1 / together, where)


def estimate(done: dict[int, float], steps: dict[int, int] | None = None, where: Where = HERE) -> Estimate:
    """By runs that took so many seconds there, for so many steps."""
    rows = [
        {
            **RUNS[index].config,
            "run_id": RUNS[index].run_id,
            "state": "COMPLETED",
            "steps": (steps or {}).get(index, math.nan),
        }
        for index in done
    ]
    past = {RUNS[index].run_id: PastRun(where, seconds, None) for index, seconds in done.items()}
    return Estimate(CELLS, pd.DataFrame(rows) if rows else None, past)


def ids(*indices: int, where: Where | None = HERE) -> dict[str, Where | None]:
    return {RUNS[index].run_id: where for index in indices}


def test_by_runs_that_ended() -> None:
    """Cell 0: mean 60 s; one is half way (30 left), one waits (60). Cell 1: mean 30 s; one has 80 of 100 steps (6)."""
    known = estimate({0: 60.0, 4: 20.0, 6: 40.0})
    one, other = training(1, step=50), training(5, step=80)
    assert known.left([one], ids(2)) == pytest.approx(30 + 60)
    assert known.left([other], {}) == pytest.approx(6)
    assert known.left([one, other], ids(2)) == pytest.approx((30 + 60 + 6) / 2)
    # A launcher knows its workers, also between two runs.
    assert known.left([], ids(1, 2, 5, 7), workers=2) == pytest.approx((60 + 60 + 30 + 30) / 2)


def test_a_worker_that_ends_early_does_not_shorten_another_run() -> None:
    """Two runs have 60 s and 3 s left, and none waits: it takes 60 s, and not half of the sum."""
    assert estimate({0: 60.0}).left([training(1), training(2, step=95)], {}) == pytest.approx(60)


def test_the_runs_of_a_pack_share_their_worker() -> None:
    """Two packs of three runs, at step 30 of 100 with 2 steps/s: 50 s for a pack, and so 50/3 s of each run.

    The 70 steps of a run take 35 s by its speed. Two that wait: 2 x 50/3 s, by that speed and by past runs alike.
    """
    three = Where("this CPU", 3)
    packs = [training(index, step=30, rate=2.0, together=3, where=three) for index in range(6)]
    for known in (estimate({}), estimate({6: 50 / 3}, where=three)):
        assert known.of_run(packs[0]) == pytest.approx(35)
        assert known.left(packs, {}) == pytest.approx(35)
        # Each of two workers has 35 s of work left, and there are 50/3 s for each waiting run.
        assert known.left(packs, ids(6, 7, where=three)) == pytest.approx((2 * 35 + 2 * 50 / 3) / 2)


@pytest.mark.parametrize("other", [Where("a GPU", 1), Where("this CPU", 16)])
def test_runs_on_another_device_or_in_larger_packs_say_nothing_about_the_time(other) -> None:
    elsewhere = estimate({0: 60.0}, where=other)
    assert elsewhere.seconds(RUNS[1].run_id, HERE) is None
    assert elsewhere.seconds(RUNS[1].run_id, other) == 60
    assert elsewhere.left([training(1)], ids(2)) is None
    assert elsewhere.left([], ids(1, 2), workers=1) is None
    # But one that trains here tells how fast it goes here: 100 steps at 2 a second for the one that waits.
    assert elsewhere.left([training(1, rate=2.0)], ids(2)) == pytest.approx(50 + 50)


@pytest.mark.parametrize(("step", "rest_s"), [(0, 20), (20, 10), (40, 5), (50, 25), (99, 0.5)])
def test_a_run_that_outlasts_the_mean_run_is_compared_with_longer_ones(step, rest_s) -> None:
    """Past runs took 30 and 50 steps: 40 on average. Beyond 30 it may take 50; beyond 50, all 100; at 2 steps/s."""
    known = estimate({0: 50.0, 2: 70.0}, steps={0: 30, 2: 50})
    assert known.of_run(training(1, step=step, rate=2.0)) == pytest.approx(rest_s)


def test_a_cell_without_ended_runs_is_like_the_mean_of_all() -> None:
    known = estimate({0: 60.0})
    assert known.left([training(5)], ids(6)) == pytest.approx(60 + 60)
    assert [known.seconds(each.runs[1].run_id, HERE) for each in CELLS] == [60, None]


def test_before_any_run_has_ended_the_step_limit_stands_in() -> None:
    """100 steps at 2 a second: 40 s for a run at step 20, and 50 s for one that waits."""
    one = training(1, step=20, rate=2.0)
    assert estimate({}).of_run(one) == pytest.approx(40)
    assert estimate({}).left([one], ids(2)) == pytest.approx(40 + 50)
    # A run that has just started has no speed yet. It is expected to take 50 s, too, on a worker of its own.
    assert estimate({}).left([one, training(2)], {}) == pytest.approx(50)


@pytest.mark.parametrize(("rate", "rest_s"), [(1.0, 10), (None, 60)])
def test_a_run_goes_at_its_own_speed(rate, rest_s) -> None:
    """Of a mean of 600 s a tenth is left; but at 1 step/s the last 10 steps take 10 s."""
    assert estimate({0: 600.0}).of_run(training(1, step=90, rate=rate)) == pytest.approx(rest_s)


def test_what_is_unknown_is_not_0() -> None:
    assert estimate({}).left([training(1)], {}) is None
    assert estimate({}).left([training(1)], ids(2)) is None
    assert estimate({0: 60.0}).left([], ids(2)) is None
    assert estimate({}).left([], {}) is None


def test_runs_that_end_are_learned_from() -> None:
    known = estimate({})
    known.ended(RUNS[0].run_id, HERE, seconds=30.0, steps=50)
    assert known.of_run(training(1, step=25)) == pytest.approx(15)
    known.ended(RUNS[2].run_id, HERE, seconds=60.0, steps=100)
    assert known.seconds(RUNS[1].run_id, HERE) == 45.0


def test_the_adversarys_steps_count() -> None:
    assert total_steps(small(max_steps=100).config) == 100
    assert total_steps(small(max_steps=100, gan="posthoc", adv_steps=30).config) == 130


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BEGAN = NOW - timedelta(seconds=10)
ATTEMPT = OpenAttempt(
    *(
        Attempt(RUNS[0].run_id, 1),
        State.RUNNING,
        "slurm",
        "n",
        "1_0",
        "n1",
        "1:1",
        None,
        BEGAN,
        BEGAN,
        NOW,
        50,
        {},
    )
)


def test_pace_is_by_the_heartbeats_own_times() -> None:
    pace = Pace()
    assert pace.rate(ATTEMPT) == 5.0  # 50 steps in the 10 s since it began
    later = replace(ATTEMPT, step=150, heartbeat_at=NOW + timedelta(seconds=10))
    assert pace.rate(later) == pace.rate(later) == 10.0  # no news
    # A second attempt may continue from a checkpoint, so its steps since its start are unknown.
    assert pace.rate(replace(ATTEMPT, attempt=Attempt(RUNS[0].run_id, 2))) is None
    assert pace.rate(replace(ATTEMPT, attempt=Attempt("x", 1), heartbeat_at=None)) is None


@pytest.mark.parametrize(
    ("queue", "later", "found"),
    [
        (Answer({"1_0": Job("RUNNING", node="n7", name="n")}), 0, [("n7", "")]),
        (Answer({"1_0": Job("RUNNING", node="n7", name="x")}), 0, [("n1", "")]),  # another job, by its name
        (Unknown("x"), 3600, [("n1", "silent")]),
        (Answer({"1_0": Job("PENDING", "BeginTime", name="n")}), 0, []),  # requeued
    ],
)
def test_where_a_run_is(queue, later, found) -> None:
    running = under_way([ATTEMPT], queue, pace=Pace(), now=NOW + timedelta(seconds=later))
    assert [(one.node, one.phase) for one in running] == found


def test_why_runs_wait() -> None:
    attempts = [
        replace(ATTEMPT, attempt=Attempt(RUNS[n].run_id, 1), state=State.PENDING, job_id=f"1_{n}")
        for n in range(3)
    ]
    queue = Answer({"1_0": Job("PENDING", "Priority", "n"), "1_1": Job("PENDING", "", "n")})
    assert waiting(attempts, queue) == {RUNS[0].run_id: "Priority", RUNS[1].run_id: "no reason yet"}
    assert waiting([ATTEMPT], queue) == {RUNS[0].run_id: "Priority"}  # requeued
    assert waiting(attempts, Unknown("x")) == {}
