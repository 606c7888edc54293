"""From runs to the cells of a table: counts, means and confidence intervals per group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results_db import columns
from results_db.contract import StoreError
from results_db.query import gate as select

MEANS = {
    "metric": ("metric_plain", "metric_adv"),
    "correlation": ("correlation_plain", "correlation_adv", "correlation_aligned"),
}
"""What an experiment is judged by, whose mean has an interval, and the means that stand beside it."""

MEASURES = (
    "kept",
    "run",
    *(
        name
        for judged, beside in MEANS.items()
        for name in (judged, f"{judged}_low", f"{judged}_high", *beside)
    ),
)
"""The columns that follow those of the groups; null where an experiment has no such metric."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; null where there are too few values."""

    mean: float | None
    low: float | None
    high: float | None

    @property
    def half(self) -> float | None:
        """How far it reaches to each side of the mean."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def aggregate(
    frame: pd.DataFrame, by: Sequence[str], *, min_accuracy: float | None = None
) -> list[dict[str, Any]]:
    """One row per group of COMPLETED runs: the group's columns, then `MEASURES`; sorted by the group.

    Means are over the kept runs whose value is not null.

    Args:
        frame: runs, as `Store.runs` gives them.
        by: the columns to group by.
        min_accuracy: see `select.passed`.

    Raises:
        StoreError: a column to group by is unknown or is itself a measure.
    """
    _check(by, list(frame.columns))
    runs = select.completed(frame)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, key in enumerate(zip(*(map(plain, runs[name]) for name in by), strict=True)):
        groups.setdefault(key, []).append(place)
    kept = select.passed(runs, min_accuracy=min_accuracy)
    return [
        {**dict(zip(by, key, strict=True)), **_measures(runs.iloc[places], kept=kept[places])}
        for key, places in sorted(groups.items(), key=lambda group: [sort_key(value) for value in group[0]])
    ]


def grouping(frame: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """The columns to group by, `experiment` first where runs of several completed: they have no mean in common."""
    several = select.completed(frame)["experiment"].nunique(dropna=False) > 1
    return ["experiment", *by] if several and "experiment" not in by else list(by)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its 95% interval after Student's t: mean +- t(n - 1) s / sqrt(n)."""
    count = len(values)
    mean = math.fsum(values) / count if count else None
    if mean is None or count < 2:
        return Interval(mean, None, None)
    half = _quantile(count - 1) * math.sqrt(_squared_error(values))
    return Interval(mean, mean - half, mean + half)


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The mean of `first` less that of `second`, and its 95% interval after Welch: variances may differ.

    The degrees of freedom are Welch and Satterthwaite's: (a + b)^2 / (a^2 / (n - 1) + b^2 / (m - 1)), where a and
    b are the squared standard errors of the two means, of n and m values.
    """
    one, two = mean_interval(first).mean, mean_interval(second).mean
    if one is None or two is None:
        return Interval(None, None, None)
    if min(len(first), len(second)) < 2:
        return Interval(one - two, None, None)
    a, b = _squared_error(first), _squared_error(second)
    largest = max(a, b)
    if not largest:
        return Interval(one - two, one - two, one - two)
    c, d = a / largest, b / largest  # a tiny error's square would be zero
    freedom = (c + d) ** 2 / (c**2 / (len(first) - 1) + d**2 / (len(second) - 1))
    half = _quantile(freedom) * math.sqrt(a + b)
    return Interval(one - two, one - two - half, one - two + half)


def ratio_interval(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The mean of `over` by that of `under`, pairs of one run each, and its 95% interval.

    The interval is the one of the residuals over_i - ratio * under_i, whose mean is zero, by the mean of `under`:
    the ratio estimator's first-order error. Null where that mean is not positive.
    """
    top, bottom = mean_interval(over).mean, mean_interval(under).mean
    if top is None or bottom is None or bottom <= 0:
        return Interval(None, None, None)
    ratio = top / bottom
    if len(over) < 2:
        return Interval(ratio, None, None)
    residuals = [above - ratio * below for above, below in zip(over, under, strict=True)]
    half = _quantile(len(over) - 1) * math.sqrt(_squared_error(residuals)) / bottom
    return Interval(ratio, ratio - half, ratio + half)


def values(runs: pd.DataFrame, name: str) -> list[float]:
    """The values of a column that are not null."""
    return [float(value) for value in runs[name].dropna()]


def plain(value: Any) -> Any:
    """A cell of a frame as Python's own bool, int, float, str, or None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if value is None or value != value else value


def _check(by: Sequence[str], known: Sequence[str]) -> None:
    valid = [name for name in known if name not in MEASURES]
    for name in by:
        columns.check(name, valid, origin="--group")
    if len(set(by)) < len(by):
        raise StoreError(f"--group: '{','.join(by)}' names a column twice")


def _measures(runs: pd.DataFrame, *, kept: Any) -> dict[str, Any]:
    counted = runs[kept]
    found: dict[str, Any] = {"kept": len(counted), "run": len(runs)}
    for judged, beside in MEANS.items():
        overall = mean_interval(values(counted, judged))
        found |= {judged: overall.mean, f"{judged}_low": overall.low, f"{judged}_high": overall.high}
        found |= {name: mean_interval(values(counted, name)).mean for name in beside}
    return found


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean of two or more values: their variance by their number."""
    count = len(values)
    mean = math.fsum(values) / count
    return math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count


def _quantile(freedom: float) -> float:
    """From Student's t with so many degrees of freedom: the bound of the central 95%."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def sort_key(value: Any) -> tuple[int, Any]:
    """Sorts numbers and booleans before words before null, which Python does not compare."""
    if value is None:
        return (2, 0)
    return (1, value) if isinstance(value, str) else (0, value)
