"""The command group `imagine-sweep`, with `list`, `plan` and `launch`."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from imagination.schema import ConfigError
from results_db import console
from results_db.cli.options import reading
from results_db.contract import StoreError
from results_db.text import counted
from slurm.client.client import SlurmError
from sweeps.cli import calibrate as cli_calibrate
from sweeps.cli import coverage as cli_coverage
from sweeps.cli import jobs as cli_jobs
from sweeps.cli import options
from sweeps.cli import retry as cli_retry
from sweeps.cli import watch as cli_watch
from sweeps.launch.options import LaunchOptions, say
from sweeps.spec.document import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec


_COMMANDS = [
    *(cli_watch.status, cli_watch.watch, cli_coverage.coverage, cli_coverage.top_up),
    *(cli_calibrate.calibrate, cli_retry.retry, cli_jobs.logs, cli_jobs.cancel, cli_jobs.reconcile),
]


@click.group(cls=console.ConsoleGroup, name="imagine-sweep", no_args_is_help=True, commands=_COMMANDS)
@click.version_option(package_name="imagine-sweep")
def cli() -> None:
    """From a YAML spec to trained runs in the store.

    SPEC is a YAML file, the name of a spec that ships with the package (see `list`), or the name of a launched sweep.
    Hydra overrides, such as runs=20, lr=1e-3,2e-3 or launcher.cpus_per_task=2, and options follow it, in any
    order.
    EXPERIMENT.KEY=VALUE, such as life_count.preset=paper, changes only the cells of that experiment.
    """


retry_option = click.option("--retry-failed", is_flag=True, help="Also train failed runs again.")


@cli.command("list")
@console.json_option
def list_specs(as_json: bool) -> None:
    """Show the specs that ship with the package.

    Example: imagine-sweep list
    """
    from results_db.text import short_path
    from sweeps.spec.load import FOLDER, about, expand_spec, shipped

    rows = []
    for name, path in shipped().items():
        spec, expansion = expand_spec(path)
        rows.append(
            {
                "name": name,
                "experiment": ", ".join(sorted({part.experiment for part in spec.parts})),
                "cells": len(expansion.cells),
                "runs": len(expansion.runs),
                "about": about(path),
                "file": str(path),
            }
        )
    if as_json:
        options.print_json(rows)
        return
    people = [{name: value for name, value in row.items() if name != "file"} for row in rows]
    options.print_rows(people, as_json=False)
    console.say(f"files: {short_path(FOLDER)}/NAME.yaml")


@cli.command()
@options.spec_arguments
@options.where_option
@options.first_option
@console.db_option
@console.json_option
@retry_option
def plan(
    *,
    spec: str,
    overrides: tuple[str, ...],
    where: str | None,
    limit: int | None,
    db: str | None,
    as_json: bool,
    retry_failed: bool,
) -> None:
    """Show what a launch would do, per cell: wanted, stored, active, failed, to submit, expected time.

    KEY=VALUE sets a key in every cell, KEY=A,B adds an axis, EXPERIMENT.KEY=VALUE changes only that experiment's cells.

    Example: imagine-sweep plan table3 runs=20 --where 'seed<5'
    """
    from sweeps.spec.expand import first_runs

    loaded, expansion = _chosen(db, spec, overrides, where=where)
    how = LaunchOptions(db=db, retry_failed=retry_failed)
    _show_plan(loaded, first_runs(expansion, limit), how, as_json=as_json)


@cli.command()
@options.spec_arguments
@options.where_option
@console.db_option
@console.json_option
@retry_option
@options.launch_options
@options.on_finish_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def launch(
    *,
    spec: str,
    overrides: tuple[str, ...],
    where: str | None,
    how: LaunchOptions,
    on_finish: str | None,
    as_json: bool,
    dry_run: bool,
) -> int:
    """Train the runs of SPEC that the store lacks. The same command continues an interrupted launch.

    With launcher=slurm, or a launcher file of your own, it returns as soon as the jobs are queued.
    KEY=VALUE sets a key in every cell, KEY=A,B adds an axis, EXPERIMENT.KEY=VALUE changes only that experiment's cells.

    Example: imagine-sweep launch table1 runs=2 launcher.cpus_per_task=2
    """
    from slurm.submit.launchers import SLURM, choose
    from sweeps.launch.launch import launch
    from sweeps.spec.expand import first_runs

    loaded, expansion = _chosen(how.db, spec, overrides, where=where)
    if dry_run:
        first = first_runs(expansion, how.limit)
        _show_plan(loaded, first, how, as_json=as_json, dry_run=True)
        return 0
    if on_finish is not None and choose(loaded.launcher).kind == SLURM:
        raise click.UsageError(
            "--on-finish needs a local launch, because this one ends before its jobs; "
            "give it to imagine-sweep watch instead"
        )
    result = launch(loaded, expansion, how)
    if as_json:
        options.print_json(result.as_dict())
    if on_finish is not None and not result.interrupted and not result.counts.active:
        options.run_on_finish(on_finish, result.name, result.counts)
    return result.exit_code


def _chosen(
    db: str | None, spec: str, overrides: "Sequence[str]", *, where: str | None
) -> "tuple[Spec, Expansion]":
    """The spec, or the sweep that was launched under this name, with the runs that match."""
    from results_db.store.sql import open_to_read
    from sweeps.spec.choose import matching
    from sweeps.spec.stored import find_spec

    with closing(open_to_read(db)) as store:
        (chosen,) = matching([find_spec(store, spec, overrides, report=say)], where)
    return chosen


def _show_plan(
    spec: "Spec",
    expansion: "Expansion",
    how: LaunchOptions,
    *,
    as_json: bool,
    dry_run: bool = False,
) -> None:
    from jobs.progress import duration
    from slurm.submit.launchers import choose
    from sweeps.launch.machines import in_words, machines_of, packs_as_rows, packs_in_words
    from sweeps.launch.prepare import form_packs, plan_launch
    from sweeps.launch.preview import preview
    from sweeps.status.blocked import lines
    from sweeps.status.cell import dead_runs

    machines = machines_of(choose(spec.launcher), workers=how.workers)
    with reading(how.db, may_create=True) as store:
        plan = plan_launch(spec, expansion, store, machines=machines, options=how, dead=dead_runs(store))
        packs, expected = form_packs(expansion, plan, store, machines=machines, options=how)
        submitted = preview(spec, packs, how, store=store) if dry_run else None
    times = [expected.seconds(cell.to_submit) for cell in plan.cells]
    if as_json:
        about = plan.as_dict() | expected.as_dict(machines)
        for row, seconds in zip(about["cells"], times, strict=True):
            row["expected_seconds"] = seconds
        about["packs"] = packs_as_rows(packs, machines)
        if submitted is not None:
            about["slurm"] = submitted.as_dict()
        options.print_json({"name": spec.name, **about})
        return
    rows = [
        {**cell.cell.columns, **cell.numbers, "expected": "?" if seconds is None else duration(seconds)}
        for cell, seconds in zip(plan.cells, times, strict=True)
    ]
    options.print_rows(rows, as_json=False)
    counts = plan.counts
    blocked = f" + {counts.blocked} blocked" if counts.blocked else ""
    console.say(
        f"{spec.name}: {counted(counts.total, 'run')} = {counts.stored} stored + {counts.active} active + "
        f"{counts.failed} failed + {counts.to_submit} to submit{blocked}"
    )
    for line in lines(plan.blocked):
        console.say(f"{spec.name}: {line}")
    if counts.to_submit:
        console.say(f"{spec.name}: {in_words(expected, machines)}")
    if how_packed := packs_in_words(packs, machines):
        console.say(f"{spec.name}: {how_packed}")
    for line in submitted.lines() if submitted else ():
        click.echo(line)


def main() -> None:
    """The console command."""
    console.run(cli, errors=(StoreError, SpecError, ConfigError, SlurmError))
