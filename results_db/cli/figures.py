"""The commands of `imagine-results` that draw: `trace` and `figure`."""

from pathlib import Path

import click

from results_db import console
from results_db.cli import options
from results_db.paper.numbers import SIMILARITY
from results_db.text import short
from results_db.views import tables
from results_db.views.figures import files


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@console.where_option
@options.sweep_option
@options.gate_option
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1),
    default=SIMILARITY,
    show_default=True,
    metavar="S",
    help="A state is learned at the first step with this similarity.",
)
@options.output_option
@click.option("--no-plot", is_flag=True, help="Print only, and draw nothing.")
@options.style_options
@console.db_option
def trace(
    *,
    runs: tuple[str, ...],
    where: str | None,
    sweep: str | None,
    min_accuracy: float | None,
    similarity: float,
    output: Path | None,
    no_plot: bool,
    style: str,
    db: str | None,
) -> None:
    """Print and draw the learning order of runs.

    The learning order tells when each state is learned, and how long before the final state.

    RUN is a run id or its first characters. Without a RUN, the runs are the kept runs that --where and --sweep
    choose. Without these, too, they are the runs of `compare learning_order`.

    The curves are drawn into trace-RUN.png, or into trace.png for several runs.

    Example: imagine-results trace --where 'gol=4 and model_t=4' --no-plot
    """
    if output is not None and no_plot:
        raise click.UsageError("-o names a file to draw into, and --no-plot draws nothing; give one of them")
    if runs and min_accuracy is not None:
        raise click.UsageError(
            "--min-accuracy chooses among runs, and a named RUN is always shown; give one of them"
        )
    from results_db.paper import learning_order
    from results_db.views.learning_order import render

    with options.reading(db) as store:
        chosen = learning_order.choose(store, runs, where=where, sweep=sweep)
        orders = learning_order.collect(
            store, chosen, named=bool(runs), min_accuracy=min_accuracy, similarity=similarity
        )
        run = f"-{short(orders[0].run_id)}" if len(orders) == 1 else ""
        path = None if no_plot else output or files.check(Path(f"trace{run}.png"))
        if style == "json":
            rows = {"runs": learning_order.run_rows(orders), "means": learning_order.mean_rows(orders)}
            click.echo(tables.as_json({"similarity": similarity, **rows}))
        elif orders or style == "csv":
            click.echo(render(orders, style=style))
        else:
            default = "" if runs else " of `compare learning_order` (choose others with --where)"
            which = options.chosen(sweep=sweep, where=where) or default
            options.say_nothing(store, chosen, which=which, min_accuracy=min_accuracy)
        if orders and path is not None:
            from results_db.views.figures import curves

            files.save(curves.draw(orders, similarity=similarity), path)
            click.echo(f"wrote {path}", err=True)


@click.group(cls=console.ConsoleGroup)
def figure() -> None:
    """Draw figures of stored boards."""


@figure.command()
@click.argument("run")
@options.output_option
@click.option(
    "--pick",
    default="all",
    show_default=True,
    metavar="SEQUENCE",
    help="best, median, worst, all (these three), first, or the number of a stored sequence.",
)
@console.json_option
@console.db_option
def strip(*, run: str, output: Path | None, pick: str, as_json: bool, db: str | None) -> None:
    """Draw true states above decoded ones, one column per timestep.

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
    path = output or files.check(Path(f"strip-{name}-{pick}.png"))

    from results_db.views.figures.strip import draw

    files.save(draw(sequences, config=found["config"]), path)
    shown = {"run_id": found["run_id"], "file": str(path), "sequences": [one.as_dict() for one in sequences]}
    click.echo(tables.as_json(shown) if as_json else str(path))
