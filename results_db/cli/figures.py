"""The commands of `imagine-results` that draw: `trace` and `figure`."""

from typing import TYPE_CHECKING

import click

from imagination.paper import SIMILARITY
from imagination.schema import nearest
from results_db import console
from results_db.cli import options
from results_db.contract import StoreError
from results_db.text import short
from results_db.views import tables
from results_db.views.figures import files

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@options.choice_options(gate=True)
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1),
    default=SIMILARITY,
    show_default=True,
    metavar="S",
    help="A state is learned at the first step with this similarity.",
)
@options.output_options
@click.option("--no-plot", is_flag=True, help="Print only, and draw nothing.")
@options.style_options
def trace(
    *,
    runs: tuple[str, ...],
    choice: options.Choice,
    similarity: float,
    place: options.Place,
    no_plot: bool,
    style: str,
) -> None:
    """Print and draw the learning order of runs.

    The learning order tells when each state is learned, and how long before the final state.

    RUN is a run id or its first characters. Without a RUN, the runs are the kept runs that --where and --sweep
    choose. Without these, too, they are the runs of `compare learning_order`.

    The curves are drawn into trace-RUN.png, or into trace.png for several runs.

    Example: imagine-results trace --where 'gol=4 and model_t=4' --no-plot
    """
    if place.output is not None and no_plot:
        raise click.UsageError("-o names a file to draw into, and --no-plot draws nothing; give one of them")
    if runs and choice.min_accuracy is not None:
        raise click.UsageError(
            "--min-accuracy chooses among runs, and a named RUN is always shown; give one of them"
        )
    from results_db.paper import learning_order
    from results_db.views.learning_order import render

    with choice.reading() as store:
        chosen = learning_order.choose(store, runs, where=choice.where, sweep=choice.sweep)
        orders = learning_order.collect(
            store, chosen, named=bool(runs), min_accuracy=choice.min_accuracy, similarity=similarity
        )
        run = f"-{short(orders[0].run_id)}" if len(orders) == 1 else ""
        path = None if no_plot else place(f"trace{run}.png")
        if style == "json":
            rows = {"runs": learning_order.run_rows(orders), "means": learning_order.mean_rows(orders)}
            click.echo(tables.as_json({"similarity": similarity, **rows}))
        elif orders or style == "csv":
            click.echo(render(orders, style=style))
        else:
            default = "" if runs else " of `compare learning_order` (choose others with --where)"
            choice.say_nothing(store, chosen, of=default)
        if orders and path is not None:
            from results_db.views.figures import curves

            files.save(curves.draw(orders, similarity=similarity), path)
            click.echo(f"wrote {path}", err=True)


@click.group(cls=console.ConsoleGroup)
def figure() -> None:
    """Draw figures of runs and their boards."""


@figure.command()
@click.argument("run")
@options.output_options
@click.option(
    "--pick",
    default="all",
    show_default=True,
    metavar="SEQUENCE",
    help="best, median, worst, all (these three), first, or the number of a stored sequence.",
)
@console.json_option
@console.db_option
def strip(*, run: str, place: options.Place, pick: str, as_json: bool, db: str | None) -> None:
    """Draw true states above decoded ones, from the first to the final one.

    RUN is a run id or its first characters. A green frame marks a decoded board that matches a true state; a
    dashed frame marks a board that the score leaves out. Without -o the file is strip-RUN-SEQUENCE.png.

    Example: imagine-results figure strip 1a2b3c --pick median -o strip.svg
    """
    from results_db.views.figures import boards

    with options.reading(db) as store:
        found = store.run(store.find(run))
        samples = store.samples(found["run_id"])
    name = short(found["run_id"])
    state = f"{found['state']} ({found['outcome']})" if found["outcome"] else str(found["state"])
    sequences = boards.pick(boards.read(samples, run=name, state=state), pick)
    path = place(f"strip-{name}-{pick}.png")

    from results_db.views.figures.strip import draw

    files.save(draw(sequences, config=found["config"]), path)
    shown = {"run_id": found["run_id"], "file": str(path), "sequences": [one.as_dict() for one in sequences]}
    click.echo(tables.as_json(shown) if as_json else str(path))


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

    TABLE is table1, table2, table3 or table4. The rows are those of `compare`. Dots are kept runs. Without -o the file
    is TABLE.png.

    Example: imagine-results figure cells table3 -o table3.pdf
    """
    from results_db.paper import numbers
    from results_db.paper.compare import compare, kept_values
    from results_db.views.figures import metrics

    valid = [name for name in numbers.TABLES if name.startswith("table")]
    if table not in valid:
        raise StoreError(f"unknown table '{table}'{nearest(table, valid)}; valid tables: {', '.join(valid)}")
    path = place(f"{table}.png")
    with choice.reading() as store:
        frame = choice.of(store.runs())
        rows = compare(table, frame, store=store, min_accuracy=choice.min_accuracy)
        kept = kept_values(table, frame, store=store, min_accuracy=choice.min_accuracy)
    by = list(numbers.TABLES[table][0].cell)
    files.save(metrics.cells(rows, kept, by), path)
    click.echo(str(path))


@figure.command()
@click.argument("key", shell_complete=console.complete_columns)
@options.metric_option
@click.option("--by", metavar="KEY", help="One colour for each value of this config key.")
@options.choice_options(gate=True)
@options.output_options
def key(
    *,
    key: str,
    metric: str | None,
    by: str | None,
    choice: options.Choice,
    place: options.Place,
) -> None:
    """Draw the metric of kept runs against a config key, such as a drawn width.

    Without -o the file is KEY.png.

    Example: imagine-results figure key channels --by ae --where gol=3
    """
    from results_db.columns import check, config_keys
    from results_db.query.gate import completed, passed
    from results_db.views.figures import metrics

    path = place(f"{key}.png")
    with choice.reading() as store:
        frame = choice.of(store.runs())
        metric = options.metric_of(metric, frame, store)
    names = list(frame.columns)
    check(key, config_keys(names), origin="KEY")
    if by is not None:
        check(by, config_keys(names), origin="--by")
    done = completed(frame)
    kept = done[passed(done, min_accuracy=choice.min_accuracy)]
    _need(kept[[key, metric]].dropna(), f"kept run with {key} and {metric}", choice)
    files.save(metrics.against(kept, key, metric=metric, by=by), path)
    click.echo(str(path))


@figure.command()
@click.option("--by", metavar="COLUMNS", help="A curve for each group. [default: the first two cell keys]")
@options.choice_options()
@options.output_options
def steps(*, by: str | None, choice: options.Choice, place: options.Place) -> None:
    """Draw how many training steps runs need: the share that has not reached its accuracy yet (Kaplan and Meier).

    Without -o the file is steps.png.

    Example: imagine-results figure steps --by gol,model_t,ae
    """
    from results_db.columns import check, config_keys
    from results_db.query.gate import completed
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
    files.save(metrics.steps(runs, columns), path)
    click.echo(str(path))


@figure.command()
@click.option("--by", default="device", show_default=True, metavar="COLUMNS", help="A colour for each group.")
@options.choice_options()
@options.output_options
def packs(*, by: str, choice: options.Choice, place: options.Place) -> None:
    """Draw how many training steps per second packs of different sizes make.

    Each dot is a stored run that had one attempt. A line joins the medians. Without -o the file is packs.png.

    Example: imagine-results figure packs --by device,channels
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
