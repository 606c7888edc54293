"""The commands of `imagine-results` that draw: `trace` and `figure`."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from results_db import console
from results_db.cli import options
from results_db.paper.leads import SIMILARITY
from results_db.text import short
from results_db.views import tables

_NOTHING = "no run with a learning order"


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@console.where_option
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
@click.option("--no-plot", is_flag=True, help="Only print.")
@options.style_options
@console.db_option
def trace(
    *,
    runs: tuple[str, ...],
    where: str | None,
    min_accuracy: float | None,
    similarity: float,
    output: Path | None,
    no_plot: bool,
    as_json: bool,
    style: str,
    db: str | None,
) -> None:
    """The learning order: when each state is learned, and how long before the final one.

    RUN is an id, or the first characters of it. Without any: the runs that learned their task and meet --where;
    without that, too, those that `compare learning_order` takes (3/3 timesteps, autoencoder, RNN, gan posthoc).

    The curves are drawn into trace-RUN.png, for several runs trace.png.
    """
    if output is not None and no_plot:
        raise click.UsageError("-o names a file for the picture that --no-plot leaves out; give one of them")
    if runs and min_accuracy is not None:
        raise click.UsageError(
            "--min-accuracy chooses runs, and a RUN that is named is shown; leave one of them out"
        )
    from results_db.paper import learning_order as traced
    from results_db.store import open_store
    from results_db.views.figures import files

    if output is not None:
        files.check(output)
    with closing(open_store(db, create=False)) as store:
        orders = traced.collect(store, runs, where=where, min_accuracy=min_accuracy, similarity=similarity)
        name = store.display_url
    one = f"-{short(orders[0].run_id)}" if len(orders) == 1 else ""
    path = output if no_plot or output is not None else files.check(Path(f"trace{one}.png"))
    if as_json:
        found = {"similarity": similarity, "runs": traced.run_rows(orders), "means": traced.mean_rows(orders)}
        click.echo(tables.as_json(found))
    elif orders or style == "csv":
        click.echo(traced.text(orders, style=style))
    else:
        papers = where is None and not runs
        what = "no kept run of `compare learning_order` (--where takes others)" if papers else _NOTHING
        click.echo(options.nothing(name, what, where=where))
    if orders and path is not None:
        from results_db.views.figures import curves

        files.save(curves.draw(orders, similarity=similarity), path)
        click.echo(f"wrote {path}", err=True)


@click.group(cls=console.ConsoleGroup)
def figure() -> None:
    """Pictures of stored boards."""


@figure.command()
@click.argument("run")
@options.output_option
@click.option(
    "--pick",
    default="all",
    show_default=True,
    metavar="SEQUENCE",
    help="best, median, worst, all three, first, or the number of a stored sequence.",
)
@console.json_option
@console.db_option
def strip(*, run: str, output: Path | None, pick: str, as_json: bool, db: str | None) -> None:
    """True states over decoded ones, one column per timestep.

    RUN is its id, or the first characters of it. A green frame marks a decoded board that matches a true state;
    dashed are the states that the score leaves out. Without -o the file is strip-RUN-SEQUENCE.png.
    """
    from results_db.store import open_store
    from results_db.views.figures import boards, files

    if output is not None:
        files.check(output)
    with closing(open_store(db, create=False)) as store:
        found = store.run(store.find(run))
        samples = store.samples(found["run_id"])
    name = short(found["run_id"])
    sequences = boards.pick(boards.read(samples, run=name, state=_state(found)), pick)
    path = output or files.check(Path(f"strip-{name}-{pick}.png"))

    from results_db.views.figures.strip import draw

    files.save(draw(sequences, config=found["config"]), path)
    shown = {"run_id": found["run_id"], "file": str(path), "sequences": [one.as_dict() for one in sequences]}
    click.echo(tables.as_json(shown) if as_json else str(path))


def _state(run: dict[str, Any]) -> str:
    """`COMPLETED (diverged)`, `STAGED`."""
    return f"{run['state']} ({run['outcome']})" if run["outcome"] else str(run["state"])
