"""Draws boards of chess, and lines over layers."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from imagination.figures import COLOURS, STYLE
from imagination.intervals import Interval
from imagination.recorder import Arrays

Line = tuple[str, str, Mapping[int, Interval]]
"""What was asked, of what, and the means by layer."""

_WIDTH = 7.0
_COLUMNS = 3
_NAMES = 6
"""Names in a row of the legend."""
_GLYPHS = " ♙♘♗♖♕♔♟♞♝♜♛♚"
"""By class: empty, the pieces of the player to move, the opponent's."""
_SQUARES = np.indices((8, 8)).sum(0) % 2
_CHANGED = "#d55e00"


def boards(sample: Arrays) -> Figure:
    """The present board and those decoded from each layer; below, the boards that follow."""
    layers = {f"layer {at}" if at else "first layer": one for at, one in enumerate(sample["decoded"])}
    plies = {f"after ply {ply}": one for ply, one in enumerate(sample["line"], start=1)}
    rows = [{"present board": sample["board"], **layers}, {"its own move": sample["own"], **plies}]
    columns = max(map(len, rows))
    board = _WIDTH / columns
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2 * (board + 0.25)), layout="constrained")
        axes = figure.subplots(2, columns, squeeze=False)
        for each in axes.flat:
            each.set_axis_off()
        for shown, row in zip(axes, rows, strict=True):
            for each, (title, one) in zip(shown, row.items(), strict=False):
                _board(each, one, title=title, before=sample["board"], inches=board)
    return figure


def heat(sample: Arrays, *, title: str) -> Figure:
    """The board with a square's colour by the probe's score, and a frame around the right square."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.25, 2.9), layout="constrained")
        axes = figure.subplots()
        scores = np.asarray(sample["scores"], np.float64).reshape(8, 8).clip(0, 1)
        _board(axes, sample["board"], title=title, inches=2.3, shade=False)
        shown = axes.imshow(
            scores, cmap="Reds", origin="lower", vmin=0, vmax=max(0.1, scores.max()), zorder=0
        )
        figure.colorbar(shown, ax=axes, label="score", shrink=0.8)
        if (right := int(sample["right"])) < 64:  # else the game is over, and no square is right
            _frame(axes, right, colour="#0072b2")
    return figure


def curves(lines: Sequence[Line], *, caption: str) -> Figure:
    """A panel for everything that was asked: means by layer, with a band for the interval."""
    asked = list(dict.fromkeys(name for name, _, _ in lines))
    rows = -(-len(asked) // _COLUMNS)
    looks = itertools.product("os^", COLOURS)  # markers and colours
    look = dict(zip(dict.fromkeys(of for _, of, _ in lines), looks, strict=False))
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 0.3 + 1.7 * rows), layout="constrained")
        panels = figure.subplots(rows, min(_COLUMNS, len(asked)), squeeze=False).flat
        drawn: dict[str, Artist] = {}
        for name, axes in zip(asked, panels, strict=False):
            axes.set_title(name, fontsize=7)
            for _, of, by_layer in (line for line in lines if line[0] == name):
                drawn[of] = _curve(axes, by_layer, *look[of], is_level=of in ("input", "next"))
            axes.set_ylim(0, min(1, axes.get_ylim()[1]))
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels:
            axes.set_axis_off()
        figure.supxlabel(caption, fontsize=7)
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=_NAMES)
    return figure


def _curve(
    axes: Axes, by_layer: Mapping[int, Interval], marker: str, colour: str, *, is_level: bool
) -> Artist:
    """Means over layers; those of the input, which has none, are a level."""
    layers = sorted(by_layer)
    mean, low, high = np.array(
        [[one.mean, one.low, one.high] for one in map(by_layer.get, layers) if one], float
    ).T
    if is_level:
        return axes.axhline(mean[0], color=colour, linewidth=1, linestyle=(0, (4, 2)))
    axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(layers, mean, color=colour, linewidth=1, marker=marker, markersize=2)
    return line


def _board(
    axes: Axes,
    squares: NDArray[Any],
    *,
    title: str,
    inches: float,
    before: NDArray[Any] | None = None,
    shade: bool = True,
) -> None:
    """A board of about so many inches; squares that differ from `before` have a frame."""
    size = 72 * inches / 8 * 0.75
    axes.set_axis_off()
    axes.set_title(title, fontsize=7, pad=3)
    if shade:
        axes.imshow(_SQUARES, cmap="Greys_r", origin="lower", vmin=-3, vmax=1.2)
    for square, kind in enumerate(squares.tolist()):
        row, column = divmod(square, 8)
        axes.text(column, row - 0.05, _GLYPHS[kind], ha="center", va="center", fontsize=size)
        if before is not None and kind != before[square]:
            _frame(axes, square, colour=_CHANGED)


def _frame(axes: Axes, square: int, *, colour: str) -> None:
    row, column = divmod(square, 8)
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(
        Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=1.2, zorder=3, clip_on=False)
    )
