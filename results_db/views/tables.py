"""Rows as text: a table for a terminal, Markdown, CSV, or JSON."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from results_db.paper.numbers import LEADS
from results_db.text import cell_text

Row = Mapping[str, Any]

FORMATS = ("rich", "markdown", "csv")


def render(rows: Sequence[Row], names: Sequence[str], *, style: str) -> str:
    """The rows as text, one column per name.

    Args:
        rows: what to show; null and missing cells are empty.
        names: the columns, in order.
        style: one of `FORMATS`. CSV holds the values as they are, the others round them for reading.
    """
    if style == "csv":
        return _csv(rows, names)
    cells = [[cell_text(row.get(name)) for name in names] for row in rows]
    return _markdown(cells, names) if style == "markdown" else _rich(cells, names)


def as_json(value: Any) -> str:
    """The value as indented JSON; times in ISO form."""
    return json.dumps(value, indent=2, allow_nan=False, default=_json_default)


def summary(rows: Sequence[Row], by: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `aggregate` as a person reads them, and their columns.

    `kept/run` is one column, a mean stands with its interval, and a column is there only if some row has a value
    in it.
    """
    shown = [
        {
            **{name: row[name] for name in by},
            "kept/run": f"{row['kept']}/{row['run']}",
            **_means({name: value for name, value in row.items() if name not in (*by, "kept", "run")}),
        }
        for row in rows
    ]
    return _with_values(shown, list(shown[0]) if shown else [])


def _with_values(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows and the names, without the columns in which no row has a value."""
    kept = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return [{name: row.get(name) for name in kept} for row in rows], kept


def _means(row: Row) -> dict[str, str]:
    bounds = {f"{name}_{end}" for name in row for end in ("low", "high")}
    return {name: _spread(row, name) for name in row if name not in bounds}


def comparison(rows: Sequence[Row], by: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `compare` as a person reads them, and their columns; `by` are those of the groups."""
    shown = [_compared(row, by) for row in rows]
    order = [*by, "quantity", "paper", "paper_runs", "ours", "difference", "share", "ratio", "paper_ratio"]
    order += ["first", "second", "kept/run", "baseline", "verdict"]
    return _with_values(shown, order)


def _compared(row: Row, by: Sequence[str]) -> dict[str, Any]:
    places = 0 if row["quantity"] in LEADS else 2
    return {
        **{name: row[name] for name in (*by, "quantity", "paper_runs", "verdict")},
        "paper": decimals(row["paper"], places=places),
        "ours": interval(row["ours"], row["low"], row["high"], places=places),
        "difference": decimals(row["difference"], places=places, signed=True),
        **{name: _spread(row, name) for name in ("share", "ratio")},
        "paper_ratio": decimals(row.get("paper_ratio")),
        **{side: _side(row, side) for side in ("first", "second") if side in row},
        "kept/run": f"{row['kept']}/{row['run']}",
        "baseline": decimals(row["baseline"]),
    }


def _spread(row: Row, name: str) -> str:
    return interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))


def _side(row: Row, side: str) -> str:
    parts = [f"{row[side]}:", decimals(row[f"{side}_mean"]), f"({row[f'{side}_kept']}/{row[f'{side}_run']})"]
    return " ".join(part for part in parts if part)


def interval(mean: float | None, low: float | None, high: float | None, *, places: int = 2) -> str:
    """`0.98 [0.96, 1.00]`; the mean alone where there is no interval."""
    if low is None or high is None:
        return decimals(mean, places=places)
    return (
        f"{decimals(mean, places=places)} [{decimals(low, places=places)}, {decimals(high, places=places)}]"
    )


def decimals(value: float | None, *, places: int = 2, signed: bool = False) -> str:
    """A mean with the paper's two decimals, or so many; empty for null. What rounds to zero has no sign."""
    if value is None:
        return ""
    rounded = f"{value:z.{places}f}"
    return f"+{rounded}" if signed and float(rounded) > 0 else rounded


def _csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name) for name in names]
        writer.writerow([cell_text(cell) if isinstance(cell, bool) else cell for cell in cells])
    return buffer.getvalue().rstrip("\n")


def _markdown(cells: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in cells]
    lines = [names, ["---"] * len(names), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rich(cells: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """A table; on a terminal that it is too wide for, closer together, and without the columns that hold 0 alone."""
    drawn = _drawn(cells, names, gutter=3)
    if not sys.stdout.isatty() or _width(drawn) <= shutil.get_terminal_size().columns:
        return drawn
    zeros = [index for index in range(len(names)) if cells and all(row[index] == "0" for row in cells)]
    kept = [index for index in range(len(names)) if index not in zeros]
    drawn = _drawn(
        [[row[index] for index in kept] for row in cells], [names[index] for index in kept], gutter=2
    )
    left_out = f"\n0 in every row: {', '.join(names[index] for index in zeros)}" if zeros else ""
    return drawn + left_out


def _drawn(cells: Sequence[Sequence[str]], names: Sequence[str], *, gutter: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gutter - 2, 0, 1))
    for name in names:
        table.add_column(escape(name))
    for row in cells:
        table.add_row(*map(escape, row))
    # A table is as wide as it is, on a narrow terminal too: a cell that is cut or folded cannot be copied.
    console = Console(file=io.StringIO(), width=100_000, force_terminal=sys.stdout.isatty())
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _width(drawn: str) -> int:
    from rich.text import Text

    return max((Text.from_ansi(line).cell_len for line in drawn.splitlines()), default=0)


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
