"""The paper's numbers beside the stored runs' numbers, with a plain verdict.

A verdict is `too few runs`, `reproduced`, `higher` or `lower`. Leads in steps cannot be compared between runs of
different length, and the paper does not say how long its runs were. So a lead of the learning order is judged by its
ratio to the other lead, both as shares of the final state's step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from results_db.paper.learning_order import Traces, first_steps, leads
from results_db.paper.numbers import EFFECTS, LEADS, TABLES, Number
from results_db.paper.selection import runs_of
from results_db.query import where
from results_db.query.aggregate import Interval, difference_interval, mean_interval, ratio_interval, values
from results_db.query.gate import passed

Row = dict[str, Any]

Leads = dict[str, tuple[int, float]]
"""Quantity to a lead in steps and as a share of the final state's step."""

TracesOf = Callable[[Sequence[str]], Mapping[str, Traces]]
"""`Store.traces_of`."""

TOO_FEW = "too few runs"
FEWEST_RUNS = 5
WIDEST = 0.10
"""The largest half width of an interval that allows a verdict."""

CLOSE = 0.05
CLOSE_RATIO = 0.20
"""Relative, for the learning order."""

_ROUNDING = 1e-9
"""The tolerance of comparisons: as binary fractions, .99 - .94 is larger than .05."""

_ALIKE = ("preset", "enc_layers", "step_layers", "dec_layers", "channels")
"""The keys that decide a metric most. The sides of an effect are compared over runs that share their values."""


def compare(
    table: str, frame: pd.DataFrame, *, traces_of: TracesOf, min_accuracy: float | None = None
) -> list[Row]:
    """One row per number of a table of the paper.

    Its keys are `table, quantity`, the number's group columns, `paper, paper_runs, ours, low, high, difference,
    kept, run, baseline, verdict`; then, for leads, `share, share_low, share_high` (of the final state's step) and
    `ratio, ratio_low, ratio_high, paper_ratio` (to the other lead), and for an effect its two sides.

    `table` is a name in `numbers.TABLES`; `frame` is as `Store.runs` gives it; see `gate.passed` for `min_accuracy`.
    """
    numbers = TABLES[table]
    if table == "learning_order":
        runs = runs_of(frame, numbers[0])
        kept = [str(name) for name in _kept(runs, min_accuracy)["run_id"]]
        traces = traces_of(kept)
        found = [_leads(traces.get(name, {})) for name in kept]
        two, three = numbers
        return [_lead(two, three, found, run=len(runs)), _lead(three, two, found, run=len(runs))]
    row = _effect if table in EFFECTS else _mean
    return [row(number, runs_of(frame, number), min_accuracy) for number in numbers]


def verdict(wanted: float, ours: Interval, *, kept: int, close: float = CLOSE) -> str:
    """The verdict on our mean of `kept` runs: `too few runs`, `reproduced`, `higher` or `lower`.

    A mean within `close` of the paper's value counts as equal, whatever its interval.
    """
    return TOO_FEW if _too_few(ours, kept=kept) else _judged(wanted, ours, close=close)


def _too_few(ours: Interval, *, kept: int) -> bool:
    return kept < FEWEST_RUNS or ours.half is None or ours.half > WIDEST + _ROUNDING


def _judged(wanted: float, ours: Interval, *, close: float) -> str:
    if ours.mean is None or ours.half is None:
        return TOO_FEW
    if abs(ours.mean - wanted) <= max(ours.half, close) + _ROUNDING:
        return "reproduced"
    return "higher" if ours.mean > wanted else "lower"


def _kept(runs: pd.DataFrame, min_accuracy: float | None) -> pd.DataFrame:
    return runs[passed(runs, min_accuracy=min_accuracy)]


