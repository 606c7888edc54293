"""Rows as text: a table for a terminal, Markdown, CSV, or JSON."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from imagination.intervals import Interval, decimals
from results_db.text import brief, cell_text, one_line
from results_db.views import layout

Row = Mapping[str, Any]

FORMATS = ("rich", "markdown", "latex", "csv")
"""The choices of `--format`; `render` also takes `json`."""

EXACT = ("json", "csv")
"""The styles with unrounded values; the others round values for reading."""

_NO_MEANS = ("kept", "run", "pass_rate", "varies", "code", "runs")

_NUMBER = re.compile(r"[-+]?[\d.,]")

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "…": r"\dots{}",
    "–": "--",
}
"""Characters that LaTeX reads as commands, or that the default fonts lack."""

_COMPARED = ("spec", "preset", "quantity", "paper", "paper_runs", "ours")
_JUDGED = (
    *("difference", "share", "ratio", "paper_ratio", "first", "second"),
    *("kept/run", "baseline/ceiling", "sign", "verdict"),
)


def render(rows: Sequence[Row], names: Sequence[str], *, style: str, captioned: Sequence[str] = ()) -> str:
    """The rows as text, one column per name; JSON holds every key of the rows. Null and missing cells are empty.

    `style` is one of `FORMATS`, or `json`. For people, columns in `captioned` that have one value in all rows go into a
    line below the table.
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
    if style == "rich":
        return layout.table(cells, captioned=captioned)
    same = layout.same_in_all(cells, captioned)
    left = {name: column for name, column in cells.items() if name not in same}
    drawn = _markdown(left) if style == "markdown" else _latex(left)
    return "\n".join([drawn, *notes([layout.caption(same)], style=style)]) if same else drawn


def notes(lines: Sequence[str], *, style: str) -> list[str]:
    """Lines below a table, so that its format stays valid: comments in LaTeX, a paragraph in Markdown."""
    if style == "latex":
        return [f"% {line}" for line in lines]
    return [each for line in lines for each in ("", line)] if style == "markdown" else list(lines)


def as_json(value: Any) -> str:
    """The value as indented JSON; times in ISO form."""
    return json.dumps(value, indent=2, allow_nan=False, default=datetime.isoformat)


def summary(rows: Sequence[Row], by: Sequence[str], *, style: str) -> str:
    """The rows of `aggregate` for people: rounded, each mean with its interval, without empty columns."""
    shown = []
    for row in rows:
        means = [key for key in row if key not in (*by, *_NO_MEANS) and not key.endswith(("_low", "_high"))]
        counts = {"kept/run": f"{row['kept']}/{row['run']}", "pass rate": pass_rate(row)}
        shown.append({key: row[key] for key in by} | counts | {key: spread(row, key) for key in means})
    return _render_filled(shown, list(shown[0]), style=style, captioned=by)


def comparison(
    rows: Sequence[Row], by: Sequence[str], *, style: str, sides: Mapping[str, str] | None = None
) -> str:
    """The rows of `compare` for people: rounded, without empty columns; `by` are the group columns.

    The quantities of `sides` have these columns instead of `ours`, side by side: `paper` and `verdict` then have a part
    for each.
    """
    sides = sides or {}
    same = (*by, "spec", "preset")
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for place, row in enumerate(rows):
        has_side = row["quantity"] in sides
        cells.setdefault(tuple(row.get(name) for name in same) if has_side else (place,), []).append(row)
    shown = [_compared(of, same, sides) for of in cells.values()]
    return _render_filled(
        shown,
        [*by, *_COMPARED, *sides.values(), *_JUDGED],
        style=style,
        captioned=(*by, "spec", "preset", "quantity"),
    )


def _compared(rows: Sequence[Row], same: Sequence[str], sides: Mapping[str, str]) -> dict[str, Any]:
    """A row for people: of one number, or of one for each side."""
    (row, *others) = rows
    places = 0 if "share" in row else 2
    means = [Interval(one["ours"], one["low"], one["high"]).text(places=places) for one in rows]
    verdicts = [str(one["verdict"] or "") for one in rows]
    own: dict[str, Any]
    if others:
        own = dict(zip((sides[one["quantity"]] for one in rows), means, strict=True))
    else:
        # An effect is a difference itself.
        difference = None if "sign" in row else row["difference"]
        own = {
            "quantity": row["quantity"],
            "ours": means[0],
            "difference": decimals(difference, places=places, signed=True),
        }
    limits = [decimals(row[name]) for name in ("baseline", "ceiling")]
    return {
        **{name: row.get(name) for name in (*same, "paper_runs", "sign")},
        **own,
        "paper": "/".join(one.get("words") or decimals(one["paper"], places=places) for one in rows),
        **{name: spread(row, name) for name in ("share", "ratio")},
        "paper_ratio": decimals(row.get("paper_ratio")),
        **{side: _side(row, side) for side in ("first", "second") if side in row},
        "kept/run": f"{row['kept']}/{row['run']}",
        "baseline/ceiling": "/".join(limit or "-" for limit in limits) if any(limits) else "",
        "verdict": verdicts[0] if len(set(verdicts)) == 1 else "/".join(verdicts),
    }


def spread(row: Row, name: str, *, places: int = 2) -> str:
    """The mean `name` of a row with its bounds `name_low` and `name_high`."""
    return Interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")).text(places=places)


def pass_rate(row: Row) -> str:
    """The pass rate of a row with its bounds, in percent: `56% [33, 77]`; empty without runs."""
    if row.get("pass_rate") is None:
        return ""
    share, low, high = (f"{100 * row[name]:.0f}" for name in ("pass_rate", "pass_rate_low", "pass_rate_high"))
    return f"{share}% [{low}, {high}]"


def _side(row: Row, side: str) -> str:
    """`with: 0.99 (14/16)`: the mean over the pairs, and how many of the side's runs were kept."""
    parts = [f"{row[side]}:", decimals(row[f"{side}_mean"]), f"({row[f'{side}_kept']}/{row[f'{side}_run']})"]
    return " ".join(part for part in parts if part)


def _render_filled(
    rows: Sequence[Row], names: Sequence[str], *, style: str, captioned: Sequence[str] = ()
) -> str:
    """The rows as text, without the columns in which no row has a value."""
    filled = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return render(rows, filled, style=style, captioned=captioned)


def _markdown(cells: Mapping[str, Sequence[str]]) -> str:
    rows = zip(*([cell.replace("|", r"\|") for cell in column] for column in cells.values()), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells, ["---"] * len(cells), *rows))


def _latex(cells: Mapping[str, Sequence[str]]) -> str:
    """A `tabular` with the rules of booktabs. Columns of numbers are aligned to the right."""
    kinds = ["r" if all(_NUMBER.match(cell) for cell in column if cell) else "l" for column in cells.values()]
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (cells, *zip(*cells.values(), strict=True))]
    rules = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{''.join(kinds)}}}", *rules, r"\end{tabular}"])


def _escaped(text: str) -> str:
    """The text with LaTeX's own characters as text."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
