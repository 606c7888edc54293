"""From runs to the cells of a table: counts, means and confidence intervals per group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results_db import columns, select
from results_db.contract import StoreError

MEASURES = ("kept", "run", "metric", "metric_low", "metric_high", "metric_plain", "metric_adv")
"""The columns that follow those of the groups."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; null where there are too few values."""

    mean: float | None
    low: float | None
    high: float | None


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
        for key, places in sorted(groups.items(), key=lambda group: [_order(value) for value in group[0]])
    ]


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its 95% interval after Student's t: mean +- t(n - 1) s / sqrt(n)."""
    count = len(values)
    mean = math.fsum(values) / count if count else None
    if mean is None or count < 2:
        return Interval(mean, None, None)
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


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
    overall = mean_interval(_values(counted, "metric"))
    return {
        "kept": len(counted),
        "run": len(runs),
        "metric": overall.mean,
        "metric_low": overall.low,
        "metric_high": overall.high,
        "metric_plain": mean_interval(_values(counted, "metric_plain")).mean,
        "metric_adv": mean_interval(_values(counted, "metric_adv")).mean,
    }


def _values(runs: pd.DataFrame, name: str) -> list[float]:
    return [float(value) for value in runs[name].dropna()]


def _order(value: Any) -> tuple[int, Any]:
    """Sorts numbers and booleans before words before null, which Python does not compare."""
    if value is None:
        return (2, 0)
    return (1, value) if isinstance(value, str) else (0, value)