def _mean(number: Number, runs: pd.DataFrame, min_accuracy: float | None) -> Row:
    measured = values(_kept(runs, min_accuracy), number.quantity)
    # The best trivial decoder. Runs that were evaluated on the same boards have the same baselines.
    trivial = [name for name in runs.columns if name.startswith("baseline_")]
    baseline = max((value for name in trivial for value in values(runs, name)), default=None)
    return _row(number, mean_interval(measured), kept=len(measured), run=len(runs), baseline=baseline)


def _leads(traces: Traces) -> Leads:
    """The leads of a run's states; a state that was never learned has none."""
    return {
        f"lead_{state}": (lead.steps, lead.share)
        for state, lead in leads(first_steps(traces)).items()
        if lead.steps is not None and lead.share is not None
    }


def _lead(number: Number, other: Number, found: Sequence[Leads], *, run: int) -> Row:
    both = [of_run for of_run in found if number.quantity in of_run and other.quantity in of_run]
    shares = [of_run[number.quantity][1] for of_run in both]
    share = mean_interval(shares)
    # A ratio of shares, because the longest runs would dominate a mean of steps.
    ratio = ratio_interval(shares, [of_run[other.quantity][1] for of_run in both])
    wanted = number.value / other.value
    return _row(
        number,
        mean_interval([of_run[number.quantity][0] for of_run in both]),
        kept=len(both),
        run=run,
        said=_lead_verdict(wanted, share, ratio, kept=len(both)),
        beside={**share.columns("share"), **ratio.columns("ratio"), "paper_ratio": wanted},
    )


def _lead_verdict(wanted: float, share: Interval, ratio: Interval, *, kept: int) -> str:
    if share.mean is None or _too_few(share, kept=kept):
        return TOO_FEW
    if ratio.mean is None:  # the other state is not learned before the final one
        return "higher" if share.mean > 0 else "lower"
    return _judged(wanted, ratio, close=CLOSE_RATIO * wanted)


def _effect(number: Number, runs: pd.DataFrame, min_accuracy: float | None) -> Row:
    effect = EFFECTS[number.table]
    keys = [key for key in _ALIKE if key not in effect.columns]
    sides = [where.apply(side, runs) for side in (effect.first, effect.second)]
    counts = [len(side) for side in _alike(sides, keys)]
    kept = _alike([_kept(side, min_accuracy) for side in sides], keys)
    metrics = [values(side, "metric") for side in kept]
    fewest, run = min(zip(map(len, metrics), counts, strict=True), key=lambda side: side[0])
    return _row(
        number,
        difference_interval(*metrics),
        kept=fewest,
        run=run,
        beside=_side("first", effect.first, metrics[0], run=counts[0])
        | _side("second", effect.second, metrics[1], run=counts[1]),
    )


def _side(name: str, runs: str, metrics: Sequence[float], *, run: int) -> Row:
    mean = mean_interval(metrics).mean
    return {name: runs, f"{name}_mean": mean, f"{name}_kept": len(metrics), f"{name}_run": run}


def _alike(sides: Sequence[pd.DataFrame], keys: list[str]) -> list[pd.DataFrame]:
    """The runs of each side whose values of these keys also occur on the other side."""
    return [
        side.merge(other[keys].drop_duplicates(), on=keys)
        for side, other in zip(sides, reversed(sides), strict=True)
    ]


def _row(
    number: Number,
    ours: Interval,
    *,
    kept: int,
    run: int,
    baseline: float | None = None,
    said: str | None = None,
    beside: Row | None = None,
) -> Row:
    """A row of `compare`; its verdict is on `ours` unless it is given."""
    comparable = number.quantity not in LEADS
    return {
        "table": number.table,
        "quantity": number.quantity,
        **number.cell,
        "paper": number.value,
        "paper_runs": number.runs,
        "ours": ours.mean,
        "low": ours.low,
        "high": ours.high,
        "difference": ours.mean - number.value if comparable and ours.mean is not None else None,
        "kept": kept,
        "run": run,
        "baseline": baseline,
        "verdict": said or verdict(number.value, ours, kept=kept),
        **(beside or {}),
    }
