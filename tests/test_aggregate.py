"""Means and intervals per group, against values worked out by hand."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagination.intervals import Interval, mean_interval, quantile, ratio_interval
from results_db.contract import DIVERGED, StoreError
from results_db.frame import Frame
from results_db.query import aggregate as query
from results_db.query.aggregate import bootstrap_interval

RUN: dict[str, Any] = {
    "experiment": "life_state",
    "state": "COMPLETED",
    "outcome": "reached",
    "gol": 3,
    "ae": True,
    "seed": 0,
    "train_accuracy": 1.0,
    "metric": 1.0,
    "metric_plain": None,
    "metric_adv": None,
    "correlation": None,
    "correlation_plain": None,
    "correlation_adv": None,
    "correlation_aligned": None,
}


SHOWN = {
    "metric": ("metric_plain", "metric_adv"),
    "correlation": ("correlation_plain", "correlation_adv", "correlation_aligned"),
}
aggregate = partial(query.aggregate, shown=SHOWN)


def runs(*changes: dict[str, Any]) -> Frame:
    rows = [{**RUN, **change} for change in changes]
    gates = {"life_state": 0.99, "life_count": 0.999}
    kept = [
        row["outcome"] != DIVERGED and (row["train_accuracy"] or 0) >= gates[row["experiment"]]
        for row in rows
    ]
    return Frame.of([{"kept": each, **row} for each, row in zip(kept, rows, strict=True)])


def test_an_interval_by_hand() -> None:
    # 1, 2, 3: mean 2; s = sqrt((1 + 0 + 1) / 2) = 1; t(2 degrees, .975) = 4.302653 (tables);
    # half width 4.302653 * 1 / sqrt(3) = 2.484138.
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2, -0.484138, 4.484138), abs=1e-6)


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 7.5, 30, 1000, 99_999])
def test_the_quantile_is_that_of_scipy(freedom: float) -> None:
    from scipy.special import stdtrit

    assert quantile(freedom) == pytest.approx(stdtrit(freedom, 0.975), rel=1e-7)


def test_an_interval_of_two_by_hand() -> None:
    # .9, 1: mean .95; s = sqrt(2 * .05^2 / 1) = .0707107; t(1, .975) = 12.706205;
    # half width 12.706205 * .0707107 / sqrt(2) = 12.706205 * .05 = .635310.
    found = mean_interval([0.9, 1.0])
    assert (found.mean, found.low, found.high) == pytest.approx((0.95, 0.314690, 1.585310), abs=1e-6)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Too few values have no interval.
        (mean_interval([]), Interval()),
        (mean_interval([0.5]), Interval(0.5)),
        (ratio_interval([], []), Interval()),
        (ratio_interval([1], [4]), Interval(0.25)),
        (ratio_interval([1, 2], [1, -1]), Interval()),  # the mean of the second is not positive
        # Equal values have an interval of no width.
        (mean_interval([0.1] * 10), Interval(*[pytest.approx(0.1, abs=1e-15)] * 3)),
        (ratio_interval([0.5, 1, 1.5], [1, 2, 3]), Interval(0.5, 0.5, 0.5)),
    ],
)
def test_intervals_at_their_limits(found: Interval, expected: Interval) -> None:
    assert found == expected


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_an_interval_lies_evenly_around_its_mean(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.mean is not None
    assert found.low is not None
    assert found.high is not None
    assert min(values) - 1e-12 <= found.mean <= max(values) + 1e-12
    assert found.high - found.mean == pytest.approx(found.mean - found.low, abs=1e-9)
    assert found.high >= found.mean


def test_a_ratio_by_hand() -> None:
    # Means 1 and 2: ratio 1/2. Residuals 1 - 1/2 * (1, 2, 3) = .5, 0, -.5: s = .5, t(2, .975) = 4.302653; half width
    # 4.302653 * .5 / sqrt(3) / 2 = .621035.
    found = ratio_interval([1, 1, 1], [1, 2, 3])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, -0.121035, 1.121035), abs=1e-6)


def test_a_correlation_has_its_interval_and_the_means_beside_it() -> None:
    count = {"experiment": "life_count", "metric": None, "correlation_plain": 0.5}
    frame = runs(
        {**count, "correlation": 0.9, "correlation_aligned": 0.25},
        {**count, "correlation": 1.0, "correlation_aligned": 0.75},
        {**count, "correlation": 0.1, "train_accuracy": 0.9989},  # the gate of life_count is .999
    )
    (row,) = aggregate(frame, ["gol"])
    assert (row["kept"], row["run"], row["metric"]) == (2, 3, None)
    # As test_an_interval_of_two_by_hand.
    assert [row[f"correlation{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [0.95, 0.314690, 1.585310], abs=1e-6
    )
    assert (row["correlation_plain"], row["correlation_adv"], row["correlation_aligned"]) == (0.5, None, 0.5)


def test_a_row_per_group_with_its_counts() -> None:
    frame = runs(
        {"gol": 2, "metric": 1.0},
        {"gol": 2, "metric": 2.0},
        {"gol": 2, "metric": 3.0},
        {"gol": 2, "metric": 100.0, "train_accuracy": 0.98},  # run, but not kept
        {"gol": 2, "metric": 100.0, "outcome": "diverged"},  # run, but not kept
        {"gol": 2, "metric": 100.0, "state": "FAILED"},  # not even run
        {"gol": 3, "metric": 0.5},
        {"gol": 4, "state": "RUNNING"},  # nothing completed: no row
    )
    first, second = aggregate(frame, ["gol"])
    assert list(first) == [
        *("gol", "kept", "run", "pass_rate", "pass_rate_low", "pass_rate_high"),
        *("metric", "metric_low", "metric_high", "metric_plain", "metric_adv"),
        *("correlation", "correlation_low", "correlation_high"),
        *("correlation_plain", "correlation_adv", "correlation_aligned", "varies"),
    ]
    assert tuple(first) == ("gol", *query.measures(SHOWN), "varies")
    assert (first["gol"], first["kept"], first["run"]) == (2, 3, 5)
    assert (first["metric"], first["metric_low"]) == pytest.approx((2, -0.484138), abs=1e-6)
    assert [second[name] for name in ("gol", "kept", "run", "metric")] == [3, 1, 1, 0.5]
    assert (second["metric_low"], second["metric_high"]) == (None, None)


def test_a_group_without_kept_runs_is_a_row_without_a_mean() -> None:
    (row,) = aggregate(runs({"train_accuracy": 0.5}), ["gol"])
    assert (row["kept"], row["run"], row["metric"]) == (0, 1, None)
    (row,) = aggregate(runs({"train_accuracy": 0.5}), ["gol"], gate="train_accuracy>=.5")
    assert (row["kept"], row["run"], row["metric"]) == (1, 1, 1.0)


def test_a_null_value_is_in_no_mean() -> None:
    frame = runs(
        {"metric": None, "metric_plain": 0.5}, {"metric": 0.25, "metric_plain": 0.0}, {"metric": 0.75}
    )
    (row,) = aggregate(frame, ["gol"])
    assert [row[name] for name in ("kept", "metric", "metric_plain", "metric_adv")] == [3, 0.5, 0.25, None]


def test_group_values_are_plain_and_sorted_with_null_last() -> None:
    frame = runs({"gol": 10}, {"gol": 2, "ae": False}, {"gol": 2}, {"gol": None})
    rows = aggregate(frame, ["gol", "ae"])
    assert [(row["gol"], row["ae"]) for row in rows] == [(2, False), (2, True), (10, True), (None, True)]
    assert [type(row["ae"]) for row in rows] == [bool] * 4
    assert [type(row["gol"]) for row in rows[:3]] == [int] * 3


def test_no_runs_no_rows() -> None:
    assert aggregate(runs(RUN).take(np.arange(0)), ["gol", "ae"]) == []


@pytest.mark.parametrize(
    ("by", "says"),
    [
        (["golf"], "--group: unknown column 'golf' (did you mean 'gol'?); valid columns: "),
        ([""], "unknown column ''"),
        (["metric"], "unknown column 'metric'"),
        (["gol", "gol"], "'gol,gol' names a column twice"),
    ],
)
def test_columns_that_cannot_be_grouped_by(by: list[str], says: str) -> None:
    for frame in (runs({}), runs({}).take(np.arange(0))):
        with pytest.raises(StoreError) as caught:
            aggregate(frame, by)
        assert says in str(caught.value)


@given(st.lists(st.tuples(st.sampled_from([2, 3]), st.booleans(), st.floats(0, 1))))
def test_every_run_is_in_one_group(cells: list[tuple[int, bool, float]]) -> None:
    frame = (
        runs(*({"gol": gol, "ae": ae, "metric": metric} for gol, ae, metric in cells))
        if cells
        else runs({}).take(np.arange(0))
    )
    rows = aggregate(frame, ["gol", "ae"])
    assert sum(row["run"] for row in rows) == len(cells)
    for row in rows:
        mine = [metric for gol, ae, metric in cells if (gol, ae) == (row["gol"], row["ae"])]
        assert row["kept"] == len(mine)
        assert row["metric"] == pytest.approx(math.fsum(mine) / len(mine))


def test_chosen_metrics_each_with_an_interval() -> None:
    frame = runs(*({"steps": steps, "metric": 0.5} for steps in (1.0, 2.0, 3.0)))
    (row,) = aggregate(frame, ["gol"], shown={"steps": (), "metric": ()})
    assert [row[name] for name in ("steps", "steps_low", "steps_high")] == pytest.approx(
        [2, -0.484138, 4.484138], abs=1e-6
    )
    assert (row["metric"], row["metric_low"], "metric_adv" in row) == (0.5, 0.5, False)


def test_the_bootstrap_is_close_to_students_for_many_values_and_leans_with_skewed_ones() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(0.5, 0.1, 400).tolist()
    found, students = bootstrap_interval(normal), mean_interval(normal)
    assert (found.low, found.high) == pytest.approx((students.low, students.high), abs=1e-3)
    assert found == bootstrap_interval(normal)  # always the same draws
    skewed = bootstrap_interval([0.0] * 12 + [1.0, 2.0])  # most values small: the interval reaches further up
    assert skewed.mean is not None
    assert skewed.low is not None
    assert skewed.high is not None
    assert skewed.high - skewed.mean > 1.5 * (skewed.mean - skewed.low)
    assert skewed.low >= 0


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5]])
def test_the_bootstrap_of_too_few_or_equal_values(values: list[float]) -> None:
    assert bootstrap_interval(values) == mean_interval(values)


def test_a_row_names_the_code_that_trained_it() -> None:
    rows = [{"gol": gol, "code": code} for gol, code in ((2, "b"), (2, "a"), (3, "a"), (2, "b"))]
    assert [row["code"] for row in aggregate(runs(*rows), ["gol"])] == [["a", "b"], ["a"]]
