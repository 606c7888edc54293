"""What the commands of `imagine-results` share: options, and words for an empty answer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from results_db.views import tables

F = TypeVar("F", bound=Callable[..., Any])


def _one_style(context: click.Context, _param: click.Parameter, value: Any) -> Any:
    # Whichever of the two is read last sees both.
    given = [context.get_parameter_source(name) for name in ("as_json", "style")]
    if given == [ParameterSource.COMMANDLINE] * 2:
        raise click.UsageError("--json and --format are two ways to print; give one of them")
    return value


def style_options(command: F) -> F:
    """Adds `--json` and `--format`, one of which may be given: the arguments `as_json: bool` and `style: str`."""
    command = click.option(
        "--format",
        "style",
        type=click.Choice(tables.FORMATS),
        default="rich",
        show_default=True,
        callback=_one_style,
        help="How to print.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, callback=_one_style, help="Print JSON.")(command)


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
