"""From runs to the cells of a table: counts, means and confidence intervals per group."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from imagination.intervals import CONFIDENCE, Interval, mean_interval, quantile
from results_db import columns
from results_db.contract import Experiment, StoreError
from results_db.frame import Frame, plain
from results_db.query.gate import completed, passed

if TYPE_CHECKING:  # slow to import
    import pandas as pd

Means = Mapping[str, Sequence[str]]
"""The metrics that judge experiments, each with those shown beside it. Only the former's means have intervals."""


def means(experiments: Mapping[str, Experiment]) -> Means:
    """What these experiments show."""
    return {one.shown[0]: tuple(one.shown[1:]) for one in experiments.values() if one.shown}


def measures(shown: Means) -> list[str]:
    """The columns after the group columns; null where an experiment has no such metric."""
    counts = ["kept", "run", "pass_rate", "pass_rate_low", "pass_rate_high"]
    each = [(name, f"{name}_low", f"{name}_high", *beside) for name, beside in shown.items()]
    return list(dict.fromkeys([*counts, *(name for names in each for name in names)]))


def aggregate(
    frame: Frame,
    by: Sequence[str],
    *,
    shown: Means,
    gate: str | None = None,
    interval: "Estimate | None" = None,
) -> list[dict[str, Any]]:
    """One row per group of COMPLETED runs: the group's columns, `measures`, and `varies`; sorted by the group.

    Means are over the kept runs that have the metric. `varies` lists the config
    keys, but the seed, in which the runs of the group differ. If the frame has the column `code`, `code` lists the
    versions of the code that trained them.

    Args:
        frame: the runs, as `Store.frame` gives them.
        by: the columns to group by.
        shown: the metrics.
        gate: see `gate.passed`.
        interval: how to estimate a mean, one of `INTERVALS`; default: `mean_interval`.

    Raises:
        StoreError: a column to group by is unknown, is a measure, or is named twice.
    """
    runs = completed(frame)
    groups = grouped(runs, by, not_by=measures(shown))
    kept = passed(runs, gate=gate)
    code = runs["code"] if "code" in runs.columns else None
    keys = (name for name in columns.config_keys(runs.columns) if name != "seed")
    codes_of = {name: codes for name in keys if np.any(codes := runs.column(name).codes)}
    return [
        {
            **dict(zip(by, key, strict=True)),
            **_measures(runs.take(places), kept[places], beside=shown, interval=interval or mean_interval),
            "varies": [name for name, codes in codes_of.items() if np.ptp(codes[places])],
            **({} if code is None else {"code": sorted(set(code[places]))}),
        }
        for key, places in sorted(
            ((key, np.array(places)) for key, places in groups.items()), key=lambda group: sort_key(group[0])
        )
    ]


def grouped(
    frame: Frame, by: Sequence[str], *, not_by: Sequence[str] = ()
) -> dict[tuple[Any, ...], list[int]]:
    """The places of the rows of each group; `not_by` names columns that make no groups.

    Raises:
        StoreError: a column to group by is unknown, is one of `not_by`, or is named twice.
    """
    for name in by:
        columns.check(name, [one for one in frame.columns if one not in not_by], origin="--group")
    if len(set(by)) < len(by):
        raise StoreError(f"--group: '{','.join(by)}' names a column twice; name each column once")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(zip(*(plain(frame[name]) for name in by), strict=True)):
        groups.setdefault(row, []).append(place)
    return groups


def grouping(frame: Frame, by: Sequence[str]) -> list[str]:
    """The columns to group by. `experiment` comes first where runs of several experiments completed.

    Metrics of different experiments have no common mean.
    """
    several = len(set(completed(frame)["experiment"])) > 1
    return ["experiment", *by] if several and "experiment" not in by else list(by)


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """The mean and its bootstrap interval, bias-corrected and accelerated (BCa). Equal values give equal intervals."""
    if len(values) < 2 or len(set(values)) == 1:
        return mean_interval(values)
    from scipy.stats import bootstrap  # takes half a second to import

    rng = np.random.default_rng(0)
    found = bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, method="BCa", batch=1000, random_state=rng
    )
    low, high = found.confidence_interval
    return Interval(fmean(values), float(low), float(high))


Estimate = Callable[[Sequence[float]], Interval]

INTERVALS: Mapping[str, Estimate] = {"t": mean_interval, "bootstrap": bootstrap_interval}
"""The choices of `--interval`."""


def values(runs: "pd.DataFrame | Frame", name: str) -> list[float]:
    """The values of a column that are not null; none if there is no such column."""
    cells = np.asarray(runs[name] if name in runs.columns else [], dtype=float)
    return cast(list[float], cells[~np.isnan(cells)].tolist())


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a frame with plain values: bool, int, float, str, or None where one is missing."""
    return cast(list[dict[str, Any]], frame.astype(object).where(frame.notna(), None).to_dict("records"))


def sort_key(row: Sequence[Any]) -> list[tuple[int, Any]]:
    """Sorts rows of mixed values: numbers and booleans before words before null."""
    return [
        (2, 0) if value is None else (1, value) if isinstance(value, str) else (0, value) for value in row
    ]


def _measures(
    runs: Frame, kept: Any, *, beside: Mapping[str, Sequence[str]], interval: "Estimate"
) -> dict[str, Any]:
    """The counts, the pass rate, and the means: each metric with its interval, those beside it without."""
    counted = runs[kept]
    found: dict[str, Any] = {"kept": len(counted), "run": len(runs)}
    found |= pass_rate(len(counted), len(runs)).columns("pass_rate")
    for judged, others in beside.items():
        found |= interval(values(counted, judged)).columns(judged)
        found |= {name: mean_interval(values(counted, name)).mean for name in others}
    return found


def pass_rate(kept: int, run: int) -> Interval:
    """The share of kept runs, with its interval after Wilson: the shares from which kept / run is not too far."""
    if not run:
        return Interval()
    share, square = kept / run, quantile(math.inf) ** 2
    middle = (share + square / (2 * run)) / (1 + square / run)
    half = math.sqrt(square * (share * (1 - share) + square / (4 * run)) / run) / (1 + square / run)
    return Interval(share, max(middle - half, 0.0), min(middle + half, 1.0))
