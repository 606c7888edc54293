"""What the commands of `imagine-sweep` share: arguments, options, a question, and output."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from imagination import registry
from results_db import console
from results_db.cli.options import reading
from sweeps.launch.options import LaunchOptions, say

if TYPE_CHECKING:
    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec
    from sweeps.status.cell import Counts

F = TypeVar("F", bound=Callable[..., Any])

MOST_UNASKED = 10
"""Most runs that `retry`, `top-up` and `cancel` train or cancel without a question."""


def _complete_specs(
    _context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The specs that ship, and files."""
    from sweeps.spec.load import shipped

    names = [name for name in shipped() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


def _complete_keys(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    keys = (*registry.config_keys(), "runs", "seeds", "launcher")
    return [f"{key}=" for key in keys if key.startswith(incomplete)]


_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete_keys)


def spec_arguments(command: F) -> F:
    """Adds SPEC and the overrides after it: the arguments `spec` and `overrides`."""
    return click.argument("spec", metavar="SPEC", shell_complete=_complete_specs)(_overrides(command))


def optional_spec_arguments(command: F) -> F:
    """Adds the same arguments, but `spec` may be None."""
    spec = click.argument("spec", metavar="[SPEC]", required=False, shell_complete=_complete_specs)
    return spec(_overrides(command))


def store_option(*, write: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--db` and the argument `store: Store`, which is open while the command runs; see `reading` for `write`.

    A launch of SPEC, if the command has one, may yet create the store.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_store(*, db: str | None, **given: Any) -> Any:
            with reading(db, may_create=given.get("spec") is not None, write=write) as store:
                return command(store=store, **given)

        return console.db_option(with_store)

    return add


where_option = click.option(
    "--where", metavar="FILTER", help="Only runs whose config matches, e.g. 'preset=small and seed<5'."
)
"""Adds `--where` and the argument `where: str | None`, a filter for `sweeps.spec.choose.matching`."""

first_option = click.option(
    "-n", "limit", type=click.IntRange(min=1), metavar="N", help="Only the first N runs."
)
"""Adds `-n` and the argument `limit: int | None`: runs from the start of a spec."""


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a launch, and the arguments `how: LaunchOptions` and `dry_run: bool`.

    An option of the command itself, such as --db, goes into `how` if LaunchOptions has a field of its name.
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
            help="On Slurm: ask first if more than HOURS GPU-hours are expected.",
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
            help="On Slurm: hold the launch if its first K runs all fail with the same error; 0: never.",
        ),
        click.option("--snapshot", is_flag=True, help="On Slurm: jobs run a copy of the code as it is now."),
        click.option(
            "--pack-size",
            type=positive,
            metavar="N",
            help="Most runs that a worker gets in one pack; a job has a worker per GPU. [default: by the GPU's "
            "calibration, unless --slots is given or --pad mixes widths; else 16 on a GPU, 1 on a CPU; more if the "
            "experiment declares more]",
        ),
        click.option(
            "--slots",
            type=positive,
            metavar="N",
            help="Runs of a pack that train at once; the others follow as runs end. [default: by the GPU's "
            "calibration, unless --pack-size is given or --pad mixes widths; else all]",
        ),
        click.option(
            "--pad",
            is_flag=True,
            help="Let runs of different widths share a pack: zeros pad each to the widest.",
        ),
        click.option(
            "--workers",
            type=positive,
            metavar="N",
            help="Processes that train at once. [default: one per GPU, else one per core]",
        ),
        click.option("--dry-run", is_flag=True, help="Only show what the command would do."),
        first_option,
    ):
        with_options = option(with_options)
    return with_options


on_finish_option = click.option(
    "--on-finish",
    metavar="COMMAND",
    help="Run this shell command once, when no run waits or trains any more. IMAGINE_SWEEP is then the sweep's name, "
    "and IMAGINE_TOTAL, _STORED, _ACTIVE, _FAILED and _TO_SUBMIT are numbers of runs.",
)
"""Adds `--on-finish` and the argument `on_finish: str | None`."""


def run_on_finish(command: str, name: str, counts: "Counts") -> None:
    """Runs the command of `--on-finish` for a sweep, with its numbers of runs in the environment."""
    numbers = {
        "IMAGINE_TOTAL": counts.total,
        "IMAGINE_STORED": counts.stored,
        "IMAGINE_ACTIVE": counts.active,
        "IMAGINE_FAILED": counts.failed,
        "IMAGINE_TO_SUBMIT": counts.to_submit,
    }
    told = {name: str(number) for name, number in numbers.items()}
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "IMAGINE_SWEEP": name, **told},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        say(f"--on-finish: '{command}' ended with exit code {done.returncode}")


yes_option = click.option(
    "-y",
    "--yes",
    is_flag=True,
    help=f"Do not ask. Without it, the command asks before it trains more than {MOST_UNASKED} runs.",
)


def confirm(what: str, runs: int, *, then: str, yes: bool) -> None:
    """Asks before more than `MOST_UNASKED` runs are trained or cancelled, unless `yes`. See `console.ask`."""
    if not yes and runs > MOST_UNASKED:
        console.ask(what, f"more than {MOST_UNASKED} runs", then=then)


def show_preview(spec: "Spec", expansion: "Expansion", how: LaunchOptions) -> None:
    """Prints what a launch would submit to Slurm, if anything."""
    from slurm.submit.launchers import choose
    from sweeps.launch.machines import machines_of
    from sweeps.launch.prepare import form_packs, plan_launch
    from sweeps.launch.preview import preview
    from sweeps.status.cell import dead_runs

    machines = machines_of(choose(spec.launcher))
    with reading(how.db, may_create=True) as store:
        plan = plan_launch(spec, expansion, store, machines=machines, options=how, dead=dead_runs(store))
        packs, _ = form_packs(expansion, plan, store, machines=machines, options=how)
        found = preview(spec, packs, how, store=store)
    for line in found.lines() if found else ():
        click.echo(line)


def print_json(value: object) -> None:
    """Prints a value as indented JSON."""
    click.echo(json.dumps(value, indent=2))


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Prints rows as JSON or as a table. The columns of the longest row come first.

    A table has the column `blocked` only if a run is blocked.
    """
    if as_json:
        print_json(rows)
        return
    from results_db.views.tables import render

    if not any(row.get("blocked") for row in rows):
        rows = [{key: value for key, value in row.items() if key != "blocked"} for row in rows]
    columns = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
    click.echo(render(rows, list(columns), style="rich"))
