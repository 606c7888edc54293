"""Rows as text: a table for a terminal, Markdown, CSV, or JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from results_db.paper.numbers import LEADS
from results_db.text import brief, cell_text, one_line
from results_db.views import layout

Row = Mapping[str, Any]

FORMATS = ("rich", "markdown", "csv")
"""The choices of `--format`; `render` also takes `json`."""

EXACT = ("json", "csv")
"""The styles with unrounded values; the others round values for reading."""

_COMPARED = (
    *(
        "spec",
        "preset",
        "quantity",
        "paper",
        "paper_runs",
        "ours",
        "difference",
        "share",
        "ratio",
        "paper_ratio",
    ),
    *("first", "second", "kept/run", "baseline", "ceiling", "sign", "verdict"),
)


def render(rows: Sequence[Row], names: Sequence[str], *, style: str) -> str:
    """The rows as text, one column per name; JSON holds every key of the rows. Null and missing cells are empty.

    `style` is one of `FORMATS`, or `json`.
    """
    if style == "json":
        return as_json(rows)
    if style == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: cell_text(v) if isinstance(v, bool) else v for k, v in row.items()})
        return buffer.getvalue().rstrip("\n")
    cells = {name: [brief(one_line(cell_text(row.get(name)))) for row in rows] for name in names}
    return _markdown(cells) if style == "markdown" else layout.table(cells)


def as_json(value: Any) -> str:
    """The value as indented JSON; times in ISO form."""
    return json.dumps(value, indent=2, allow_nan=False, default=datetime.isoformat)


def summary(rows: Sequence[Row], by: Sequence[str], *, style: str) -> str:
    """The rows of `aggregate` for people: rounded, each mean with its interval, without empty columns."""
    shown = []
    for row in rows:
        means = [
            key
            for key in row
            if key not in (*by, "kept", "run", "varies") and not key.endswith(("_low", "_high"))
        ]
        counts = {"kept/run": f"{row['kept']}/{row['run']}"}
        shown.append({key: row[key] for key in by} | counts | {key: spread(row, key) for key in means})
    return _render_filled(shown, list(shown[0]), style=style)


def comparison(rows: Sequence[Row], by: Sequence[str], *, style: str) -> str:
    """The rows of `compare` for people: rounded, without empty columns; `by` are the group columns."""
    shown = []
    for row in rows:
        places = 0 if row["quantity"] in LEADS else 2
        difference = (
            None if row["quantity"] == "effect" else row["difference"]
        )  # an effect is a difference itself
        shown.append(
            {
                **{
                    name: row.get(name)
                    for name in (*by, "spec", "preset", "quantity", "paper_runs", "sign", "verdict")
                },
                "paper": decimals(row["paper"], places=places),
                "ours": interval(row["ours"], row["low"], row["high"], places=places),
                "difference": decimals(difference, places=places, signed=True),
                **{name: spread(row, name) for name in ("share", "ratio")},
                "paper_ratio": decimals(row.get("paper_ratio")),
                **{side: _side(row, side) for side in ("first", "second") if side in row},
                "kept/run": f"{row['kept']}/{row['run']}",
                **{name: decimals(row[name]) for name in ("baseline", "ceiling")},
            }
        )
    return _render_filled(shown, [*by, *_COMPARED], style=style)


def spread(row: Row, name: str, *, places: int = 2) -> str:
    """The mean `name` of a row with its bounds `name_low` and `name_high`, see `interval`."""
    return interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"), places=places)


def interval(mean: float | None, low: float | None, high: float | None, *, places: int = 2) -> str:
    """`0.98 [0.96, 1.00]`; the mean alone where there is no interval."""
    shown = decimals(mean, places=places)
    if low is None or high is None:
        return shown
    return f"{shown} [{decimals(low, places=places)}, {decimals(high, places=places)}]"


def decimals(value: float | None, *, places: int = 2, signed: bool = False) -> str:
    """A number with so many decimals, `1,571` or `0.98`; empty for null. A rounded zero has no sign."""
    if value is None:
        return ""
    sign = "+" if signed and round(value, places) > 0 else ""
    return f"{value:{sign}z,.{places}f}"


def _side(row: Row, side: str) -> str:
    """`with: 0.99 (14/16)`: the mean over the pairs, and how many of the side's runs were kept."""
    parts = [f"{row[side]}:", decimals(row[f"{side}_mean"]), f"({row[f'{side}_kept']}/{row[f'{side}_run']})"]
    return " ".join(part for part in parts if part)


def _render_filled(rows: Sequence[Row], names: Sequence[str], *, style: str) -> str:
    """The rows as text, without the columns in which no row has a value."""
    filled = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return render(rows, filled, style=style)


def _markdown(cells: Mapping[str, Sequence[str]]) -> str:
    rows = zip(*([cell.replace("|", r"\|") for cell in column] for column in cells.values()), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells, ["---"] * len(cells), *rows))
