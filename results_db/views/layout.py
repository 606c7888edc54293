"""Columns of text that fit the terminal. Where the output is no terminal, nothing is cut, because scripts read it."""

import re
from collections.abc import Iterable, Mapping, Sequence

import click

from imagination import registry
from results_db import console
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
_PART_PIECES = re.compile(r"(?:[^\s_/=]+[_/=]?|[_/=])\s*")


def same_in_all(cells: Columns, names: Iterable[str]) -> dict[str, str]:
    """The columns among `names` that have one value in all of several rows, with this value; never all columns."""
    rows = len(next(iter(cells.values()), ()))
    found = {
        name: cells[name][0] for name in names if name in cells and rows > 1 and len(set(cells[name])) == 1
    }
    if found and len(found) == len(cells):
        del found[next(iter(cells))]
    return found


def caption(same: Mapping[str, str]) -> str:
    """The line for columns that have one value in all rows."""
    shown = "; ".join(f"{name} {value or 'empty'}" for name, value in same.items())
    return f"in every row: {shown}"


def table(cells: Columns, *, captioned: Sequence[str] = ()) -> str:
    """A table of these columns. Of those in `captioned`, one with a single value goes into a line below.

    On a narrower terminal, in this order and as far as needed: columns move closer; those with one value in all rows go
    into the line below; names, then cells fold; the config keys of a row go into a line above or below it; words are
    cut.
    """
    width = console.terminal_width()
    same = same_in_all(cells, captioned)
    drawn, more = _fitted({name: column for name, column in cells.items() if name not in same}, width)
    same |= more
    return f"{drawn}\n{folded(caption(same), width)}" if same else drawn


def _fitted(cells: Columns, width: int | None) -> tuple[str, dict[str, str]]:
    """The drawn table, and the columns that it leaves out because they have one value in all rows."""
    names, rows = list(cells), len(next(iter(cells.values()), ()))
    natural = [max(map(len, (name, *cells[name]))) for name in names]
    if width is None or sum(natural) + 3 * len(names) - 2 <= width:
        return _draw(cells, natural, gutter=3), {}
    if sum(natural) <= _room(cells, width):
        return _draw(cells, natural, gutter=2), {}
    same = same_in_all(cells, names)
    left: Columns = {name: column for name, column in cells.items() if name not in same}
    configs = [""] * rows
    if sum(_widths(left, width, words=_CELL_PIECES)) > _room(left, width):
        left, configs = _without_config(left, configs)
    is_first = next(name for name in names if name not in same) not in left
    beside = [config and folded(config if is_first else f"  {config}", width - 1) for config in configs]
    return _draw(left, _narrowed(left, width), gutter=2, beside=beside, above=is_first), same


def _without_config(cells: Columns, configs: list[str]) -> tuple[Columns, list[str]]:
    """The columns without config keys, but with the seed; and the config of each row, `gol=3 model_t=2`."""
    keys = [name for name in cells if name in registry.config_keys() and name != "seed"]
    if keys and len(keys) < len(cells):
        pairs = zip(*([f"{key}={cell}" if cell else "" for cell in cells[key]] for key in keys), strict=True)
        configs = [" ".join(filter(None, row)) for row in pairs]
        cells = {name: column for name, column in cells.items() if name not in keys}
    return cells, configs


def _room(cells: Columns, width: int) -> int:
    """The characters for the cells of a line, between gutters of 2 and after a margin of 1."""
    return width - 2 * len(cells) + 1


def _narrowed(cells: Columns, width: int) -> list[int]:
    """The widths of columns that fit. Words fold after `_`, `/` and `=` before any is cut elsewhere."""
    found = _widths(cells, width, words=_CELL_PIECES)
    if sum(found) > _room(cells, width):
        found = _widths(cells, width, words=_PART_PIECES)
    return _shrunk(found, [_NARROWEST] * len(cells), _room(cells, width))


def _widths(cells: Columns, width: int, *, words: re.Pattern[str]) -> list[int]:
    """The widths at which the columns fit, if they can with whole words; cells fold later than names."""
    named = [_longest(_NAME_PIECES.findall(name)) for name in cells]
    whole = [max(map(len, column), default=0) for column in cells.values()]
    least = [max(map(_longest, map(words.findall, column)), default=0) for column in cells.values()]
    found = list(map(max, whole, map(len, cells)))
    for floors in (list(map(max, whole, named)), list(map(max, least, named))):
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


def _draw(
    cells: Columns, widths: Sequence[int], *, gutter: int, beside: Sequence[str] = (), above: bool = False
) -> str:
    """The table; `beside` has the text above or below each row."""
    heads = [_fold(_NAME_PIECES.findall(name), width) for name, width in zip(cells, widths, strict=True)]
    lines = _lines(heads, ["bold"] * len(widths), widths, gutter=gutter)
    lines.append(" " + "─" * (sum(widths) + gutter * (len(widths) - 1)))
    for number, row in enumerate(zip(*cells.values(), strict=True)):
        folds = [_fold_cell(cell, width) for cell, width in zip(row, widths, strict=True)]
        styles = [
            COLOURS.get(cell, "") if name in _COLOURED else "" for name, cell in zip(cells, row, strict=True)
        ]
        text = [f" {line}" for one in beside[number : number + 1] if one for line in one.split("\n")]
        row_lines = _lines(folds, styles, widths, gutter=gutter)
        lines += [*text, *row_lines] if above else [*row_lines, *text]
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


def _fold_cell(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    words = _CELL_PIECES.findall(text)
    return _fold(words if _longest(words) <= width else _PART_PIECES.findall(text), width)


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
