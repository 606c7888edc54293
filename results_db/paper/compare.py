"""The paper's numbers beside ours: which runs each is held against, and a plain verdict.

A verdict is `too few runs`, `reproduced`, `higher` or `lower`. Runs of different length compare only by shares, and
the paper does not say how long its runs were; so each lead of the learning order is judged by its share of the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from results_db.paper import numbers as paper
from results_db.paper import selection as paper_runs
from results_db.paper.leads import Traces, first_steps, leads
from results_db.query import gate as select
from results_db.query import where
from results_db.query.aggregate import (
    Interval,
    difference_interval,
    mean_interval,
    plain,
    ratio_interval,
    values,
)

Row = dict[str, Any]

Leads = dict[str, tuple[int, float]]
"""Quantity to a lead in steps and as a share of the final state's step."""

TracesOf = Callable[[Sequence[str]], Mapping[str, Traces]]
"""`Store.traces_of`."""

TOO_FEW = "too few runs"
FEWEST_RUNS = 5
WIDEST = 0.10
"""Half the width of the widest interval that says something."""

CLOSE = 0.05
CLOSE_RATIO = 0.20
"""Relative, for the learning order."""

_ROUNDING = 1e-9
"""So that .94 is within .05 of .99, which binary fractions deny."""

_ALIKE = ("preset", "enc_layers", "step_layers", "dec_layers", "channels")
"""What decides a metric most: the two sides of an effect are compared over runs that have these in common."""


@dataclass(frozen=True)
class Ours:
    """What our runs give for a number of the paper.

    Attributes:
        interval: mean (or difference of means, or ratio) and its interval.
        kept: how many runs that is over.
        run: how many completed.
        baseline: what a decoder that imagines nothing gets.
        beside: further keys of the row.
    """

    interval: Interval
    kept: int
    run: int
    baseline: float | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)


def compare(
    table: str, frame: pd.DataFrame, *, traces_of: TracesOf, min_accuracy: float | None = None
) -> list[Row]:
    """One row per number of a table of the paper.

    Its keys are `table, quantity`, the number's group columns, `paper, paper_runs, ours, low, high, difference,
    kept, run, baseline, verdict`; then, for leads, `share, share_low, share_high` (of the final state's step) and
    `ratio, ratio_low, ratio_high, paper_ratio` (to the other lead), and for an effect its two sides.

    Args:
        table: a name of `paper.TABLES`.
        frame: runs, as `Store.runs` gives them.
        traces_of: run ids to their traces.
        min_accuracy: see `select.passed`.
    """
    numbers = paper.TABLES[table]
    if table == "learning_order":
        runs = paper_runs.of(frame, numbers[0])
        kept = [str(name) for name in _kept(runs, min_accuracy)["run_id"]]
        found = traces_of(kept)
        return _learning_order(numbers, [found.get(name, {}) for name in kept], run=len(runs))
    if table in paper.EFFECTS:
        return [_effect(number, paper_runs.of(frame, number), min_accuracy) for number in numbers]
    return [_mean(number, paper_runs.of(frame, number), min_accuracy) for number in numbers]


def verdict(wanted: float, ours: Interval, *, kept: int, close: float = CLOSE) -> str:
    """`too few runs`, `reproduced`, `higher` or `lower`: of our mean, beside the paper's `wanted`.

    Args:
        wanted: the paper's value.
        ours: our mean and its interval.
        kept: how many runs that is over.
        close: how far from the paper's value our mean may be, whatever its interval.
    """
    return TOO_FEW if _too_few(ours, kept=kept) else _judged(wanted, ours, close=close)


def _judged(wanted: float, ours: Interval, *, close: float) -> str:
    assert ours.mean is not None
    assert ours.half is not None
    if abs(ours.mean - wanted) <= max(ours.half, close) + _ROUNDING:
        return "reproduced"
    return "higher" if ours.mean > wanted else "lower"


def _too_few(ours: Interval, *, kept: int) -> bool:
    return kept < FEWEST_RUNS or ours.half is None or ours.half > WIDEST + _ROUNDING


def _kept(runs: pd.DataFrame, min_accuracy: float | None) -> pd.DataFrame:
    return runs[select.passed(runs, min_accuracy=min_accuracy)]


def _mean(number: paper.Number, runs: pd.DataFrame, min_accuracy: float | None) -> Row:
    measured = values(_kept(runs, min_accuracy), number.quantity)
    ours = Ours(mean_interval(measured), len(measured), len(runs), baseline=_baseline(runs))
    return _row(number, ours, verdict=verdict(number.value, ours.interval, kept=ours.kept))


