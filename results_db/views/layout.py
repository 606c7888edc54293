"""Columns of text that fit the terminal. Where the output is no terminal, nothing is cut, because scripts read it."""

import re
from collections.abc import Iterable, Mapping, Sequence

import click

from results_db import console
from results_db.columns import CONFIG_COLUMNS
from results_db.contract import DIVERGED, FAILURES, INTERRUPTED
from results_db.text import folded

Columns = Mapping[str, Sequence[str]]
"""Column name to its cells."""

COLOURS = {
    **dict.fromkeys(("reproduced", "holds"), "green"),
    **dict.fromkeys(("higher", "lower", *map(str, INTERRUPTED), DIVERGED), "yellow"),
    **dict.fromkeys(("reversed", *map(str, FAILURES)), "red"),
}
"""The colours of words in `_COLOURED` columns."""

_COLOURED = ("state", "outcome", "verdict", "sign")
_NARROWEST = 4
"""The width below which no column is folded, not even one with longer words."""

_NAME_PIECES = re.compile(r"[^_/ ]+[_/ ]?|[_/ ]")
_CELL_PIECES = re.compile(r"(?:\[[-\d.,]+, [-\d.,]+\]|\S+)\s*")  # an interval stays in one line


def table(cells: Columns) -> str:
    """A table of these columns.

    On a narrower terminal, in this order and as far as needed: columns that have one value in all rows go into a line
    below; names, then cells fold; config keys become one column; words are cut.
    """
    width = console.terminal_width()
    names, rows = list(cells), len(next(iter(cells.values()), ()))
    natural = [max(map(len, (name, *cells[name]))) for name in names]
    if width is None or sum(natural) + 3 * len(names) - 2 <= width:
        return _draw(cells, natural, gutter=3)
    same = {name: cells[name][0] for name in names if rows > 1 and len(set(cells[name])) == 1}
    if len(same) == len(cells):
        del same[names[0]]
    left: Columns = {name: column for name, column in cells.items() if name not in same}
    if sum(_widths(left, width)) > _room(left, width):
        left = _with_one_config(left)
    widths = _shrunk(_widths(left, width), [_NARROWEST] * len(left), _room(left, width))
    drawn = _draw(left, widths, gutter=2)
    if not same:
        return drawn
    caption = "; ".join(f"{name} {value or 'empty'}" for name, value in same.items())
    return f"{drawn}\n{folded(f'in every row: {caption}', width)}"


def _room(cells: Columns, width: int) -> int:
    """The characters for the cells of a line, between gutters of 2 and after a margin of 1."""
    return width - 2 * len(cells) + 1


def _with_one_config(cells: Columns) -> Columns:
    """The columns with all config keys but the seed in one: `gol=3 model_t=2`."""
    keys = [name for name in cells if name in CONFIG_COLUMNS and name != "seed"]
    if len(keys) < 2:
        return cells
    pairs = zip(*([f"{key}={cell}" if cell else "" for cell in cells[key]] for key in keys), strict=True)
    config = [" ".join(filter(None, row)) for row in pairs]
    return {
        "config" if name == keys[0] else name: config if name == keys[0] else column
        for name, column in cells.items()
        if name == keys[0] or name not in keys
    }


def _widths(cells: Columns, width: int) -> list[int]:
    """The widths at which the columns fit, if they can without a cut word; cells fold later than names."""
    whole = [max(map(len, column), default=0) for column in cells.values()]
    named = [_longest(_NAME_PIECES.findall(name)) for name in cells]
    words = [
        max(map(_longest, map(_CELL_PIECES.findall, column)), default=0) for column in cells.values()
    ]
    found = list(map(max, whole, map(len, cells)))
    for floors in (list(map(max, whole, named)), list(map(max, words, named))):
        found = _shrunk(found, floors, _room(cells, width))
    return found


def _shrunk(widths: Sequence[int], floors: Sequence[int], room: int) -> list[int]:
    """The widths, the widest reduced first, until their sum is `room` or each is at its floor."""
    found = list(widths)
    while sum(found) > room:
        wide = [place for place, width in enumerate(found) if width > floors[place]]
        if not wide:
            break
        found[max(wide, key=found.__getitem__)] -= 1
    return found


def _longest(pieces: Iterable[str]) -> int:
    return max((len(piece.rstrip()) for piece in pieces), default=0)


def _draw(cells: Columns, widths: Sequence[int], *, gutter: int) -> str:
    heads = [_fold(_NAME_PIECES.findall(name), width) for name, width in zip(cells, widths, strict=True)]
    lines = _lines(heads, ["bold"] * len(widths), widths, gutter=gutter)
    lines.append(" " + "─" * (sum(widths) + gutter * (len(widths) - 1)))
    for row in zip(*cells.values(), strict=True):
        folds = [
            [cell] if len(cell) <= width else _fold(_CELL_PIECES.findall(cell), width)
            for cell, width in zip(row, widths, strict=True)
        ]
        styles = [
            COLOURS.get(cell, "") if name in _COLOURED else "" for name, cell in zip(cells, row, strict=True)
        ]
        lines += _lines(folds, styles, widths, gutter=gutter)
    return "\n".join(lines)


def _lines(
    folds: Sequence[Sequence[str]], styles: Sequence[str], widths: Sequence[int], *, gutter: int
) -> list[str]:
    """The lines of one row."""
    lines = []
    for number in range(max(map(len, folds), default=0)):
        parts = [fold[number] if number < len(fold) else "" for fold in folds]
        last = max((place for place, part in enumerate(parts) if part), default=-1)
        padded = [
            _styled(part, style) + " " * (width - len(part) if place < last else 0)
            for place, (part, style, width) in enumerate(zip(parts, styles, widths, strict=True))
        ]
        lines.append(" " + (" " * gutter).join(padded[: last + 1]))
    return lines


def _styled(text: str, style: str) -> str:
    if not (style and text and console.has_colours()):
        return text
    return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)


def _fold(pieces: Iterable[str], width: int) -> list[str]:
    """Lines of at most `width` characters; only a longer piece is cut."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]
