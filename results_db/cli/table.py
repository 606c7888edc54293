"""The commands that print numbers over runs: `table`, and `compare` with the paper's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli import options
from results_db.columns import check_metric, names_in
from results_db.text import counted, short
from results_db.views import tables
from results_db.views.tables import Row

if TYPE_CHECKING:
    import pandas as pd

    from results_db.frame import Frame
    from results_db.store.sql import SqlStore


@click.command()
@options.group_option
@click.option(
    "--metrics",
    metavar="NAMES",
    help="The metrics to show, with commas, each with its interval. [default: those that the experiments declare]",
)
@click.option(
    "--interval",
    type=click.Choice(["t", "bootstrap"]),
    default="t",
    show_default=True,
    help="How to estimate means: Student's t, or the bootstrap (BCa).",
)
@click.option("--runs", "with_runs", is_flag=True, help="Also list the runs of every row.")
@options.choice_options(gate=True)
@options.style_options
def table(
    *,
    group: str | None,
    metrics: str | None,
    interval: str,
    with_runs: bool,
    choice: options.Choice,
    style: str,
) -> None:
    """Print the means of each group of runs.

    `run` counts the stored runs of a group, and `kept` those that passed the gate; the pass rate is kept /
    run. Means are over kept runs. All intervals are 95%, that of the pass rate after Wilson. Runs of different
    experiments are never mixed. Lines below name the config keys in which the runs of a row differ, and say where a row
    mixes runs of different code.

    Example: imagine-results table --group experiment,preset --where 'seed<5'
    """
    from results_db.query.aggregate import INTERVALS, aggregate, grouping, means, measures
    from results_db.query.provenance import with_provenance

    with choice.reading() as store:
        frame = choice.of(with_provenance(store, store.frame()))
        experiments = store.experiments()
        by = grouping(frame, options.cells_of(frame, experiments) if group is None else options.names(group))
        shown = means(experiments)
        if metrics is not None:
            shown = dict.fromkeys(options.names(metrics), ())
            for name in shown:
                check_metric(name, frame.columns, origin="--metrics")
        rows = aggregate(frame, by, shown=shown, gate=choice.gate, interval=INTERVALS[interval])
        listed = _listed(frame, by, list(shown), gate=choice.gate) if with_runs else []
        if style == "json":
            for row in rows if with_runs else ():
                row["runs"] = [one for one in listed if all(one[key] == row[key] for key in by)]
            click.echo(tables.as_json(rows))
        elif style == "csv":
            names = list(listed[0]) if listed else [*by, *measures(shown)]
            click.echo(tables.render(listed or rows, names, style=style))
        elif rows:
            click.echo(tables.summary(rows, by, style=style))
            if listed:
                brief = [{**one, "run_id": short(one["run_id"])} for one in listed]
                click.echo(f"\n{tables.render(brief, list(brief[0]), style=style, captioned=list(brief[0]))}")
            remarks = _remarks(frame, rows, gate=choice.gate)
            remarks += ["intervals of means: bootstrap (BCa)"] if interval == "bootstrap" else []
            for line in tables.notes(remarks, style=style):
                console.say(line)
        else:
            choice.say_nothing(store, frame)


def _listed(
    frame: "Frame", by: Sequence[str], metrics: Sequence[str], *, gate: str | None
) -> list[dict[str, Any]]:
    """The runs behind a table, in the order of its rows: the group's columns, the metrics, and what trained them."""
    from results_db.frame import plain
    from results_db.query.aggregate import sort_key
    from results_db.query.gate import completed, passed

    runs = completed(frame)
    shown = [name for name in metrics if name in runs.columns and any(plain(runs[name]))]
    names = list(dict.fromkeys([*by, "run_id", "seed", *shown, "sweep", "code", "host"]))
    kept = passed(runs, gate=gate)
    rows = [{**row, "kept": bool(is_kept)} for row, is_kept in zip(runs.records(names), kept, strict=True)]
    return sorted(rows, key=lambda row: sort_key([row[name] for name in by]))


