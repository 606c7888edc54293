"""The console command `imagine-results`: what a store holds, as tables and JSON."""

import click

from results_db import console
from results_db.cli import effects, export, figures, report, runs, store, table
from results_db.cli.declared import AnalysisGroup


@click.group("imagine-results", cls=AnalysisGroup)
@click.version_option(package_name="imagine-sweep")
def results() -> None:
    """Read the results in a store: tables, runs, and figures."""


for command in (
    *(table.table, table.compare, effects.effect, figures.figure, report.report),
    *(runs.runs, runs.show, runs.tag, runs.note, runs.discard, export.export),
    *(store.ingest, store.merge, store.gc, store.db),
):
    results.add_command(command)


def main() -> None:
    """The entry point of `imagine-results`."""
    console.run(results)
