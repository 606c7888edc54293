"""The learning order as a picture: how similar each decoded state is to its true state while a run trains."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from results_db.paper.leads import states
from results_db.paper.learning_order import Cell, Order, by_cell, telling
from results_db.text import cell_text
from results_db.views.figures.files import COLUMN

Array = NDArray[Any]

_HEIGHT = 2.3
_LOWEST = 0.75
"""Where the axis begins, unless a curve ends below: an untrained network's boards are of no interest."""

_FONT = 7.0
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart; used again from the eighth state on."""

_BEYOND = 1.25
"""Where a scaled axis ends: a quarter beyond the step at which the final state is learned."""


def draw(orders: Sequence[Order], *, similarity: float) -> Figure:
    """Similarity against training, one line per state and one panel per cell.

    The step at which a state first reaches the similarity is marked. Several runs are thin lines over their
    training as a share of the step at which their final state gets there, with the mean of the runs; those whose
    final state never does have no such scale and are left out, unless none does: then steps are shown.

    Args:
        orders: one or more runs.
        similarity: the level that is drawn.
    """
    cells = by_cell(orders)
    figure = Figure(figsize=(COLUMN, _HEIGHT * len(cells)), layout="constrained")
    panels = figure.subplots(len(cells), squeeze=False)[:, 0]
    columns = telling(orders)
    for axes, (cell, runs) in zip(panels, cells.items(), strict=True):
        _panel(axes, runs, similarity=similarity)
        _legend(axes, _title(cell, columns) if len(cells) > 1 else None, runs)
    return figure


def _title(cell: Cell, columns: Sequence[str]) -> str:
    values = cell._asdict()
    said = [f"{name} {cell_text(values[name])}" for name in columns if values[name] is not None]
    return "\n".join(", ".join(said[place : place + 4]) for place in range(0, len(said), 4))


def _panel(axes: Axes, runs: Sequence[Order], *, similarity: float) -> None:
    scaled = [run for run in runs if run.final]
    shared = len(runs) > 1 and bool(scaled)
    drawn = scaled if shared else runs
    for place, name in enumerate(states(name for run in runs for name in run.first)):
        having = [run for run in drawn if name in run.first]
        if having:
            _state(axes, name, having, shared=shared, colour=_COLOURS[place % len(_COLOURS)])
    ends = [values[-1] for run in drawn for _, values in run.traces.values() if not math.isnan(values[-1])]
    _frame(axes, similarity=similarity, low=min(_LOWEST, similarity - 0.05, *ends))
    if shared:
        _scale(axes, f"{100 * similarity:g}%", shown=len(scaled), runs=len(runs))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("training step", fontsize=_FONT)


def _state(axes: Axes, name: str, runs: Sequence[Order], *, shared: bool, colour: str) -> None:
    """One state's curves, the points where it is learned, and its line in the legend."""
    curves = [_curve(run, name, shared=shared) for run in runs]
    several = len(curves) > 1
    for x, similar in curves:
        axes.plot(x, similar, color=colour, linewidth=0.4 if several else 1.2, alpha=0.5 if several else 1)
    if shared and several:
        axes.plot(*_mean(curves), color=colour, linewidth=1.4)
    for run in runs:
        step = run.first[name]
        if step is not None:
            steps, values = run.traces[name]
            point = step / _unit(run, shared=shared), values[list(steps).index(step)]
            axes.plot(*point, "o", color=colour, markersize=2 if several else 3.5)
    axes.plot([], [], color=colour, linewidth=1.4, label=_label(name, runs))


def _curve(run: Order, name: str, *, shared: bool) -> tuple[Array, Array]:
    steps, values = run.traces[name]
    return np.asarray(steps) / _unit(run, shared=shared), np.asarray(values, dtype=float)


def _unit(run: Order, *, shared: bool) -> int:
    return run.final if shared and run.final else 1


def _mean(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The mean of the curves, between their points, as far as all of them go."""
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(begin, end, 400)
    return grid, np.mean([np.interp(grid, x, values) for x, values in curves], axis=0)


def _label(name: str, runs: Sequence[Order]) -> str:
    """The state, and when it was learned if there is one run to say it of."""
    state = f"$s_{{{name.removeprefix('state')}}}$" if runs[0].cell.aligned else runs[0].label(name)
    if len(runs) > 1:
        return state
    step = runs[0].first[name]
    return f"{state} never" if step is None else f"{state} at {step:,}"


def _frame(axes: Axes, *, similarity: float, low: float) -> None:
    axes.axhline(similarity, color="#555555", linewidth=0.6, linestyle=(0, (4, 2)))
    axes.text(
        0.01,
        similarity,
        f"{100 * similarity:g}%",
        fontsize=6,
        va="bottom",
        transform=axes.get_yaxis_transform(),
    )
    axes.set_ylim(max(low, 0), 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("pixel similarity", fontsize=_FONT)
    axes.tick_params(labelsize=6.5, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def _legend(axes: Axes, title: str | None, runs: Sequence[Order]) -> None:
    """The states, above the panel, where no curve runs; a name of unequal timesteps is a long one."""
    one, several = (3, 6) if runs[0].cell.aligned else (2, 4)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=several if len(runs) > 1 else one,
        title=title,
        title_fontsize=_FONT,
        fontsize=_FONT,
        frameon=False,
        handlelength=1.2,
        columnspacing=1,
        labelspacing=0.25,
    )


def _scale(axes: Axes, level: str, *, shown: int, runs: int) -> None:
    """The axis of several runs, each on the scale of its own final state."""
    missing = f"; {runs - shown} that never get there left out" if shown < runs else ""
    axes.set_xlim(0, _BEYOND)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(
        f"training, 100%: the final state reaches {level}\n({_count(shown)}{missing})", fontsize=_FONT
    )


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"
