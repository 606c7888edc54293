"""Arguments and options that commands of `imagine-sweep` share, a question, and how rows are printed."""

import json
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

import click

from sweeps.launch.options import LaunchOptions, ask

F = TypeVar("F", bound=Callable[..., Any])

MOST_UNASKED = 10
"""Runs that `retry`, `top-up` and `cancel` take without a question."""

_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def spec_arguments(command: F) -> F:
    """Adds SPEC and the overrides after it: the arguments `spec` and `overrides`."""
    return click.argument("spec", metavar="SPEC")(_overrides(command))


def optional_spec_arguments(command: F) -> F:
    """Adds the same arguments, where `spec` may be None."""
    return click.argument("spec", metavar="[SPEC]", required=False)(_overrides(command))


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a command that trains: the arguments `how: LaunchOptions` and `dry_run: bool`.

    An option that the command adds itself, such as --db, goes into `how` if LaunchOptions has a field of its name.
    """

    @wraps(command)
    def with_options(**given: Any) -> Any:
        taken = {field.name: given.pop(field.name) for field in fields(LaunchOptions) if field.name in given}
        return command(how=LaunchOptions(**taken), **given)

    positive = click.IntRange(min=1)
    for option in (
        click.option(
            "--ask-above",
            type=click.FloatRange(min=0),
            default=LaunchOptions.ask_above,
            show_default=True,
            envvar="IMAGINE_ASK_ABOVE",
            show_envvar=True,
            metavar="HOURS",
            help="On Slurm: ask first above so many expected GPU-hours.",
        ),
        click.option(
            "--check/--no-check", default=True, help="On Slurm: check a node first. [default: check]"
        ),
        click.option(
            "--hold-after",
            type=click.IntRange(min=0),
            default=LaunchOptions.hold_after,
            show_default=True,
            metavar="K",
            help="On Slurm: hold the waiting jobs after K identical failures at the start; 0: never.",
        ),
        click.option("--pack-size", type=positive, metavar="N", help="Runs of one shape to train at once."),
        click.option("--workers", type=positive, metavar="N", help="Processes. [default: per core or GPU]"),
        click.option("--dry-run", is_flag=True, help="Only show what the command would do."),
        click.option("-n", "limit", type=positive, metavar="N", help="Only the first N runs."),
    ):
        with_options = option(with_options)
    return with_options


yes_option = click.option("-y", "--yes", is_flag=True, help=f"Do not ask, even above {MOST_UNASKED} runs.")


def confirm(what: str, runs: int, *, yes: bool) -> None:
    """Asks before more than `MOST_UNASKED` runs are trained or cancelled.

    Args:
        what: what is about to be done.
        runs: number of runs.
        yes: the answer was given on the command line.

    Raises:
        click.UsageError: standard input is no terminal.
        click.Abort: the answer is no.
    """
    if not yes and runs > MOST_UNASKED:
        ask(what, f"more than {MOST_UNASKED} runs")


def say(line: str) -> None:
    """Prints a line on standard error."""
    click.echo(line, err=True)


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Prints rows as JSON or as a table. The columns of the longest row come first."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from results_db.views.tables import render

    columns = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
    click.echo(render(rows, list(columns), style="rich"))
