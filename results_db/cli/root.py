"""The console command `imagine-results`: what a store holds, as tables and JSON."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli import figures as pictures
from results_db.cli import options
from results_db.text import short
from results_db.views import tables

if TYPE_CHECKING:
    import pandas as pd


@click.group("imagine-results", cls=console.ConsoleGroup)
@click.version_option(package_name="imagine-sweep")
def results() -> None:
    """What the store holds: tables, runs, and every run in full."""


@results.command()
@click.option(
    "--group",
    default="gol,model_t,ae,rnn",
    show_default=True,
    metavar="COLUMNS",
    help="Columns, with commas.",
)
@console.where_option
@options.gate_option
@options.style_options
@console.db_option
def table(
    *, group: str, where: str | None, min_accuracy: float | None, as_json: bool, style: str, db: str | None
) -> None:
    """The metric, or the correlation, per group of runs.

    Means, with 95% intervals, are over the runs that learned their task:

    `run` counts the completed ones, `kept` those of them that reached the accuracy. Experiments are never mixed.
    """
    from results_db.query.aggregate import MEASURES, aggregate, grouping

    store, frame = _read(db, where=where)
    by = grouping(frame, [name.strip() for name in group.split(",")])
    rows = aggregate(frame, by, min_accuracy=min_accuracy)
    if as_json:
        click.echo(tables.as_json(rows))
    elif style == "csv":
        click.echo(tables.render(rows, [*by, *MEASURES], style=style))
    elif not rows:
        click.echo(options.nothing(store, "no completed run", where=where))
    else:
        shown, names = tables.summary(rows, by)
        click.echo(tables.render(shown, names, style=style))


@results.command()
@click.argument("table", required=False)
@console.where_option
@options.gate_option
@options.style_options
@console.db_option
def compare(
    *,
    table: str | None,
    where: str | None,
    min_accuracy: float | None,
    as_json: bool,
    style: str,
    db: str | None,
) -> None:
    """The paper's numbers beside those of the stored runs, with a verdict.

    TABLE is table1, table2, table3, table4, learning_order, channels, coder_layers, or all.
    """
    from results_db.paper import numbers as paper
    from results_db.paper.compare import compare as compared
    from results_db.query import where as filters
    from results_db.store import open_store

    names = paper.chosen(table)
    with closing(open_store(db, create=False)) as store:
        frame = filters.apply(where, store.runs())
        found = {
            name: compared(name, frame, traces_of=store.traces_of, min_accuracy=min_accuracy)
            for name in names
        }
    rows = [row for part in found.values() for row in part]
    if as_json:
        click.echo(tables.as_json(rows))
    elif style == "csv":
        click.echo(tables.render(rows, list(dict.fromkeys(key for row in rows for key in row)), style=style))
    else:
        parts = []
        for name, part in found.items():
            shown, columns = tables.comparison(part, list(paper.TABLES[name][0].cell))
            parts.append(f"{name}: {paper.ABOUT[name]}\n\n{tables.render(shown, columns, style=style)}")
        click.echo("\n\n".join(parts))


@results.command()
@console.where_option
@console.state_option
@console.limit_option
@options.style_options
@console.db_option
def runs(
    *,
    where: str | None,
    states: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    style: str,
    db: str | None,
) -> None:
    """The runs, in the order of their launch.

    Tables show the config keys in which the runs differ; JSON and CSV hold everything.
    """
    store, frame = _read(db, where=where)
    if states:
        frame = frame[frame["state"].isin(states)]
    frame = frame.head(limit) if limit is not None else frame
    rows = _records(frame)
    if as_json:
        click.echo(tables.as_json(rows))
    elif style == "csv":
        click.echo(tables.render(rows, list(frame.columns), style=style))
    elif not rows:
        click.echo(options.nothing(store, "no run", where=where, states=states))
    else:
        shortened = [{**row, "run_id": short(row["run_id"])} for row in rows]
        click.echo(tables.render(shortened, _telling(frame), style=style))


@results.command()
@click.argument("run")
@console.json_option
@console.db_option
def show(*, run: str, as_json: bool, db: str | None) -> None:
    """Everything about one run.

    RUN is its id, or the first characters of it.
    """
    from results_db.store import open_store
    from results_db.views import run as shown

    with closing(open_store(db, create=False)) as store:
        found = shown.collect(store, store.find(run))
    click.echo(tables.as_json(found) if as_json else shown.describe(found))


results.add_command(pictures.trace)
results.add_command(pictures.figure)


@results.command()
@console.json_option
@console.db_option
def ingest(*, as_json: bool, db: str | None) -> int:
    """Take in what workers left beside the store while it was away.

    May be run at any time and twice at once. A damaged file is moved to spool/damaged, with a line.
    """
    from results_db.spool.ingest import ingest as take_in
    from results_db.store import open_store

    with closing(open_store(db, create=False)) as store:
        found = take_in(store)
    if as_json:
        click.echo(tables.as_json(found.as_dict()))
    else:
        click.echo(found.describe())
        for line in (*found.damaged, *found.left):
            click.echo(line, err=True)
    return console.SOME_FAILED if found.left else 0


@results.group(cls=console.ConsoleGroup)
def db() -> None:
    """The database itself."""


@db.command()
@console.db_option
def upgrade(*, db: str | None) -> None:
    """Bring a store of an older version to this version's tables."""
    from results_db.store.sql import upgrade_store

    name, before, after = upgrade_store(db)
    done = f"is at schema {after} already" if before == after else f"went from schema {before} to {after}"
    click.echo(f"{name} {done}")


def _read(db: str | None, *, where: str | None) -> "tuple[str, pd.DataFrame]":
    """How to name the store, and its runs that meet the filter."""
    from results_db.query import where as filters
    from results_db.store import open_store

    with closing(open_store(db, create=False)) as store:
        return store.display_url, filters.apply(where, store.runs())


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    from results_db.query.aggregate import plain

    columns = [[plain(value) for value in frame[name]] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _telling(frame: "pd.DataFrame") -> list[str]:
    """The columns that tell these runs apart, and what became of them."""
    from results_db.columns import METRIC_COLUMNS, RUN_COLUMNS

    outcome = [
        name for name in ("train_accuracy", "metric", "correlation", "steps") if frame[name].notna().any()
    ]
    keys = [name for name in frame.columns if name not in (*RUN_COLUMNS, *METRIC_COLUMNS)]
    always = ("gol", "model_t", "seed")
    differ = [name for name in keys if name in always or frame[name].nunique(dropna=False) > 1]
    return [*RUN_COLUMNS, *differ, *outcome]


def main() -> None:
    """The entry point of `imagine-results`."""
    console.run(results)
