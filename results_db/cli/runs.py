"""The commands about single runs: `runs`, `show`, `tag`, `note` and `discard`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.cli import options
from results_db.text import counted, short, some
from results_db.views import tables

if TYPE_CHECKING:
    from results_db.contract import Experiment
    from results_db.frame import Frame


@click.command()
@options.choice_options(state=True)
@click.option(
    "--sort",
    metavar="COLUMNS",
    help="Sort by these columns, with commas; -COLUMN puts the largest first.",
)
@console.limit_option
@options.style_options
def runs(
    *,
    choice: options.Choice,
    sort: str | None,
    limit: int | None,
    style: str,
) -> None:
    """List the runs, by default in the order of their launch.

    Tables show the config keys in which the runs differ; JSON and CSV hold everything. `cause` is the error of a
    failed run.

    Example: imagine-results runs --sweep table1 --sort state,-seconds -n 20
    """
    import numpy as np

    from results_db.query.failures import with_causes

    with choice.reading() as store:
        # Tables have no columns for other runs, so of a large store only the first runs are read.
        first = choice.is_all and not (sort or style in tables.EXACT)
        frame = choice.of(with_causes(store, limit=limit if first else None))
        if sort is not None:
            from results_db.query.order import ordered

            frame = ordered(frame, sort)
        frame = frame.take(np.arange(len(frame))[:limit])
        if style in tables.EXACT:
            click.echo(tables.render(frame.records(), frame.columns, style=style))
        elif not frame.empty:
            rows = frame.records(_shown_columns(frame, store.experiments()))
            shortened = [{**row, "run_id": short(row["run_id"])} for row in rows]
            click.echo(tables.render(shortened, list(rows[0]), style=style))
        else:
            choice.say_nothing(store, frame)


@click.command()
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


@click.command()
@options.choice_options(required=True)
@click.option("--why", required=True, metavar="TEXT", help="What is wrong with them.")
@click.option("--dry-run", is_flag=True, help="Only show what the command would do.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@console.json_option
def discard(
    *,
    choice: options.Choice,
    why: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Mark stored runs as invalid, so that they count nowhere and the next launch trains them again.

    Their results are kept: `show` prints them, and `runs --state discarded` lists the runs with the reason. Of the
    runs that match, only stored ones are discarded.

    Example: imagine-results discard --where run_id=1a2b3c --why 'disk full'
    """
    from results_db.query.gate import completed

    if not why.strip():
        raise click.UsageError("--why is empty; say in a few words what is wrong with the runs")
    with choice.reading(write=True) as store:
        frame = choice.of(store.frame())
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
            console.say(f"{'would discard' if dry_run else 'discarded'} {some(run_ids)}")
        else:
            choice.say_nothing(store, frame)


@click.command()
@click.argument("name")
@options.choice_options(required=True)
@click.option("--remove", is_flag=True, help="Take the tag away.")
@console.json_option
def tag(*, name: str, choice: options.Choice, remove: bool, as_json: bool) -> None:
    """Give runs the tag NAME, a word of your own.

    A run may have several tags. `runs` and `show` print them, and the filter tag=NAME chooses by them.

    Example: imagine-results tag final --where 'sweep=table1 and seed<5'
    """
    from results_db.store import labels

    labels.check_tag(name)
    with choice.reading(write=True) as store:
        frame = choice.of(store.frame())
        changed = labels.tag(store, frame["run_id"].tolist(), name, remove=remove)
        if as_json:
            click.echo(tables.as_json({"tag": name, "removed": remove, "runs": changed}))
        elif changed:
            console.say(f"{'removed' if remove else 'added'} tag {name}: {some(changed)}")
        elif frame.empty:
            choice.say_nothing(store, frame)
        else:
            console.say(f"no run changed: {counted(len(frame), 'run')} {'without' if remove else 'with'} it")


@click.command()
@click.argument("run")
@click.argument("text")
@console.db_option
def note(*, run: str, text: str, db: str | None) -> None:
    """Write TEXT as the note of a run, in place of an earlier one.

    `runs` and `show` print it. An empty TEXT deletes it. RUN is a run id or its first characters.

    Example: imagine-results note 1a2b3c 'look at this one'
    """
    from results_db.store import labels

    with options.reading(db, write=True) as store:
        run_id = store.find(run)
        labels.note(store, run_id, text)
    console.say(f"{short(run_id)}: {'note written' if text.strip() else 'note deleted'}")


def _shown_columns(frame: "Frame", experiments: "Mapping[str, Experiment]") -> list[str]:
    """The columns of a run, the config keys in which these runs differ, and the metrics that they have."""
    import numpy as np

    from results_db.columns import LABELS, RUN_COLUMNS, config_keys
    from results_db.frame import plain

    each = experiments.values()
    metrics = [
        *(one.gate[0] for one in each if one.gate),
        *(name for one in each for name in one.shown[:1]),
        "steps",
    ]
    known = [name for name in dict.fromkeys([*metrics, *LABELS, "cause"]) if name in frame.columns]
    filled = [name for name in known if any(cell is not None for cell in plain(frame[name]))]
    always = {"seed", *(name for one in each for name in one.cells[:2])} if len(experiments) else {"seed"}
    differ = [
        name for name in config_keys(frame.columns) if name in always or np.ptp(frame.column(name).codes)
    ]
    return [*(name for name in RUN_COLUMNS if name not in LABELS), *differ, *filled]
