"""The report's page: `page.html.j2` with its style and script, filled with what `collect` found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imagination.intervals import Interval, decimals
from results_db.paper.numbers import TABLES, cell_keys
from results_db.report.collect import Report
from results_db.text import cell_text
from results_db.views.tables import spread

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Column:
    """A column of a table on the page."""

    key: str
    title: str
    is_number: bool = False

    def text(self, row: Mapping[str, Any]) -> str:
        """The cell of a row of `compare`."""
        places = 0 if "share" in row else 2
        if self.key == "kept":
            return f"{row['kept']}/{row['run']}"
        if self.key == "ours":
            return Interval(row["ours"], row["low"], row["high"]).text(places=places)
        if self.key in ("share", "ratio"):
            return spread(row, self.key)
        if self.key == "paper" and row.get("words"):
            return str(row["words"])
        if self.key in ("paper", "baseline", "ceiling"):
            return decimals(row[self.key], places=places)
        return cell_text(row.get(self.key))


def columns(table: str, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of a table: those in which some row has a value."""
    numbers = ("paper", "ours", "share", "ratio", "kept", "baseline", "ceiling")
    names = [*cell_keys(table), "quantity", "preset", *numbers, "sign", "verdict"]
    if TABLES[table][0].effect:
        names.remove("quantity")
    titles = {"kept": "kept/run", "ours": "ours [95%]"}
    in_words = any(row.get("words") for row in rows)
    filled = [
        name
        for name in names
        if any(row.get(name) is not None for row in rows) or (name == "paper" and in_words)
    ]
    return [Column(name, titles.get(name, name), name in numbers) for name in filled]


def page(report: Report, *, title: str) -> str:
    """The whole page. It loads nothing, so it opens offline."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    runs = json.dumps(report.runs, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return environment.get_template("page.html.j2").render(
        report=report,
        title=title,
        layout={name: columns(name, rows) for name, rows in report.tables.items()},
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
        runs=runs,
    )
