"""What the commands of `imagine-results` share: options, and the line for an empty answer."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from results_db.console import json_option
from results_db.views.figures import files
from results_db.views.tables import FORMATS


def style_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json` and `--format`, and the argument `style: str`, one of `FORMATS` or `json`."""

    @functools.wraps(command)
    def with_style(*, as_json: bool, style: str | None, **options: Any) -> Any:
        if as_json and style:
            raise click.UsageError(
                "--json and --format are two ways to print; give one of them", click.get_current_context()
            )
        return command(style="json" if as_json else style or "rich", **options)

    choice = click.Choice(FORMATS)
    return click.option("--format", "style", type=choice, help="How to print. [default: rich]")(
        json_option(with_style)
    )


gate_option = click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    metavar="A",
    help="Keep runs with at least this training accuracy, e.g. 0.95. "
    "[default: the gate, 0.99 for life_state and 0.999 for life_count]",
)
"""Adds `--min-accuracy` and the argument `min_accuracy: float | None`."""

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=lambda _context, _param, path: path and files.check(path),
    metavar="FILE",
    help="Draw into this file, which ends in .png or .svg.",
)
"""Adds `-o` and the argument `output: Path | None`."""


def nothing(store: str, what: str, *, where: str | None, states: Sequence[str] = ()) -> str:
    """The line for an empty answer: no run in the store matches."""
    chosen = [f"--where '{where}'"] if where is not None else []
    chosen += [f"--state {state}" for state in states]
    matches = f" that matches {' '.join(chosen)}" if chosen else ""
    return f"{what}{matches} is stored in {store}; launch some with: imagine-sweep launch SPEC"
