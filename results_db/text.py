"""Text for people: short run ids, cell values, counts, and folded lines."""

import re
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

SHORT = 10
"""Characters of a run id that listings show; any unique prefix names a run."""


def short(run_id: str) -> str:
    """The run id as listings show it."""
    return run_id[:SHORT]


def short_path(path: Path) -> str:
    """The path as listings show it: relative if it lies in the working directory, `~` for the home directory."""
    for folder, name in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if path.is_relative_to(folder):
            return str(name / path.relative_to(folder))
    return str(path)


def one_line(text: object) -> str:
    """The text with each run of white space, newlines included, replaced by one space."""
    return " ".join(str(text).split())


def folded(text: str, width: int | None) -> str:
    """The text with every longer line folded between words, the lines after it indented; as it is without a width."""
    if width is None:
        return text
    lines = (
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_ID = re.compile("((?:sha256:)?[0-9a-f]{10})[0-9a-f]{54}")


def brief(text: str) -> str:
    """The text; of a whole run id or digest only the beginning."""
    found = _ID.fullmatch(text)
    return found[1] if found else text


def some(run_ids: Sequence[str]) -> str:
    """The number of runs and their first ids: `7 runs: 1a2b3c4d5e, ...`."""
    more = ", ..." if len(run_ids) > 5 else ""
    return f"{counted(len(run_ids), 'run')}: {', '.join(map(short, run_ids[:5]))}{more}"


def cell_text(value: Any) -> str:
    """A value as a table cell: `true` and `false` as in filters, empty for null.

    A fraction has four significant digits; a whole number has all of them.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:z.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)
