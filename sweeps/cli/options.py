"""What the commands of `imagine-sweep` share: arguments, reading a spec, a question, and printing rows."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slurm.follow.hold import HOLD_AFTER
from sweeps.spec.document import SpecError

if TYPE_CHECKING:
    from results_db.contract import Store
    from sweeps.launch.local import LaunchResult
    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec

F = TypeVar("F", bound=Callable[..., Any])

NO_SWEEP = "no sweep was launched into this store; launch one with: imagine-sweep launch SPEC"

ASK_ABOVE_H = 100.0
"""GPU-hours that past runs suggest, above which a launch on a cluster asks."""

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
    """Adds what every command takes that trains: `limit` and `dry_run`, and the rest for `train` to take."""
    positive = click.IntRange(min=1)
    for option in (
        click.option(
            "--ask-above",
            type=click.FloatRange(min=0),
            default=ASK_ABOVE_H,
            show_default=True,
            envvar="IMAGINE_ASK_ABOVE",
            show_envvar=True,
            metavar="HOURS",
            help="On Slurm: ask above so many GPU-hours.",
        ),
        click.option(
            "--check/--no-check", default=True, help="On Slurm: let a node look first. [default: check]"
        ),
        click.option(
            "--hold-after",
            type=click.IntRange(min=0),
            default=HOLD_AFTER,
            show_default=True,
            metavar="K",
            help="On Slurm: hold what waits after K identical failures at the start; 0: never.",
        ),
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
    from sweeps.spec.expand import expand
    from sweeps.spec.load import apply_overrides, load

    spec = apply_overrides(load(name), overrides)
    return spec, expand(spec)


def find_sweep(store: "Store", name: str, overrides: tuple[str, ...]) -> "tuple[Spec, Expansion]":
    """A spec by its file or shipped name, or else the sweep that was launched under this name; its cells and runs.

    Raises:
        SpecError: there is neither; or see `expand_spec`.
    """
    from sweeps.spec import stored as launched
    from sweeps.spec.expand import expand
    from sweeps.spec.load import apply_overrides, find

    try:
        find(name)
    except SpecError as missing:
        try:
            spec = launched.find(store, name)
        except SpecError as error:
            raise SpecError(f"{missing}; {error}") from None
        spec = apply_overrides(spec, overrides)
        return spec, expand(spec)
    return expand_spec(name, overrides)


def sweeps_of(store: "Store", spec: str | None, overrides: tuple[str, ...]) -> "list[tuple[Spec, Expansion]]":
    """The spec or sweep that is named, or without a name every sweep that was launched into the store.

    A sweep whose stored text this version cannot read is left out, and named on standard error.
    """
    if spec is not None:
        return [find_sweep(store, spec, overrides)]
    from sweeps.spec.stored import launched

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
    if not yes and runs > MOST_UNASKED:
        _ask(what, f"more than {MOST_UNASKED} runs")


def _ask(what: str, why: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{what}: {why}, and no terminal to ask at; give -y")
    click.confirm(f"{what}; go on?", abort=True, err=True)


def train(
    spec: "Spec",
    expansion: "Expansion",
    *,
    db: str | None,
    retry_failed: bool = False,
    limit: int | None = None,
    workers: int | None,
    pack_size: int | None,
    check: bool,
    hold_after: int,
    ask_above: float,
    yes: bool,
) -> "LaunchResult":
    """Launches these runs of a spec where it says; without any nothing is done, and nothing written."""
    from slurm.submit.launchers import LOCAL, choose
    from sweeps.launch.local import LaunchResult, launch_locally
    from sweeps.launch.plan import Counts

    launcher = choose(spec.launcher)
    if not expansion.runs:
        return LaunchResult(spec.name, {}, Counts())
    if launcher.kind == LOCAL:
        return launch_locally(
            spec,
            expansion,
            launcher=launcher,
            db=db,
            retry_failed=retry_failed,
            limit=limit,
            workers=workers,
            pack_size=pack_size,
        )
    from sweeps.launch.slurm import launch_on_slurm

    def approve(what: str, hours: float) -> None:
        if not yes and hours > ask_above:
            _ask(what, f"more than {ask_above:g} hours")

    return launch_on_slurm(
        spec,
        expansion,
        launcher=launcher,
        db=db,
        retry_failed=retry_failed,
        limit=limit,
        pack_size=pack_size,
        check=check,
        hold_after=hold_after,
        approve=approve,
    )


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Rows as JSON, or as a table for a person; the longest row's columns come first."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from results_db.views.tables import render

    columns = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
    click.echo(render(rows, list(columns), style="rich"))
