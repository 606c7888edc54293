"""What the commands of `imagine-sweep` share: arguments, reading a spec, a question, and printing rows."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from results_db.contract import Store
    from sweeps.expand import Expansion
    from sweeps.launch import LaunchResult
    from sweeps.model import Spec

F = TypeVar("F", bound=Callable[..., Any])

NO_SWEEP = "no sweep was launched into this store; launch one with: imagine-sweep launch SPEC"

MOST_UNASKED = 10
"""Runs that are launched again or in addition without a question."""

_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def spec_arguments(command: F) -> F:
    """Adds SPEC and the overrides after it: the arguments `spec` and `overrides`."""
    return click.argument("spec", metavar="SPEC")(_overrides(command))


def optional_spec_arguments(command: F) -> F:
    """The same, but `spec` may be None."""
    return click.argument("spec", metavar="[SPEC]", required=False)(_overrides(command))


def launch_options(command: F) -> F:
    """Adds what every command takes that trains: `limit`, `dry_run`, `workers` and `pack_size`."""
    positive = click.IntRange(min=1)
    for option in (
        click.option("--pack-size", type=positive, metavar="N", help="Runs of one shape to train at once."),
        click.option("--workers", type=positive, metavar="N", help="Processes. [default: per core or GPU]"),
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option("-n", "limit", type=positive, metavar="N", help="The first N runs only."),
    ):
        command = option(command)
    return command


yes_option = click.option("-y", "--yes", is_flag=True, help=f"Do not ask, even above {MOST_UNASKED} runs.")


def expand_spec(name: str, overrides: tuple[str, ...]) -> "tuple[Spec, Expansion]":
    """A spec with its overrides, and its cells and runs."""
    from sweeps.expand import expand
    from sweeps.spec import apply_overrides, load

    spec = apply_overrides(load(name), overrides)
    return spec, expand(spec)


def sweeps_of(store: "Store", spec: str | None, overrides: tuple[str, ...]) -> "list[tuple[Spec, Expansion]]":
    """The spec that is named, or without one every sweep that was launched into the store.

    A sweep whose stored text this version cannot read is left out, and named on standard error.
    """
    if spec is not None:
        return [expand_spec(spec, overrides)]
    from sweeps.launched import launched

    found = launched(store)
    for name in found.unreadable:
        click.echo(
            f"{name}: left out, its stored spec is of another version; give the spec by name", err=True
        )
    return list(found.sweeps)


def dead_runs(store: "Store") -> list[str]:
    """Ids of runs that the store holds for RUNNING though their worker is gone."""
    from jobs.provenance import dead_attempts

    return [attempt.run_id for attempt in dead_attempts(store)]


def confirm(what: str, runs: int, *, yes: bool) -> None:
    """Asks before more than `MOST_UNASKED` runs are launched.

    Args:
        what: what is about to be done.
        runs: how many.
        yes: it was answered beforehand.

    Raises:
        click.UsageError: there is nobody to ask.
        click.Abort: the answer is no.
    """
    if yes or runs <= MOST_UNASKED:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{what}: more than {MOST_UNASKED} runs, and no terminal to ask at; give -y")
    click.confirm(f"{what}; go on?", abort=True, err=True)


def train(
    spec: "Spec",
    expansion: "Expansion",
    *,
    db: str | None,
    retry_failed: bool = False,
    workers: int | None,
    pack_size: int | None,
) -> "LaunchResult":
    """Launches these runs of a spec; without any nothing is done, and nothing written."""
    from sweeps.launch import LaunchResult, launch_locally
    from sweeps.plan import Counts

    if not expansion.runs:
        return LaunchResult(spec.name, {}, Counts(), interrupted=False, failure=None)
    return launch_locally(
        spec, expansion, db=db, retry_failed=retry_failed, workers=workers, pack_size=pack_size
    )


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Rows as JSON, or as a table for a person; the longest row's columns come first."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from results_db.tables import render

    columns = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
    click.echo(render(rows, list(columns), style="rich"))
