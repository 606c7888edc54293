"""True states over decoded states, one column per timestep (the paper's Figures 1 and 3-6)."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from results_db.views.figures.boards import Array, Kind, Note, Picked, notes
from results_db.views.figures.files import COLUMN

# Lengths in inches: the text keeps its size and does not touch its neighbour.
_LEFT = 0.17
_GAP = 0.06
_LARGEST, _SMALLEST = 0.70, 0.44
_TITLE, _HEAD, _NOTE, _BETWEEN = 0.19, 0.14, 0.15, 0.10
_LINE = 0.10
"""The distance between two lines of a note."""

_COUNT_NOTE = _NOTE + _LINE
"""The note of `life_count` has two lines, because the first decoded board is both trained and scored."""

_TALLEST = 7.5
"""The height from which boards get smaller instead: a page has room for the figure and its caption."""

_FONT = 6.5
_COLOURS = {Kind.MATCH: "#00734d", Kind.OTHER: "#333333", Kind.OUTSIDE: "#8a8a8a"}
_FRAMES = {Kind.MATCH: 1.2, Kind.OTHER: 0.5, Kind.OUTSIDE: 0.5}
_DASHES = {Kind.MATCH: "solid", Kind.OTHER: "solid", Kind.OUTSIDE: (0, (3, 2))}
_SCORES = {"life_count": "correlation"}


def draw(sequences: Sequence[Picked], *, config: Mapping[str, Any]) -> Figure:
    """The figure of some sequences of one run, one below the other.

    Rows have one board per state and begin at the same column. Greys are values between dead (white) and alive
    (black). A green frame marks a decoded board that matches a true state.

    Args:
        sequences: one or more sequences, all of the same run.
        config: the config of the run.
    """
    page = _Page(sequences, note=_COUNT_NOTE if config.get("experiment") == "life_count" else _NOTE)
    top = page.height
    for picked in sequences:
        top = _sequence(page, picked, top, config=config) - _BETWEEN
    return page.figure


class _Page:
    """A figure as wide as a paper's column, or wider where boards would get too small. Lengths are in inches."""

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
        """The left edge of a column."""
        return _LEFT + column * (self.board + _GAP)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Writes text at this distance from the lower left corner."""
        self.figure.text(x / self.width, y / self.height, text, **{"fontsize": _FONT, **style})

    def show(self, board: Array, column: int, top: float, *, kind: Kind) -> None:
        """Draws a board whose upper edge is at `top`."""
        place = (
            self.left(column) / self.width,
            (top - self.board) / self.height,
            self.board / self.width,
            self.board / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.imshow(board, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
        for spine in axes.spines.values():
            spine.set_position(("outward", _FRAMES[kind] / 2))  # a frame hides no cell
            spine.set(linewidth=_FRAMES[kind], color=_COLOURS[kind], linestyle=_DASHES[kind])
        axes.set(xticks=[], yticks=[])


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
    """The sequence and its score, as in `best: metric 1.50 (no. 4711)`."""
    measure = _SCORES.get(config.get("experiment", ""), "metric")
    scores = ["undefined" if one.score is None else f"{one.score:.2f}" for one in picked.decoded]
    if len(scores) > 1:
        scores = [f"{score} {one.decoder}" for score, one in zip(scores, picked.decoded, strict=True)]
    said = f"{measure} {', '.join(scores)}"
    if picked.name:
        return f"{picked.name}: {said} (no. {picked.index})"
    return f"no. {picked.index}: {said}"


def _truth_kinds(count: int, *, config: Mapping[str, Any]) -> list[Kind]:
    """The score leaves out the first true state, which is given, and the last one where it is trained."""
    last = Kind.OTHER if config.get("experiment") == "life_count" else Kind.OUTSIDE
    return [Kind.OUTSIDE, *[Kind.OTHER] * (count - 2), last]


def _heads(count: int, *, config: Mapping[str, Any]) -> list[str]:
    last = "counted" if config.get("experiment") == "life_count" else "target"
    names = [f"$s_{{{state}}}$" for state in range(1, count + 1)]
    return [f"{names[0]} given", *names[1:-1], f"{names[-1]} {last}"]
