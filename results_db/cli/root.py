"""The console command `imagine-results`: what a store holds, as tables and JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.cli import effects, figures, options
from results_db.cli.export import export
from results_db.cli.report import report
from results_db.columns import sweeps_in
from results_db.text import counted, short
from results_db.views import tables
from results_db.views.tables import Row

if TYPE_CHECKING:
    import pandas as pd

    from results_db.frame import Frame
    from results_db.store.sql import SqlStore


@click.group("imagine-results", cls=console.ConsoleGroup)
@click.version_option(package_name="imagine-sweep")
def results() -> None:
    """Read the results in a store: tables, runs, and figures."""


@results.command()
@click.option(
    "--group",
    default="gol,model_t,ae,rnn",
    show_default=True,
    metavar="COLUMNS",
    shell_complete=console.complete_columns,
    help="The columns to group by, with commas.",
)
@console.where_option
@options.sweep_option
@options.gate_option
@options.style_options
@console.db_option
def table(
    *,
    group: str,
    where: str | None,
    sweep: str | None,
    min_accuracy: float | None,
    style: str,
    db: str | None,
) -> None:
    """Print the mean metric or correlation of each group of runs.

    `run` counts the completed runs of a group, and `kept` those that passed the gate. Means, with 95%
    intervals, are over kept runs. Runs of different experiments are never mixed. A line below names the config keys in
    which the runs of a row differ.

    Example: imagine-results table --group gol,model_t --where ae=true
    """
    from results_db.query.aggregate import MEASURES, aggregate, grouping

    with options.reading(db) as store:
        frame = options.filtered(store.frame(), where=where, sweep=sweep)
        by = grouping(frame, [name.strip() for name in group.split(",")])
        rows = aggregate(frame, by, min_accuracy=min_accuracy)
        if style in tables.EXACT:
            click.echo(tables.render(rows, [*by, *MEASURES], style=style))
        elif rows:
            click.echo(tables.summary(rows, by, style=style))
            for line in _remarks(frame, rows, min_accuracy=min_accuracy):
                console.say(line)
        else:
            options.say_nothing(store, frame, which=options.chosen(sweep=sweep, where=where))


@results.command()
@click.argument("table", required=False, shell_complete=options.complete_tables)
@console.where_option
@options.sweep_option
@options.gate_option
@options.style_options
@console.db_option
def compare(
    *,
    table: str | None,
    where: str | None,
    sweep: str | None,
    min_accuracy: float | None,
    style: str,
    db: str | None,
) -> None:
    """Compare the paper's numbers with those of the stored runs.

    A number is compared with the runs that its own specs want. Runs of different specs and presets are different rows.

    \b
    Verdicts, the first that applies:
      too few runs   fewer than 5 kept runs
      uncertain      our 95% interval reaches beyond +-.10
      reproduced     the paper's value lies in our interval, or within .05
      higher, lower  our mean is above, or below, the paper's value

    In `signs`, the effects of single settings, runs are compared in pairs that differ in nothing else. `sign` says
    whether the effect points the same way as in the paper.

    TABLE is table1, table2, table3, table4, learning_order, signs, or all.

    Example: imagine-results compare table3 --where preset=fast
    """  # noqa: D301 - click wants the character \\b
    from results_db.paper import numbers
    from results_db.paper.compare import compare as compare_table
    from results_db.paper.selection import others
    from results_db.query.where import apply

    names = numbers.chosen(table)
    with options.reading(db) as store:
        frame = apply(where, store.runs(), sweep=sweep)
        found = {name: compare_table(name, frame, store=store, min_accuracy=min_accuracy) for name in names}
        if style in tables.EXACT:
            rows = [row for part in found.values() for row in part]
            click.echo(
                tables.render(rows, list(dict.fromkeys(key for row in rows for key in row)), style=style)
            )
            return
        for place, (name, part) in enumerate(found.items()):
            if place:
                click.echo()
            console.say(f"{name}: {numbers.ABOUT[name]}\n")
            click.echo(tables.comparison(part, list(numbers.TABLES[name][0].cell), style=style))
            if not all(row["run"] for row in part):
                fitting = others(name, frame, store=store)
                which = options.chosen(sweep=sweep, where=where)
                console.say(f"\n{_without_runs(name, fitting, store=store, which=which)}")


@results.command()
@console.where_option
@options.sweep_option
@console.state_option
@click.option(
    "--sort",
    metavar="COLUMNS",
    help="Sort by these columns, with commas; -COLUMN puts the largest first.",
)
@console.limit_option
@options.style_options
@console.db_option
def runs(
    *,
    where: str | None,
    sweep: str | None,
    states: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    style: str,
    db: str | None,
) -> None:
    """List the runs, by default in the order of their launch.

    Tables show the config keys in which the runs differ; JSON and CSV hold everything. `cause` is the error of a
    failed run.

    Example: imagine-results runs --sweep table1 --sort state,-metric -n 20
    """
    import numpy as np

    from results_db.query.failures import with_causes

    with options.reading(db) as store:
        # Tables have no columns for other runs, so of a large store only the first runs are read.
        first = not (where or sweep or states or sort or style in tables.EXACT)
        frame = with_causes(store, limit=limit if first else None)
        frame = options.filtered(frame, where=where, sweep=sweep)
        if states:
            frame = frame[np.isin(frame["state"].astype(str), states)]
        if sort is not None:
            from results_db.query.order import ordered

            frame = ordered(frame, sort)
        frame = frame.take(np.arange(len(frame))[:limit])
        if style in tables.EXACT:
            click.echo(tables.render(frame.records(), frame.columns, style=style))
        elif not frame.empty:
            rows = frame.records(_shown_columns(frame))
            shortened = [{**row, "run_id": short(row["run_id"])} for row in rows]
            click.echo(tables.render(shortened, list(rows[0]), style=style))
        else:
            which = options.chosen(sweep=sweep, where=where, states=states)
            options.say_nothing(store, frame, which=which)


@results.command()
@click.argument("run")
@console.json_option
@console.db_option
def show(*, run: str, as_json: bool, db: str | None) -> None:
    """Print everything about one run.

    It prints the config, metrics, attempts, traces, samples and files. RUN is a run id or its first characters.

    Example: imagine-results show 1a2b3c
    """
    from results_db.views.run import collect, describe

    with options.reading(db) as store:
        found = collect(store, store.find(run))
    click.echo(tables.as_json(found) if as_json else describe(found))


@results.command()
@click.option(
    "--where",
    required=True,
    metavar="FILTER",
    help="The runs, e.g. 'lr>1e-2 and ae=true'.",
    shell_complete=console.complete_columns,
)
@options.sweep_option
@click.option("--why", required=True, metavar="TEXT", help="What is wrong with them.")
@click.option("--dry-run", is_flag=True, help="Only show what the command would do.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@console.json_option
@console.db_option
def discard(
    *,
    where: str,
    sweep: str | None,
    why: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    db: str | None,
) -> None:
    """Mark stored runs as invalid, so that they count nowhere and the next launch trains them again.

    Their results are kept: `show` prints them, and `runs --state discarded` lists the runs with the reason. Of the
    runs that match, only stored ones are discarded.

    Example: imagine-results discard --where run_id=1a2b3c --why 'disk full'
    """
    from results_db.query import where as filters
    from results_db.query.gate import completed

    if not why.strip():
        raise click.UsageError("--why is empty; say in a few words what is wrong with the runs")
    with options.reading(db, write=True) as store:
        frame = filters.apply(where, store.frame(), sweep=sweep)
        run_ids = completed(frame)["run_id"].tolist()
        if run_ids and not dry_run:
            if not yes:
                console.ask(
                    counted(len(run_ids), "stored run"), "they are trained again", then="Discard them"
                )
            store.discard(run_ids, why=why)
        if as_json:
            click.echo(tables.as_json({"runs": run_ids, "why": why, "dry_run": dry_run}))
        elif run_ids:
            shown = ", ".join(map(short, run_ids[:5])) + (", ..." if len(run_ids) > 5 else "")
            console.say(
                f"{'would discard' if dry_run else 'discarded'} {counted(len(run_ids), 'run')}: {shown}"
            )
        else:
            options.say_nothing(store, frame, which=options.chosen(sweep=sweep, where=where))


results.add_command(effects.effect)
results.add_command(export)
results.add_command(report)
results.add_command(figures.trace)
results.add_command(figures.figure)


@results.command()
@click.option("--adopt", is_flag=True, help="Also store results that this store did not ask for.")
@console.json_option
@console.db_option
def ingest(*, adopt: bool, as_json: bool, db: str | None) -> int:
    """Bring the records that workers left in the spool into the store.

    This is safe at any time, also while another ingest runs. A damaged record is reported and moved to spool/damaged.

    If the store was replaced while jobs ran, as by an older copy of itself, it did not claim their attempts. Their
    results stay in the spool and are reported. --adopt stores each of them, unless its run is COMPLETED.

    Example: imagine-results ingest --db /shared/me/imagine.db
    """
    from results_db.spool.ingest import ingest as ingest_spool

    with options.reading(db, write=True) as store:
        found = ingest_spool(store, adopt=adopt)
    click.echo(tables.as_json(found.as_dict()) if as_json else found.describe())
    if not as_json:
        for line in (*found.damaged, *found.left):
            click.echo(line, err=True)
    return console.SOME_FAILED if found.left else 0


@results.group(cls=console.ConsoleGroup)
def db() -> None:
    """Maintain the database."""


@db.command()
@console.db_option
def upgrade(*, db: str | None) -> None:
    """Bring a store of an older version to the current schema.

    A SQLite file is then made smaller, if the disk has twice its size free. A file that was created on a disk of one
    machine, and is now on a network file system, is changed so that writers take turns.

    Example: imagine-results db upgrade --db outputs/imagine.db
    """
    from results_db.store.sql import upgrade_store

    done = upgrade_store(db)
    if done.before == done.after:
        console.say(f"{done.shown} is already at schema {done.after}")
    else:
        console.say(f"{done.shown} went from schema {done.before} to {done.after}")
    if done.sizes:
        console.say("its file went from {:,.1f} to {:,.1f} MB".format(*(size / 1e6 for size in done.sizes)))
    if done.lacks:
        console.say(
            f"its file stays as large as it is: making it smaller needs {done.lacks / 1e6:,.1f} MB free"
        )
    if done.on_network:
        console.say("its disk is a network file system here: writers take turns from now on")


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@console.db_option
def backup(*, file: Path, db: str | None) -> None:
    """Copy the database of a store into FILE, also while jobs write it.

    The copy is the store at one moment, and has its id. To restore it, move it to the store's place. Weights,
    checkpoints and logs are files beside the store; copy their folder, too.

    Example: imagine-results db backup /backup/imagine.db
    """
    from results_db.store.backup import back_up

    click.echo(f"{back_up(db, file)} is a copy of the store")


@db.command("share")
@click.argument("group")
@console.db_option
def share_with(*, group: str, db: str | None) -> None:
    """Let the members of GROUP launch into this store, and believe the results that they leave in its spool.

    The database, its folder and the folder beside it become the group's, and writable for it. The store remembers it,
    so that no umask undoes it. Only the owner can share a store, with one of the owner's groups.

    Example: imagine-results db share lab --db /shared/imagine.db
    """
    from results_db.store.share import share

    with options.reading(db, write=True) as store:
        share(store, group)
    console.say(f"{store.display_url} is shared with {group}")


def _remarks(frame: "Frame", rows: "Sequence[Row]", *, min_accuracy: float | None) -> list[str]:
    """What a reader of a table has to know: rows without a kept run, and different configs in a row."""
    from results_db.query.gate import completed, named

    remarks = []
    if without := [row for row in rows if not row["kept"]]:
        gate = f"the gate ({named(completed(frame), min_accuracy)})"
        remarks.append(
            f"no run of {counted(len(without), 'row')} passed {gate}; --min-accuracy A sets another gate"
        )
    if varies := dict.fromkeys(name for row in rows for name in row["varies"]):
        remarks.append(f"varies: {', '.join(varies)} (--group or --where keeps such runs apart)")
    return remarks


def _without_runs(table: str, fitting: "pd.DataFrame", *, store: "SqlStore", which: str) -> str:
    """The line below a comparison in which some rows have no run; `which` is as in `options.chosen`."""
    from results_db.paper.selection import overridden

    how = f"imagine-sweep launch {table}"
    if fitting.empty:
        return f"no run{which} counts in the rows with 0/0; train some with: {how}"
    sweeps = dict.fromkeys(name for cell in fitting["sweep"] for name in sweeps_in(cell))
    of = f" of {', '.join(sweeps)}" if sweeps else ""
    keys = overridden(table, sweeps, store=store)
    why = f"their launches set {', '.join(keys)}" if keys else "no spec of the paper wants them"
    return (
        f"{counted(len(fitting), 'run')}{of} would fit into rows with 0/0, but do not count, because {why}; "
        f"train the paper's runs with: {how}"
    )


def _shown_columns(frame: "Frame") -> list[str]:
    """The columns of a run, the config keys in which these runs differ, and the metrics that they have."""
    import numpy as np

    from results_db.columns import RUN_COLUMNS, config_keys
    from results_db.frame import plain

    metrics = ("train_accuracy", "metric", "correlation", "steps")
    known = [name for name in (*metrics, "cause") if name in frame.columns]
    filled = [name for name in known if any(cell is not None for cell in plain(frame[name]))]
    always = ("gol", "model_t", "seed")
    differ = [
        name for name in config_keys(frame.columns) if name in always or np.ptp(frame.column(name).codes)
    ]
    return [*RUN_COLUMNS, *differ, *filled]


def main() -> None:
    """The entry point of `imagine-results`."""
    console.run(results)