def _baseline(runs: pd.DataFrame) -> float | None:
    """The best that a decoder which imagines nothing gets: equal for runs evaluated on the same boards."""
    names = [name for name in runs.columns if name.startswith("baseline_")]
    return max((value for name in names for value in values(runs, name)), default=None)


def _learning_order(numbers: Sequence[paper.Number], traces: Sequence[Traces], *, run: int) -> list[Row]:
    found = [_leads(of_run) for of_run in traces]
    two, three = numbers
    return [_lead(two, three, found, run=run), _lead(three, two, found, run=run)]


def _leads(traces: Traces) -> Leads:
    """The leads of a run's states, of those that have one."""
    return {
        f"lead_{state}": (lead.steps, lead.share)
        for state, lead in leads(first_steps(traces)).items()
        if lead.steps is not None and lead.share is not None
    }


def _lead(number: paper.Number, other: paper.Number, found: Sequence[Leads], *, run: int) -> Row:
    both = [of_run for of_run in found if number.quantity in of_run and other.quantity in of_run]
    shares = [of_run[number.quantity][1] for of_run in both]
    share = mean_interval(shares)
    # Of shares, not of steps: a mean of steps would be that of the longest runs.
    ratio = ratio_interval(shares, [of_run[other.quantity][1] for of_run in both])
    wanted = number.value / other.value
    beside = {**_spread("share", share), **_spread("ratio", ratio), "paper_ratio": wanted}
    steps = mean_interval([of_run[number.quantity][0] for of_run in both])
    said = _lead_verdict(wanted, share, ratio, kept=len(both))
    return _row(number, Ours(steps, len(both), run, beside=beside), verdict=said)


def _lead_verdict(wanted: float, share: Interval, ratio: Interval, *, kept: int) -> str:
    if share.mean is None or _too_few(share, kept=kept):
        return TOO_FEW
    if ratio.mean is None:  # the other state is not ahead of the final one at all
        return "higher" if share.mean > 0 else "lower"
    return _judged(wanted, ratio, close=CLOSE_RATIO * wanted)


def _spread(name: str, found: Interval) -> Row:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _effect(number: paper.Number, runs: pd.DataFrame, min_accuracy: float | None) -> Row:
    effect = paper.EFFECTS[number.table]
    keys = [key for key in _ALIKE if key not in effect.columns]
    completed = [where.apply(side, runs) for side in (effect.first, effect.second)]
    kept = _alike([_kept(side, min_accuracy) for side in completed], keys)
    counts = [len(side) for side in _alike(completed, keys)]
    metrics = [values(side, "metric") for side in kept]
    fewest = min((0, 1), key=lambda side: len(metrics[side]))
    ours = Ours(
        difference_interval(*metrics),
        kept=len(metrics[fewest]),
        run=counts[fewest],
        beside=_side("first", effect.first, metrics[0], run=counts[0])
        | _side("second", effect.second, metrics[1], run=counts[1]),
    )
    return _row(number, ours, verdict=verdict(number.value, ours.interval, kept=ours.kept))


def _alike(sides: Sequence[pd.DataFrame], keys: Sequence[str]) -> list[pd.DataFrame]:
    """Of each side the runs that, in these keys, are like some run of the other side."""
    kinds = [list(zip(*(map(plain, side[key]) for key in keys), strict=True)) for side in sides]
    shared = set(kinds[0]) & set(kinds[1])
    masks = [np.array([kind in shared for kind in of_side], dtype=bool) for of_side in kinds]
    return [side[mask] for side, mask in zip(sides, masks, strict=True)]


def _side(name: str, runs: str, metrics: Sequence[float], *, run: int) -> Row:
    mean = mean_interval(metrics).mean
    return {name: runs, f"{name}_mean": mean, f"{name}_kept": len(metrics), f"{name}_run": run}


def _row(number: paper.Number, ours: Ours, *, verdict: str) -> Row:
    mean = ours.interval.mean
    compares = number.quantity not in paper.LEADS  # steps of runs of other lengths do not
    return {
        "table": number.table,
        "quantity": number.quantity,
        **number.cell,
        "paper": number.value,
        "paper_runs": number.runs,
        "ours": mean,
        "low": ours.interval.low,
        "high": ours.interval.high,
        "difference": mean - number.value if mean is not None and compares else None,
        "kept": ours.kept,
        "run": ours.run,
        "baseline": ours.baseline,
        "verdict": verdict,
        **ours.beside,
    }
