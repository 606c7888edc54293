"""What the commands of `imagine-results` share: options, and words for an empty answer."""

from collections.abc import Sequence
from pathlib import Path

import click

from results_db import tables

SHORT = 10
"""Characters of a run id in tables; any unique prefix names a run."""

format_option = click.option(
    "--format",
    "style",
    type=click.Choice(tables.FORMATS),
    default="rich",
    show_default=True,
    help="How to print.",
)

gate_option = click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    metavar="A",
    help="Keep runs with at least this training accuracy. "
    "[default: the experiment's, 0.99 for life_state, 0.999 for life_count]",
)

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw into this file, which ends in .png or .svg.",
)


def nothing(store: str, what: str, *, where: str | None, states: Sequence[str] = ()) -> str:
    """What to say where a store holds none of what was asked for."""
    chosen = [f"--where '{where}'"] if where is not None else []
    chosen += [f"--state {state}" for state in states]
    matches = f" that matches {' '.join(chosen)}" if chosen else ""
    return f"{what}{matches} is stored in {store}; launch some with: imagine-sweep launch SPEC"
