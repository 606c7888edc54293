"""Figures of the metric over runs: by cell beside the paper, against a config key, and the steps to the gate."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from imagination.figures import COLOURS, COLUMN, STYLE
from results_db.query.aggregate import records
from results_db.text import cell_text

Row = Mapping[str, Any]

_PER_ROW = 0.24
_MARGIN = 0.55
_PAPER = "#555555"
_ACROSS = 3
_FEW = 6


def cells(
    rows: Sequence[Row], kept: Sequence[Sequence[float]], by: Sequence[str], *, short: Sequence[str] = ()
) -> Figure:
    """The rows of `compare`, one line each: kept runs as dots, our mean with its interval, and the paper's value.

    Args:
        rows: of one table, from `results_db.paper.compare`.
        kept: the values of each row's kept runs.
        by: the table's group columns.
        short: those whose values alone name a row, as in 3/2.
    """
    shared = {key for key in (*by, "quantity", "preset") if len({row.get(key) for row in rows} - {None}) <= 1}
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * COLUMN, _PER_ROW * len(rows) + _MARGIN), layout="constrained")
        axes = figure.subplots()
        rng = np.random.default_rng(0)  # only shifts dots apart
        for place, (row, values) in enumerate(zip(rows, kept, strict=True)):
            apart = place + rng.uniform(-0.28, 0.28, len(values))
            axes.plot(values, apart, "o", color=COLOURS[0], markersize=1.8, alpha=0.4, markeredgewidth=0)
            if row["ours"] is not None:
                axes.plot(row["ours"], place, "o", color=COLOURS[0], markersize=3, zorder=3)
            if row["low"] is not None:
                axes.hlines(place, row["low"], row["high"], color=COLOURS[0], linewidth=1.2)
            if row["paper"] is not None:
                axes.plot(row["paper"], place, "D", color=COLOURS[1], markersize=3.2, zorder=4)
            if row.get("ceiling") is not None:
                axes.plot(row["ceiling"], place, "|", color=_PAPER, markersize=7)
        axes.set_yticks(range(len(rows)), [_row_label(row, by, shared, short) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(str(rows[0]["quantity"]) if "quantity" in shared else "")
        axes.plot([], [], "o", color=COLOURS[0], markersize=3, label="ours, 95% interval")
        axes.plot([], [], "D", color=COLOURS[1], markersize=3.2, label="the paper")
        axes.plot([], [], "|", color=_PAPER, markersize=7, label="the ceiling")
        figure.legend(loc="outside upper right", ncols=3)
    return figure


def _row_label(row: Row, by: Sequence[str], shared: set[str], short: Sequence[str]) -> str:
    parts = ["/".join(cell_text(row.get(key)) for key in short)] if short else []
    parts += [
        f"{key} {cell_text(row[key])}"
        for key in (*by, "quantity", "preset")
        if key not in short and key not in shared and row.get(key) is not None
    ]
    return f"{', '.join(parts)}  ({row['kept']}/{row['run']})"


def against(runs: pd.DataFrame, keys: Sequence[str], *, metric: str, by: str | None = None) -> Figure:
    """The metric of kept runs against config keys, a panel for each, at most three beside each other.

    Each value of `by` has a colour. Rates have a log axis. If a key has few values, the colours are drawn side by side.
    """
    across = min(len(keys), _ACROSS)
    down = -(-len(keys) // across)
    with rc_context(STYLE):
        size = (COLUMN if across == 1 else 2 * COLUMN, 0.5 + 1.8 * down)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for key, axes in zip(keys, panels, strict=False):
            _against(axes, runs, key, metric=metric, by=by)
        for axes in panels[len(keys) :]:
            axes.remove()
        figure.supylabel(metric, fontsize=STYLE["axes.labelsize"])
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _against(axes: Axes, runs: pd.DataFrame, key: str, *, metric: str, by: str | None) -> None:
    values = runs[key].dropna()
    few = sorted(set(values)) if values.nunique() <= _FEW else []
    groups = _groups(runs, [by] if by else [])
    for place, ((label, group), colour) in enumerate(zip(groups, cycle(COLOURS), strict=False)):
        known = group[[key, metric]].dropna()
        said = f"{label} ({len(known)})".strip()
        apart = 0.2 * (place - (len(groups) - 1) / 2)
        x = [few.index(value) + apart for value in known[key]] if few else known[key]
        axes.plot(x, known[metric], "o", color=colour, markersize=2.5, alpha=0.6, label=said)
    if few:
        axes.set_xticks(range(len(few)), [cell_text(value) for value in few])
        axes.set_xlim(-0.5, len(few) - 0.5)
    elif pd.api.types.is_float_dtype(values) and (values > 0).all() and values.max() > 3 * values.min():
        axes.set_xscale("log")
    axes.set_xlabel(key)


def steps(runs: pd.DataFrame, by: Sequence[str]) -> Figure:
    """The share of runs that do not pass their gate yet, against training steps (Kaplan and Meier).

    `runs` are COMPLETED. One that is not `kept` counts as not there up to its last step.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
        axes = figure.subplots()
        for (label, group), colour in zip(_groups(runs, by), cycle(COLOURS)):
            _survival(axes, group, label=f"{label} ({len(group)})", colour=colour)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("training step")
        axes.set_ylabel("runs not kept yet")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def throughput(runs: pd.DataFrame, by: Sequence[str]) -> Figure:
    """Training steps per second against the size of the pack: a dot for each run, a line through the medians.

    `runs` are those of `with_packs`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
        axes = figure.subplots()
        for (label, group), colour in zip(_groups(runs, by), cycle(COLOURS)):
            said = f"{label} ({len(group)})".strip()
            axes.plot(
                group["pack"], group["rate"], "o", color=colour, markersize=2.5, alpha=0.4, markeredgewidth=0
            )
            medians = group.groupby("pack")["rate"].median()
            axes.plot(medians.index, medians, "o-", color=colour, markersize=3.5, linewidth=1, label=said)
        sizes = sorted(runs["pack"].unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("runs in the pack")
        axes.set_ylabel("steps per second, all runs")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=1)
    return figure


def survival(steps: Sequence[float], reached: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Steps at which the share of runs that are not there yet falls, and the share from then on.

    The estimate after Kaplan and Meier: at each step at which runs arrive, the share is multiplied by
    1 - arrived / (runs that trained until then).
    """
    ends = sorted(set(steps))
    x, y, share = [0.0], [1.0], 1.0
    for end in ends:
        at_risk = sum(step >= end for step in steps)
        arrived = sum(step == end and there for step, there in zip(steps, reached, strict=True))
        if arrived:
            share *= 1 - arrived / at_risk
            x.append(float(end))
            y.append(share)
    if ends:
        x.append(float(ends[-1]))
        y.append(share)
    return x, y


def _survival(axes: Axes, runs: pd.DataFrame, *, label: str, colour: str) -> None:
    known = runs[runs["steps"].notna()]
    x, y = survival(known["steps"].tolist(), known["kept"].astype(bool).tolist())
    axes.step(x, y, where="post", color=colour, linewidth=1.2, label=label)


def _groups(runs: pd.DataFrame, by: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each combination of these columns, and its values in words."""
    if not by:
        return [("", runs)]
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(records(runs[list(by)])):
        found.setdefault(tuple(row.values()), []).append(place)
    return [
        (
            ", ".join(f"{name} {cell_text(value)}" for name, value in zip(by, key, strict=True)),
            runs.iloc[places],
        )
        for key, places in sorted(found.items(), key=lambda group: [cell_text(value) for value in group[0]])
    ]
