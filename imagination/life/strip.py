"""True states over decoded states, from the first to the final one (the paper's Figures 1 and 3-6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagination.figures import COLUMN
from imagination.life.boards import Array, Kind, Note, Picked, notes

# Lengths in inches, so that the text keeps its size and has enough room.
_LEFT = 0.17
_GAP = 0.06
_LARGEST, _SMALLEST = 0.90, 0.44
_RUN, _TITLE, _HEAD, _NOTE, _BETWEEN = 0.16, 0.19, 0.14, 0.15, 0.10

_COUNT_NOTE = 0.25
"""The note of `life_count` has two lines, because the first decoded board is both trained and scored."""

_TALLEST = 7.5
"""The largest height, which leaves room on a page for the caption. Boards of a higher figure are made smaller."""

_STYLE: dict[Any, Any] = dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 6.5)
_COLOURS = {Kind.MATCH: "#00734d", Kind.OTHER: "#333333", Kind.OUTSIDE: "#8a8a8a"}
_FRAMES = {Kind.MATCH: 1.2, Kind.OTHER: 0.5, Kind.OUTSIDE: 0.5}
_DASHES = {Kind.MATCH: "solid", Kind.OTHER: "solid", Kind.OUTSIDE: (0, (3, 2))}


def draw(sequences: Sequence[Picked], *, config: Mapping[str, Any]) -> Figure:
    """The figure of some sequences of one run, one below the other.

    The figure is as wide as a paper's column, or wider where boards would get too small. Its first line names the run.
    Rows have one board per state, spread over the whole width: so the decoded final state stands below the true one,
    and if `gol` and `model_t` are equal, each timestep is one column. Greys are values between dead (white) and alive
    (black). A green frame marks a decoded board that matches a true state. `config` is the config of the run.
    """
    count = config.get("experiment") == "life_count"
    columns = max(len(sequences[0].truth), *map(len, sequences[0].decoded.values()))
    decoders = len(sequences[0].decoded)
    note = _COUNT_NOTE if count else _NOTE
    words = _RUN + len(sequences) * (_TITLE + _HEAD + decoders * (_GAP + note) + _BETWEEN) - _BETWEEN
    rows = len(sequences) * (1 + decoders)
    fitting = min((COLUMN - _LEFT) / columns - _GAP, (_TALLEST - words) / rows)
    board = min(max(fitting, _SMALLEST), _LARGEST)
    width = max(COLUMN, round(_LEFT + columns * (board + _GAP), 3))
    top = height = words + rows * board
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        figure.text(_LEFT / width, (top - 0.11) / height, _run(config), weight="bold")
        top -= _RUN
        for picked in sequences:
            title = _title(picked, measure="correlation" if count else "metric")
            figure.text(_LEFT / width, (top - 0.11) / height, title)
            top -= _TITLE + _HEAD
            heads = _heads(len(picked.truth), count=count)
            for axes, head in zip(_row(figure, "true", picked.truth, heads, top, board), heads, strict=True):
                axes.set_title(head.text, color=_COLOURS[head.kind], pad=2.5)
            top -= board
            for decoder, boards in picked.decoded.items():
                top -= _GAP
                name = "decoded" if list(picked.decoded) == ["plain"] else decoder
                said = notes(boards, picked.truth, config=config)
                for axes, below in zip(_row(figure, name, boards, said, top, board), said, strict=True):
                    axes.set_xlabel(below.text, color=_COLOURS[below.kind], labelpad=1, linespacing=1.1)
                top -= board + note
            top -= _BETWEEN
    return figure


def _row(
    figure: Figure, name: str, boards: Array, said: Sequence[Note], top: float, board: float
) -> list[Axes]:
    """Draw boards side by side, each with its edge of `board` inches, and their upper edge at `top`."""
    width, height = figure.get_size_inches()
    row = []
    lefts = np.linspace(_LEFT, width - board - _GAP, len(boards))
    for left, cells, note in zip(lefts, boards, said, strict=True):
        axes = figure.add_axes((left / width, (top - board) / height, board / width, board / height))
        axes.imshow(cells, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
        for spine in axes.spines.values():
            spine.set_position(("outward", _FRAMES[note.kind] / 2))  # the frame must not hide cells
            spine.set(linewidth=_FRAMES[note.kind], color=_COLOURS[note.kind], linestyle=_DASHES[note.kind])
        axes.set(xticks=[], yticks=[])
        row.append(axes)
    row[0].set_ylabel(name, labelpad=2)
    return row


def _run(config: Mapping[str, Any]) -> str:
    """The run in words: `gol 3, model_t 2, seed 5`."""
    return ", ".join(f"{key} {config[key]}" for key in ("gol", "model_t", "seed") if key in config)


def _title(picked: Picked, *, measure: str) -> str:
    """The sequence and its score, as in `best: metric 1.50 (no. 4711)`."""
    scores = {name: "undefined" if score is None else f"{score:.2f}" for name, score in picked.scores.items()}
    named = [f"{score} {name}" for name, score in scores.items()] if len(scores) > 1 else scores.values()
    said = f"{measure} {', '.join(named)}"
    if picked.name:
        return f"{picked.name}: {said} (no. {picked.index})"
    return f"no. {picked.index}: {said}"


def _heads(states: int, *, count: bool) -> list[Note]:
    """The heads of the true states. The first is given and the last may be the target; the score leaves both out."""
    names = [f"$s_{{{state}}}$" for state in range(1, states + 1)]
    last = Note(f"{names[-1]} counted", Kind.OTHER) if count else Note(f"{names[-1]} target", Kind.OUTSIDE)
    return [Note(f"{names[0]} given", Kind.OUTSIDE), *(Note(name, Kind.OTHER) for name in names[1:-1]), last]
