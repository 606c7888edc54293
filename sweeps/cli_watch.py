"""The commands that show how a sweep stands: `status` at once, `watch` as it goes on."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.contract import State
from slurm.hold import HOLD_AFTER
from sweeps import options

if TYPE_CHECKING:
    from results_db.contract import Store
    from sweeps.expand import Expansion
    from sweeps.watch import Snapshot, Watch


@click.command()
@options.optional_spec_arguments
@console.db_option
@console.json_option
def status(spec: str | None, overrides: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """How many runs are in which state: of each cell of SPEC, or without it of each sweep that was launched.

    It asks the store alone; `reconcile` and `watch` ask Slurm, too. NEW runs are not in the store yet.
    """
    rows = _sweep_states(db) if spec is None else _cell_states(spec, overrides, db)
    if not rows and not as_json:
        click.echo(options.NO_SWEEP)
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    full = [{column: row.get(column, 0) for column in columns} for row in rows]
    if as_json:
        click.echo(json.dumps(full, indent=2))
    else:
        click.echo(_aligned(full, columns))


def _aligned(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """The rows as plain columns: of 500 cells rich would take longer to draw a table than the store to be read."""
    from results_db.tables import text

    cells = [columns, *([text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = ["   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _sweep_states(db: str | None) -> list[dict[str, Any]]:
    from results_db.store import open_store

    with closing(open_store(db, create=False)) as store:
        sweeps = store.sweeps()
    return [
        {"sweep": name} | {str(state): runs for state, runs in states.items()}
        for name, states in sweeps.items()
    ]


def _cell_states(spec: str, overrides: tuple[str, ...], db: str | None) -> list[dict[str, Any]]:
    from results_db.store import open_store

    _, expansion = options.expand_spec(spec, overrides)
    with closing(open_store(db, create=False)) as store:
        states = store.states(run.run_id for cell in expansion.cells for run in cell.runs)
        if State.RUNNING in states.values():
            states |= {run_id: State.LOST for run_id in options.dead_runs(store) if run_id in states}
    return [
        {**cell.columns, **Counter(str(states.get(run.run_id, "NEW")) for run in cell.runs)}
        for cell in expansion.cells
    ]


@click.command()
@options.optional_spec_arguments
@click.option("--once", is_flag=True, help="One look, and no more.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between looks.",
)
@click.option(
    "--hold-after",
    type=click.IntRange(min=0),
    default=HOLD_AFTER,
    show_default=True,
    metavar="K",
    help="Hold the rest of a launch after K identical failures at its start; 0: never.",
)
@console.json_option
@console.db_option
def watch(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    once: bool,
    every_s: float,
    hold_after: int,
    as_json: bool,
    db: str | None,
) -> int:
    """Cells by state, running runs, failures by cause, and what is left: of SPEC, or of every sweep that was launched.

    Each look takes in what jobs left beside the store, asks squeue once, and settles what ended unheard, as `reconcile`
    does. It ends when no run waits or trains any more, with q, or with Ctrl-C; the jobs go on. Without a terminal it
    prints a line when something changed; with --json a line of JSON for every look.
    """
    from results_db.store import open_store

    store = open_store(db, create=False)
    try:
        watched = _watch(store, spec, overrides, hold_after=hold_after)
        last = _show_once(watched, as_json=as_json) if once else _go_on(watched, every_s, as_json=as_json)
    finally:
        store.close()
    return 0 if last is None or last.all_completed or last.active else console.SOME_FAILED


def _watch(store: "Store", spec: str | None, overrides: tuple[str, ...], *, hold_after: int) -> "Watch":
    from slurm.queries import Slurm
    from sweeps.watch import Watch

    def sweeps() -> "Sequence[tuple[str, Expansion]]":
        from sweeps.coverage import with_top_ups

        found = options.sweeps_of(store, spec, overrides)
        known = set(store.runs()["run_id"])
        return [(each.name, with_top_ups(expansion, known)) for each, expansion in found]

    name = spec if spec is None else options.expand_spec(spec, overrides)[0].name
    return Watch(name or "all sweeps", sweeps, store=store, slurm=Slurm(), hold_after=hold_after)


def _show_once(watched: "Watch", *, as_json: bool) -> "Snapshot":
    from rich.console import Console

    from sweeps.watch_display import show_once

    snapshot = watched.look()
    if as_json:
        click.echo(json.dumps(snapshot.as_dict(), indent=2))
    else:
        show_once(snapshot, Console(file=sys.stdout))
    return snapshot


def _go_on(watched: "Watch", every_s: float, *, as_json: bool) -> "Snapshot | None":
    from rich.console import Console

    from sweeps.watch_display import Lines, summary
    from sweeps.watch_loop import Looks, watch_lines, watch_screen

    terminal = Console(file=sys.stdout)
    with Looks(watched.look, every_s=every_s) as looks:
        if not as_json and terminal.is_terminal:
            last = watch_screen(looks, terminal)
            if last is not None:
                click.echo(summary(last))
            return last

        def complain(line: str) -> None:
            click.echo(line, err=True)

        if as_json:
            return watch_lines(looks, lambda found: click.echo(json.dumps(found.as_dict())), complain)
        return watch_lines(looks, Lines(click.echo).show, complain)
