"""The paper's numbers beside the stored runs' numbers, with a plain verdict.

A verdict is `too few runs`, `uncertain`, `reproduced`, `higher` or `lower`. Where the paper gives no number, it is
`above baseline` or `not above` it. Training steps cannot be compared between
runs of different length, and the paper does not say how long its runs were. So a quantity that is derived from traces
is judged by its ratio to another, both as shares.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from imagination import registry
from imagination.figures import Traces
from imagination.intervals import Interval, mean_interval, ratio_interval
from imagination.paper import Derived, Effect, Number, Side
from results_db.columns import config_keys
from results_db.contract import Store
from results_db.paper.numbers import TABLES
from results_db.paper.selection import groups
from results_db.query import where
from results_db.query.aggregate import values
from results_db.query.effect import paired
from results_db.query.gate import passed

Row = dict[str, Any]

TOO_FEW = "too few runs"
ABOVE, NOT_ABOVE = "above baseline", "not above"
UNCERTAIN = "uncertain"
FEWEST_RUNS = 5
WIDEST = 0.10
"""The largest half width of an interval that allows a verdict."""

CLOSE = 0.05
CLOSE_RATIO = 0.20
"""Relative, for ratios."""

_ROUNDING = 1e-9
"""The tolerance of comparisons: as binary fractions, .99 - .94 is larger than .05."""

TOO_FEW_PAIRS = "too few pairs"
FEWEST_PAIRS = 10
"""Fewer pairs than this do not show the sign of an effect."""


def compare(table: str, frame: pd.DataFrame, *, store: Store, gate: str | None = None) -> list[Row]:
    """One row per number of a table of the paper, and per spec and preset of its runs.

    Its keys are `table, spec, preset, quantity`, the number's group columns, `paper, paper_runs, ours, low, high,
    difference, kept, run, baseline, ceiling, verdict`; then, for a derived quantity, `share, share_low, share_high` and
    `ratio, ratio_low, ratio_high, paper_ratio` (to the quantity beside it), and for an effect `sign` and its two sides;
    `words` where the paper has no number; and why runs do not count: `missed_gate`, and the keys of `selection.ABSENT`.

    `table` is a name in `numbers.TABLES`; `frame` holds runs of the store, as `Store.runs` gives them; see
    `gate.passed` for `gate`.
    """
    rows = []
    numbers = TABLES[table]
    derived: dict[str, dict[str, Mapping[str, Derived]]] = {}
    for number in numbers:
        for spec, preset, runs, absent in groups(frame, number, store=store):
            kept = runs[passed(runs, gate=gate)]
            if number.effect:
                row = _effect(number, number.effect, runs, kept)
            elif number.derived:
                found = derived.setdefault(number.derived, {})
                ids = [str(run_id) for run_id in kept["run_id"]]
                missing = [run_id for run_id in ids if run_id not in found]
                traces = store.traces_of(missing) if missing else {}
                found |= _derive(number.derived, {run_id: traces.get(run_id, {}) for run_id in missing})
                (other,) = [one for one in numbers if one.quantity == number.beside]
                row = _derived(number, other, [found[run_id] for run_id in ids], run=len(runs))
            else:
                row = _mean(number, runs, kept)
            missed = {"missed_gate": len(runs) - len(kept), **{why: len(ids) for why, ids in absent.items()}}
            rows.append({"table": table, "spec": spec, "preset": preset, **row, **missed})
    return rows


def not_counted(table: str, frame: pd.DataFrame, *, store: Store, gate: str | None = None) -> dict[str, int]:
    """Why runs of this table are in no mean, as in the rows of `compare`, to their number; each run counts once."""
    found: dict[str, set[str]] = {}
    for number in TABLES[table]:
        for group in groups(frame, number, store=store):
            missed = group.runs["run_id"][~passed(group.runs, gate=gate)]
            for why, ids in {"missed_gate": missed, **group.absent}.items():
                found.setdefault(why, set()).update(ids)
    return {why: len(ids) for why, ids in found.items()}


def _derive(path: str, traces: Mapping[str, Traces]) -> Mapping[str, Mapping[str, Derived]]:
    """What the declared function derives from the traces of each run; nothing, with a warning, if it raises."""
    derive: Callable[[Traces], Mapping[str, Derived]]
    derive = registry.load_or_warn(path, callable) or (lambda _: {})
    found = registry.call_or_warn(path, lambda: {key: derive(of) for key, of in traces.items()}, dict)
    return found or {key: {} for key in traces}


def kept_values(
    table: str, frame: pd.DataFrame, *, store: Store, gate: str | None = None
) -> list[list[float]]:
    """The values of the kept runs of each row of `compare` for a table of means."""
    return [
        values(group.runs[passed(group.runs, gate=gate)], number.quantity)
        for number in TABLES[table]
        for group in groups(frame, number, store=store)
    ]


def verdict(wanted: float, ours: Interval, *, kept: int, close: float = CLOSE) -> str:
    """The verdict on our mean of `kept` runs.

    A mean within `close` of the paper's value counts as equal, whatever its interval.
    """
    return _no_verdict(ours, kept=kept) or _judged(wanted, ours, close=close)


def _no_verdict(ours: Interval, *, kept: int) -> str | None:
    """Why a mean has no verdict, if it has none."""
    if kept < FEWEST_RUNS or ours.half is None:
        return TOO_FEW
    return UNCERTAIN if ours.half > WIDEST + _ROUNDING else None


def _judged(wanted: float, ours: Interval, *, close: float) -> str:
    if ours.mean is None or ours.half is None:
        return TOO_FEW
    if abs(ours.mean - wanted) <= max(ours.half, close) + _ROUNDING:
        return "reproduced"
    return "higher" if ours.mean > wanted else "lower"


def _mean(number: Number, runs: pd.DataFrame, kept: pd.DataFrame) -> Row:
    measured = values(kept, number.quantity)
    # The best trivial solution. Runs that were evaluated on the same data have the same baselines.
    baseline, ceiling = (
        max((value for name in names for value in values(runs, name)), default=None)
        for names in (number.baselines, [number.ceiling])
    )
    ours = mean_interval(measured)
    if number.value is None:
        baseline, said = _beside_baselines(number, kept)
    else:
        said = verdict(number.value, ours, kept=len(measured))
    return _row(
        number, ours, kept=len(measured), run=len(runs), said=said, baseline=baseline, ceiling=ceiling
    )


def _beside_baselines(number: Number, kept: pd.DataFrame) -> tuple[float | None, str]:
    """The mean of the best baseline, and whether the runs are above it: each run is compared with its own."""
    frame = kept.reindex(columns=[number.quantity, *number.baselines]).dropna()
    means = frame[list(number.baselines)].mean()
    if len(frame) < FEWEST_RUNS:
        return (None if frame.empty else means.max()), TOO_FEW
    above = mean_interval(list(frame[number.quantity] - frame[means.idxmax()]))
    return means.max(), ABOVE if above.low is not None and above.low > 0 else NOT_ABOVE


def _derived(number: Number, other: Number, found: Sequence[Mapping[str, Derived]], *, run: int) -> Row:
    both = [of_run for of_run in found if number.quantity in of_run and other.quantity in of_run]
    shares = [of_run[number.quantity].share for of_run in both]
    share = mean_interval(shares)
    # A ratio of shares, because the longest runs would dominate a mean of steps.
    ratio = ratio_interval(shares, [of_run[other.quantity].share for of_run in both])
    assert number.value is not None
    assert other.value is not None
    wanted = number.value / other.value
    return _row(
        number,
        mean_interval([of_run[number.quantity].steps for of_run in both]),
        kept=len(both),
        run=run,
        said=_ratio_verdict(wanted, share, ratio, kept=len(both)),
        beside={**share.columns("share"), **ratio.columns("ratio"), "paper_ratio": wanted},
    )


def _ratio_verdict(wanted: float, share: Interval, ratio: Interval, *, kept: int) -> str:
    if (missing := _no_verdict(share, kept=kept)) or share.mean is None:
        return missing or TOO_FEW
    if ratio.mean is None:  # the mean of the other one is not positive
        return "higher" if share.mean > 0 else "lower"
    return _judged(wanted, ratio, close=CLOSE_RATIO * wanted)


def _effect(number: Number, effect: Effect, runs: pd.DataFrame, kept: pd.DataFrame) -> Row:
    """The difference in pairs: the mean of the first side's runs minus that of the second's, with all else equal."""
    sides = (effect.first, effect.second)
    named = where.names(effect.first.where) | where.names(effect.second.where)
    equal = [key for key in config_keys(runs.columns) if key not in named]
    first, second = paired(
        *(where.apply(side.where, kept) for side in sides),
        equal=equal,
        metrics=[side.metric for side in sides],
    )
    tried = [where.apply(side.where, runs).groupby(equal, dropna=False).size().index for side in sides]
    ours = mean_interval(list(first - second))
    return _row(
        number,
        ours,
        kept=len(first),
        run=len(tried[0].intersection(tried[1])),
        said=verdict(effect.value, ours, kept=len(first)),
        beside={
            "sign": _sign(ours, pairs=len(first)),
            **_side("first", effect.first, first, runs, kept),
            **_side("second", effect.second, second, runs, kept),
        },
    )


def _sign(ours: Interval, *, pairs: int) -> str:
    """Whether the first side is larger, as in the paper: `holds`, `reversed`, or `open` if the interval has both."""
    if pairs < FEWEST_PAIRS or ours.low is None or ours.high is None:
        return TOO_FEW_PAIRS
    return "holds" if ours.low > 0 else "reversed" if ours.high < 0 else "open"


def _side(name: str, side: Side, metrics: "pd.Series[float]", runs: pd.DataFrame, kept: pd.DataFrame) -> Row:
    return {
        name: side.label,
        f"{name}_where": side.where,
        f"{name}_metric": side.metric,
        f"{name}_mean": mean_interval(list(metrics)).mean,
        f"{name}_kept": len(where.apply(side.where, kept)),
        f"{name}_run": len(where.apply(side.where, runs)),
    }


def _row(
    number: Number,
    ours: Interval,
    *,
    kept: int,
    run: int,
    said: str,
    baseline: float | None = None,
    ceiling: float | None = None,
    beside: Row | None = None,
) -> Row:
    """A row of `compare`, with this verdict."""
    difference = None
    if ours.mean is not None and number.value is not None and not number.derived:
        difference = ours.mean - number.value
    return {
        "quantity": number.quantity,
        **number.cell,
        "paper": number.value,
        **({"words": number.words} if number.words else {}),
        "paper_runs": number.runs,
        "ours": ours.mean,
        "low": ours.low,
        "high": ours.high,
        "difference": difference,
        "kept": kept,
        "run": run,
        "baseline": baseline,
        "ceiling": ceiling,
        "verdict": said,
        **(beside or {}),
    }
