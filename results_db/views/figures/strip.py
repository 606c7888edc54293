"""True states over decoded states, one column per timestep (the paper's Figures 1 and 3-6)."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results_db.views.figures.boards import Array, Kind, Note, Picked, notes
from results_db.views.figures.files import COLUMN

# Everything in inches, so that the text keeps its size and never meets its neighbour.
_LEFT = 0.17
_GAP = 0.06
_LARGEST, _SMALLEST = 0.70, 0.44
_TITLE, _HEAD, _NOTE, _BETWEEN = 0.19, 0.14, 0.15, 0.10
_LINE = 0.10
"""From one line of a note to its next."""

_COUNT_NOTE = _NOTE + _LINE
"""Of `life_count`: the first decoded board is trained and scored, and says both."""

_TALLEST = 7.5
"""Boards get smaller rather than the picture higher than this, which leaves a page room for its caption."""

_FONT = 6.5
_COLOURS = {Kind.MATCH: "#00734d", Kind.OTHER: "#333333", Kind.OUTSIDE: "#8a8a8a"}
_FRAMES = {Kind.MATCH: 1.2, Kind.OTHER: 0.5, Kind.OUTSIDE: 0.5}
_SCORES = {"life_count": "correlation"}


def draw(sequences: Sequence[Picked], *, config: Mapping[str, Any]) -> Figure:
    """The picture of some sequences of one run, one below the other.

    Rows have as many boards as there are states, and begin at the same column. Values between dead (white) and
    alive (black) are shown as they are; a green frame marks a decoded board that matches a true state.

    Args:
        sequences: one or more sequences, all of the same run.
        config: that run's.
    """
    page = _Page(sequences, note=_COUNT_NOTE if config.get("experiment") == "life_count" else _NOTE)
    top = page.height
    for picked in sequences:
        top = _sequence(page, picked, top, config=config) - _BETWEEN
    return page.figure


class _Page:
    """A figure of a column's width (wider only where boards would get too small), measured in inches."""

    def __init__(self, sequences: Sequence[Picked], *, note: float) -> None:
        self.note = note
        columns = max(
            max(len(picked.truth), *(len(one.boards) for one in picked.decoded)) for picked in sequences
        )
        decoded = sum(len(picked.decoded) for picked in sequences)
        rows = len(sequences) + decoded
        words = len(sequences) * (_TITLE + _HEAD + _BETWEEN) - _BETWEEN + decoded * (_GAP + note)
        fitting = min((COLUMN - _LEFT) / columns - _GAP, (_TALLEST - words) / rows)
        self.board = min(max(fitting, _SMALLEST), _LARGEST)
        self.width = max(COLUMN, round(self.left(columns), 3))
        self.height = words + rows * self.board
        self.figure = Figure(figsize=(self.width, self.height))

    def left(self, column: int) -> float:
        """Where a column begins."""
        return _LEFT + column * (self.board + _GAP)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text at a place in inches from the lower left corner."""
        self.figure.text(x / self.width, y / self.height, text, **{"fontsize": _FONT, **style})

    def show(self, board: Array, column: int, top: float, *, kind: Kind) -> None:
        """A board whose upper edge is at `top`."""
        place = (
            self.left(column) / self.width,
            (top - self.board) / self.height,
            self.board / self.width,
            self.board / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.imshow(board, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
        axes.set_axis_off()
        dashed = (0, (3, 2)) if kind is Kind.OUTSIDE else "solid"
        edge = _FRAMES[kind] / 72 / 2 / self.board  # half a line outwards, so that it hides no cell
        frame = Rectangle(
            (-edge, -edge),
            1 + 2 * edge,
            1 + 2 * edge,
            transform=axes.transAxes,
            fill=False,
            clip_on=False,
            linewidth=_FRAMES[kind],
            linestyle=dashed,
            edgecolor=_COLOURS[kind],
        )
        axes.add_patch(frame)


def _sequence(page: _Page, picked: Picked, top: float, *, config: Mapping[str, Any]) -> float:
    """Draws one sequence downwards from `top`; returns its lower edge."""
    page.write(page.left(0), top - 0.11, _title(picked, config=config))
    top -= _TITLE + _HEAD
    kinds = _truth_kinds(len(picked.truth), config=config)
    _row(page, "true", picked.truth, kinds, top)
    for column, (head, kind) in enumerate(zip(_heads(len(picked.truth), config=config), kinds, strict=True)):
        page.write(_middle(page, column), top + 0.035, head, ha="center", color=_COLOURS[kind])
    top -= page.board
    for one in picked.decoded:
        top -= _GAP
        name = "decoded" if len(picked.decoded) == 1 and one.decoder == "plain" else one.decoder
        said = notes(one.boards, picked.truth, config=config)
        _row(page, name, one.boards, [note.kind for note in said], top)
        top -= page.board
        _notes(page, said, top)
        top -= page.note
    return top


def _row(page: _Page, name: str, boards: Array, kinds: Sequence[Kind], top: float) -> None:
    page.write(_LEFT - 0.04, top - page.board / 2, name, rotation=90, ha="right", va="center")
    for column, (board, kind) in enumerate(zip(boards, kinds, strict=True)):
        page.show(board, column, top, kind=kind)


def _notes(page: _Page, said: Sequence[Note], top: float) -> None:
    for column, note in enumerate(said):
        for row, line in enumerate(note.text.splitlines()):
            y = top - (row + 1) * _LINE
            page.write(_middle(page, column), y, line, ha="center", color=_COLOURS[note.kind])


def _middle(page: _Page, column: int) -> float:
    return page.left(column) + page.board / 2


def _title(picked: Picked, *, config: Mapping[str, Any]) -> str:
    """Which sequence it is, and what it scores: `best: metric 1.50 (no. 4711)`."""
    measure = _SCORES.get(config.get("experiment", ""), "metric")
    scores = ["undefined" if one.score is None else f"{one.score:.2f}" for one in picked.decoded]
    if len(scores) > 1:
        scores = [f"{score} {one.decoder}" for score, one in zip(scores, picked.decoded, strict=True)]
    said = f"{measure} {', '.join(scores)}"
    if picked.name:
        return f"{picked.name}: {said} (no. {picked.index})"
    return f"no. {picked.index}: {said}"


def _truth_kinds(count: int, *, config: Mapping[str, Any]) -> list[Kind]:
    """Which true states the score leaves out: the given one, and the final one where it is trained."""
    last = Kind.OTHER if config.get("experiment") == "life_count" else Kind.OUTSIDE
    return [Kind.OUTSIDE, *[Kind.OTHER] * (count - 2), last]


def _heads(count: int, *, config: Mapping[str, Any]) -> list[str]:
    last = "counted" if config.get("experiment") == "life_count" else "target"
    names = [f"$s_{{{state}}}$" for state in range(1, count + 1)]
    return [f"{names[0]} given", *names[1:-1], f"{names[-1]} {last}"]
