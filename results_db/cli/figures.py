"""The figures of runs of any experiment: the commands of `imagine-results figure`."""

from typing import TYPE_CHECKING

import click

from imagination.schema import nearest
from results_db import console
from results_db.cli import options
from results_db.cli.declared import DeclaredGroup
from results_db.contract import StoreError
from results_db.views.figures import files

if TYPE_CHECKING:
    import pandas as pd


@click.group(cls=DeclaredGroup)
def figure() -> None:
    """Draw figures of runs: general ones, and those of experiments."""


@figure.command()
@click.argument("table", shell_complete=options.complete_tables)
@options.choice_options(gate=True)
@options.output_options
def cells(
    *,
    table: str,
    choice: options.Choice,
    place: options.Place,
) -> None:
    """Draw a table of the paper: the metric of each cell with its interval, and the paper's value as a mark.

    TABLE is a table of means, such as table1. The rows are those of `compare`. Dots are kept runs. Without -o the file
    is TABLE.png.

    Example: imagine-results figure cells table3 -o table3.pdf
    """
    from results_db.paper import numbers
    from results_db.paper.compare import compare, kept_values
    from results_db.views.figures import metrics

    valid = numbers.MEANS
    if table not in valid:
        raise StoreError(f"unknown table '{table}'{nearest(table, valid)}; valid tables: {', '.join(valid)}")
    path = place(f"{table}.png")
    with choice.reading() as store:
        frame = choice.of(store.runs())
        rows = compare(table, frame, store=store, gate=choice.gate)
        kept = kept_values(table, frame, store=store, gate=choice.gate)
    by, short = numbers.cell_keys(table), numbers.TABLES[table][0].short
    files.save(metrics.cells(rows, kept, by, short=short), path)
    click.echo(str(path))


@figure.command()
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, shell_complete=console.complete_columns)
@options.metric_option
@click.option("--by", metavar="KEY", help="One colour for each value of this config key.")
@options.choice_options(gate=True)
@options.output_options
def key(
    *,
    keys: tuple[str, ...],
    metric: str | None,
    by: str | None,
    choice: options.Choice,
    place: options.Place,
) -> None:
    """Draw the metric of kept runs against config keys, such as a drawn width, with a panel for each.

    Without -o the file is named by the first KEY: KEY.png.

    Example: imagine-results figure key layer --by ply --where target=board
    """
    from results_db.columns import check, config_keys
    from results_db.query.gate import completed, passed
    from results_db.views.figures import metrics

    path = place(f"{keys[0]}.png")
    with choice.reading() as store:
        frame = choice.of(store.runs())
        metric = options.metric_of(metric, frame, store)
    names = list(frame.columns)
    for key in keys:
        check(key, config_keys(names), origin="KEY")
    if by is not None:
        check(by, config_keys(names), origin="--by")
    done = completed(frame)
    kept = done[passed(done, gate=choice.gate)]
    for key in keys:
        _need(kept[[key, metric]].dropna(), f"kept run with {key} and {metric}", choice)
    files.save(metrics.against(kept, keys, metric=metric, by=by), path)
    click.echo(str(path))


@figure.command()
@click.option("--by", metavar="COLUMNS", help="A curve for each group. [default: the first two cell keys]")
@options.choice_options(gate=True)
@options.output_options
def steps(*, by: str | None, choice: options.Choice, place: options.Place) -> None:
    """Draw how many training steps runs need: the share that is not kept yet (Kaplan and Meier).

    A run that misses its gate counts up to its last step.

    Without -o the file is steps.png.

    Example: imagine-results figure steps --by experiment,preset
    """
    from results_db.columns import check, config_keys
    from results_db.query.gate import completed, passed
    from results_db.views.figures import metrics

    path = place("steps.png")
    with choice.reading() as store:
        frame = choice.of(store.runs())
        experiments = store.experiments()
    columns = (
        options.cells_of(frame, experiments)[:2] if by is None else [one.strip() for one in by.split(",")]
    )
    for name in columns:
        check(name, config_keys(frame.columns), origin="--by")
    runs = completed(frame)
    check("steps", list(frame.columns), origin="figure steps")
    _need(runs, "COMPLETED run", choice)
    files.save(metrics.steps(runs.assign(kept=passed(runs, gate=choice.gate)), columns), path)
    click.echo(str(path))


@figure.command()
@click.option("--by", default="device", show_default=True, metavar="COLUMNS", help="A colour for each group.")
@options.choice_options()
@options.output_options
def packs(*, by: str, choice: options.Choice, place: options.Place) -> None:
    """Draw how many training steps per second packs of different sizes make.

    Each dot is a stored run that had one attempt. A line joins the medians. Without -o the file is packs.png.

    Example: imagine-results figure packs --by device,preset
    """
    from results_db.columns import check, config_keys
    from results_db.query.packs import with_packs
    from results_db.views.figures import metrics

    path = place("packs.png")
    with choice.reading() as store:
        runs = with_packs(store, choice.of(store.runs()))
    columns = [name.strip() for name in by.split(",")]
    for name in columns:
        check(name, ["device", *config_keys(runs.columns)], origin="--by")
    _need(runs, "COMPLETED run with one attempt", choice)
    files.save(metrics.throughput(runs, columns), path)
    click.echo(str(path))


def _need(runs: "pd.DataFrame", what: str, choice: options.Choice) -> None:
    if runs.empty:
        raise StoreError(f"no {what}{choice} is stored; see imagine-results runs")
