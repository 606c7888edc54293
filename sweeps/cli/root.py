"""`imagine-sweep`: what should exist, and the launch of what does not yet."""

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from imagination.schema import ConfigError
from results_db import console
from results_db.contract import StoreError
from results_db.text import counted
from slurm.client.client import SlurmError
from sweeps.cli import coverage as cli_coverage
from sweeps.cli import jobs as cli_jobs
from sweeps.cli import options
from sweeps.cli import retry as cli_retry
from sweeps.cli import watch as cli_watch
from sweeps.spec.document import SpecError

if TYPE_CHECKING:
    from slurm.submit.launchers import Resources
    from sweeps.launch.plan import Plan
    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec


@click.group(cls=console.ConsoleGroup, name="imagine-sweep", no_args_is_help=True)
@click.version_option(package_name="imagine-sweep")
def cli() -> None:
    """From a YAML spec to trained runs in the store.

    SPEC is a YAML file, or the name of one that ships with the package (see `list`). After it come Hydra
    overrides, such as channels=32, channels=20,32 or launcher.cpus_per_task=2, and options, in any order.
    EXPERIMENT.KEY=VALUE, such as life_count.preset=paper, changes that experiment's cells alone.
    """


retry_option = click.option("--retry-failed", is_flag=True, help="Take failed runs, too.")


@cli.command("list")
@console.json_option
def list_specs(as_json: bool) -> None:
    """The specs that ship with the package."""
    from sweeps.spec.expand import expand
    from sweeps.spec.load import about, load, shipped

    rows = []
    for name, path in shipped().items():
        spec = load(path)
        cells = expand(spec).cells
        experiments = sorted({part.experiment for part in spec.parts})
        runs = sum(len(cell.runs) for cell in cells)
        rows.append(
            {
                "name": name,
                "experiment": ", ".join(experiments),
                "cells": len(cells),
                "runs": runs,
                "about": about(path),
                "file": str(path),
            }
        )
    options.print_rows(rows, as_json=as_json)


@cli.command()
@options.spec_arguments
@console.db_option
@console.json_option
@retry_option
def plan(spec: str, overrides: tuple[str, ...], db: str | None, as_json: bool, retry_failed: bool) -> None:
    """What a launch would do, per cell: wanted, stored, active, failed, to submit, expected time.

    KEY=VALUE sets a key in every cell, KEY=A,B adds an axis, EXPERIMENT.KEY=VALUE is for that experiment's cells alone.
    """
    loaded, expansion = options.expand_spec(spec, overrides)
    _show_plan(loaded, _read_plan(expansion, db, retry_failed=retry_failed), as_json=as_json)


@cli.command()
@options.spec_arguments
@console.db_option
@console.json_option
@retry_option
@options.launch_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def launch(
    spec: str,
    overrides: tuple[str, ...],
    db: str | None,
    as_json: bool,
    retry_failed: bool,
    limit: int | None,
    dry_run: bool,
    **how: Any,
) -> int:
    """Train the runs of SPEC that the store lacks; the same command again goes on where it stopped.

    With launcher=slurm, or a launcher file of your own, it returns as soon as the jobs are queued.
    KEY=VALUE sets a key in every cell, KEY=A,B adds an axis, EXPERIMENT.KEY=VALUE is for that experiment's cells alone.
    """
    from sweeps.spec.expand import first_runs

    loaded, expansion = options.expand_spec(spec, overrides)
    if dry_run:
        first = first_runs(expansion, limit)
        _show_plan(loaded, _read_plan(first, db, retry_failed=retry_failed), as_json=as_json)
        return 0
    result = options.train(
        loaded,
        expansion,
        db=db,
        retry_failed=retry_failed,
        limit=limit,
        **how,
    )
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    return result.exit_code


def _read_plan(expansion: "Expansion", db: str | None, *, retry_failed: bool = False) -> "Plan":
    from results_db.store import open_store
    from sweeps.launch.plan import make_plan

    with closing(open_store(db, create=False)) as store:
        return make_plan(expansion, store, dead=options.dead_runs(store), retry_failed=retry_failed)


def _show_plan(spec: "Spec", plan: "Plan", *, as_json: bool) -> None:
    resources = _resources(spec)
    if as_json:
        whole = plan.expected_seconds
        hours = None if resources is None or whole is None else resources.hours(whole)
        about = {"hours": hours, "unit": None if resources is None else resources.unit}
        click.echo(json.dumps({"name": spec.name, **plan.as_dict(), **about}, indent=2))
        return
    from jobs.progress import duration

    def row(columns: dict[str, Any], counts: dict[str, int], seconds: float | None) -> dict[str, Any]:
        return {**columns, **counts, "expected": "?" if seconds is None else duration(seconds)}

    rows = [
        row({**cell.cell.columns, "wanted": cell.cell.wanted}, cell.counts.as_dict(), cell.expected_seconds)
        for cell in plan.cells
    ]
    options.print_rows(rows, as_json=False)
    counts = plan.counts
    click.echo(
        f"{spec.name}: {counted(counts.total, 'run')} = {counts.stored} stored + {counts.active} active + "
        f"{counts.failed} failed + {counts.to_submit} to submit ({_expected(plan, resources)})"
    )


def _expected(plan: "Plan", resources: "Resources | None") -> str:
    """What the runs to submit take, by past runs."""
    from jobs.progress import duration

    time = plan.known_seconds
    if time is None:
        return "no past runs to tell the time from"
    hours = "" if resources is None else f", {resources.hours(time):.3g} {resources.unit}"
    return f"{'at least ' if plan.expected_seconds is None else ''}{duration(time)} of training{hours}"


def _resources(spec: "Spec") -> "Resources | None":
    """What its jobs would ask a cluster for; None on this machine."""
    from slurm.submit.launchers import SLURM, Resources, choose

    launcher = choose(spec.launcher)
    return Resources.of(launcher) if launcher.kind == SLURM else None


cli.add_command(cli_watch.status)
cli.add_command(cli_watch.watch)
cli.add_command(cli_coverage.coverage)
cli.add_command(cli_coverage.top_up)
cli.add_command(cli_retry.retry)
cli.add_command(cli_jobs.logs)
cli.add_command(cli_jobs.cancel)
cli.add_command(cli_jobs.reconcile)


def main() -> None:
    """The console command."""
    console.run(cli, errors=(StoreError, SpecError, ConfigError, SlurmError))
