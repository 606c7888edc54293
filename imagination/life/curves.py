"""The learning order as a figure: the similarity of each decoded state to its true state during training."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from imagination.figures import COLOURS, COLUMN, STYLE
from imagination.life.learning_order import Cell, Order, by_cell, shown_keys, states

_HEIGHT = 2.3
_LOWEST = 0.75
"""The lowest similarity shown, unless a curve ends lower. The start of the training is of no interest."""

_BAND = (0.1, 0.9)
"""The shares of the runs that lie below the two edges of a band."""

_BEYOND = 1.25
"""The end of a scaled axis, on which the final state is learned at 1."""


def draw(orders: Sequence[Order], *, similarity: float) -> Figure:
    """Similarity against training, one line per state and one panel per cell.

    A dot marks the step at which a state first reaches the similarity. Several runs of a cell are their mean and a band
    that holds the middle 80% of them, over the training as a share of the step at which their final state reaches the
    similarity. Runs whose final state never reaches it are left out; if no run's final state does, each run is a thin
    line over its steps.
    """
    cells = by_cell(orders)
    columns = shown_keys(orders)
    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, _HEIGHT * len(cells)), layout="constrained")
        panels = figure.subplots(len(cells), squeeze=False)[:, 0]
        for axes, (cell, runs) in zip(panels, cells.items(), strict=True):
            _panel(axes, runs, similarity=similarity)
            _legend(axes, _title(cell, columns) if len(cells) > 1 else None, runs)
    return figure


def _title(cell: Cell, columns: Sequence[str]) -> str:
    values = cell._asdict()
    keys = [f"{name} {_word(values[name])}" for name in columns if values[name] is not None]
    return "\n".join(", ".join(keys[place : place + 4]) for place in range(0, len(keys), 4))


def _word(value: str | float) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _panel(axes: Axes, runs: Sequence[Order], *, similarity: float) -> None:
    scaled = [run for run in runs if run.final]
    shared = len(runs) > 1 and bool(scaled)
    drawn = scaled if shared else runs
    for place, name in enumerate(states(name for run in runs for name in run.first)):
        having = [run for run in drawn if name in run.first]
        if having:
            _state(axes, name, having, shared=shared, colour=COLOURS[place % len(COLOURS)])
    axes.axhline(similarity, color="#555555", linewidth=0.6, linestyle=(0, (4, 2)))
    level = f"{100 * similarity:g}%"
    axes.text(0.01, similarity, level, fontsize=6, va="bottom", transform=axes.get_yaxis_transform())
    ends = [values[-1] for run in drawn for _, values in run.traces.values() if not math.isnan(values[-1])]
    axes.set_ylim(max(min(_LOWEST, similarity - 0.05, *ends), 0), 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("pixel similarity")
    if shared:
        left_out = len(runs) - len(scaled)
        missing = f"; {left_out} more never reached it" if left_out else ""
        band = ", band: the middle 80%" if len(scaled) > 1 else ""
        shown = "1 run" if len(scaled) == 1 else f"{len(scaled)} runs"
        axes.set_xlim(0, _BEYOND)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(f"training, 100%: the final state reaches {level}\n({shown}{band}{missing})")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("training step")


def _state(axes: Axes, name: str, runs: Sequence[Order], *, shared: bool, colour: str) -> None:
    """One state's curves, the points where it is learned, and its line in the legend."""
    several = len(runs) > 1
    curves = []
    for run in runs:
        steps, values = run.traces[name]
        x = np.asarray(steps) / (run.final if shared and run.final else 1)
        curves.append((x, np.asarray(values, dtype=float)))
        if not (shared and several):
            axes.plot(
                *curves[-1], color=colour, linewidth=0.4 if several else 1.2, alpha=0.5 if several else 1
            )
        first = run.first[name]
        if first is not None:
            place = list(steps).index(first)
            size = 2 if several else 3.5
            axes.plot(x[place], values[place], "o", color=colour, markersize=size, zorder=3)
    if shared and several:
        # Both go as far as every curve does.
        grid = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), 400)
        drawn = np.array([np.interp(grid, x, values) for x, values in curves])
        low, high = np.quantile(drawn, _BAND, axis=0)
        axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(grid, drawn.mean(axis=0), color=colour, linewidth=1.4)
    axes.plot([], [], color=colour, linewidth=1.4, label=_label(name, runs))


def _label(name: str, runs: Sequence[Order]) -> str:
    """The state, and for a single run the step at which it was learned."""
    state = f"$s_{{{name.removeprefix('state')}}}$" if runs[0].cell.aligned else runs[0].label(name)
    if len(runs) > 1:
        return state
    step = runs[0].first[name]
    return f"{state} never" if step is None else f"{state} at {step:,}"


def _legend(axes: Axes, title: str | None, runs: Sequence[Order]) -> None:
    """The states, above the panel where no curve runs. Names of unequal timesteps are longer."""
    one, several = (3, 6) if runs[0].cell.aligned else (2, 4)
    columns = several if len(runs) > 1 else one
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, title=title)