@click.command()
@click.argument("table", required=False, shell_complete=options.complete_tables)
@options.choice_options(gate=True)
@options.style_options
def compare(
    *,
    table: str | None,
    choice: options.Choice,
    style: str,
) -> None:
    """Compare the paper's numbers with those of the stored runs.

    A number is compared with the runs that its own specs want. Runs of different specs and presets are different rows.

    \b
    Verdicts, the first that applies:
      too few runs   fewer than 5 kept runs
      uncertain      our 95% interval reaches beyond +-.10 (leads: of `share`)
      reproduced     the paper's value lies in our interval, or within .05
      higher, lower  our mean is above, or below, the paper's value
    Where the paper gives no number:
      above baseline, not above  our 95% interval is above the baseline, or not

    In `signs`, the effects of single settings, runs are compared in pairs that differ in nothing else. `sign` says
    whether the effect points the same way as in the paper.

    TABLE is a table that an experiment declares, such as table1, or all. Without it, the command names them.

    Example: imagine-results compare table3 --where preset=small
    """  # noqa: D301 - click wants the character \\b
    from results_db.paper import numbers
    from results_db.paper.compare import compare as compare_table
    from results_db.paper.compare import not_counted
    from results_db.paper.selection import others

    names = numbers.chosen(table)
    with choice.reading() as store:
        frame = choice.of(store.runs())
        found = {name: compare_table(name, frame, store=store, gate=choice.gate) for name in names}
        if style in tables.EXACT:
            rows = [row for part in found.values() for row in part]
            click.echo(
                tables.render(rows, list(dict.fromkeys(key for row in rows for key in row)), style=style)
            )
            return
        for place, (name, part) in enumerate(found.items()):
            if place:
                click.echo()
            by = numbers.cell_keys(name)
            sides = {one.quantity: one.side for one in numbers.TABLES[name] if one.side}
            (heading,) = tables.notes([f"{name}: {numbers.ABOUT[name]}"], style=style)[-1:]
            console.say(f"{heading}\n")
            click.echo(tables.comparison(part, by, style=style, sides=sides))
            counts = not_counted(name, frame, store=store, gate=choice.gate)
            for line in tables.notes(_not_counted(counts), style=style):
                console.say(line)
            if not all(row["run"] for row in part):
                fitting = others(name, frame, store=store)
                console.say(f"\n{_without_runs(name, fitting, store=store, which=str(choice))}")


def _remarks(frame: "Frame", rows: "Sequence[Row]", *, gate: str | None) -> list[str]:
    """What a reader of a table has to know: rows without a kept run, and different configs in a row."""
    from results_db.query.gate import completed, named

    remarks = []
    if without := [row for row in rows if not row["kept"]]:
        wanted = f"the gate ({named(completed(frame), gate)})"
        remarks.append(f"no run of {counted(len(without), 'row')} passed {wanted}; --gate sets another")
    if varies := dict.fromkeys(name for row in rows for name in row["varies"]):
        remarks.append(f"varies: {', '.join(varies)} (--group or --where keeps such runs apart)")
    if mixed := [row for row in rows if len(row["code"]) > 1]:
        versions = ", ".join(dict.fromkeys(one for row in mixed for one in row["code"]))
        mix = "row mixes" if len(mixed) == 1 else "rows mix"
        remarks.append(f"{len(mixed)} {mix} runs of different code: {versions} (see --runs)")
    return remarks


def _not_counted(counts: Mapping[str, int]) -> list[str]:
    """The line that says why runs are in no mean."""
    from results_db.paper.selection import ABSENT

    why = {"missed_gate": "that missed the gate", **ABSENT}
    said = [f"{counts[name]:,} {words}" for name, words in why.items() if counts[name]]
    return [f"runs that do not count: {', '.join(said)}"] if said else []


def _without_runs(table: str, fitting: "pd.DataFrame", *, store: "SqlStore", which: str) -> str:
    """The line below a comparison in which some rows have no run; `which` is as in `options.Choice`."""
    from results_db.paper.selection import overridden

    how = f"imagine-sweep launch {table}"
    if fitting.empty:
        return f"no run{which} counts in the rows with 0/0; train some with: {how}"
    sweeps = dict.fromkeys(name for cell in fitting["sweep"] for name in names_in(cell))
    of = f" of {', '.join(sweeps)}" if sweeps else ""
    keys = overridden(table, sweeps, store=store)
    why = f"their launches set {', '.join(keys)}" if keys else "no spec of the paper wants them"
    do = "does" if len(fitting) == 1 else "do"
    return (
        f"{counted(len(fitting), 'run')}{of} would fit into rows with 0/0, but {do} not count, because {why}; "
        f"train the paper's runs with: {how}"
    )
