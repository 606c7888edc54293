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
from sweeps.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from results_db.contract import Store
    from sweeps.follow.watch import Snapshot, Watch
    from sweeps.spec.expand import Expansion

_UNLIMITED = 100_000


@click.command()
@options.optional_spec_arguments
@console.db_option
@console.json_option
def status(spec: str | None, overrides: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """How many runs are in which state: of each cell of SPEC, or without it of each sweep that was launched.

    It asks the store alone; `reconcile` and `watch` ask Slurm, too. NEW runs are not in the store yet.
    """
    rows = _sweep_states(db) if spec is None else _cell_states(spec, overrides, db)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        from sweeps.spec.stored import NO_SWEEP

        click.echo(NO_SWEEP)
    else:
        click.echo(_aligned(rows, with_name=spec is None))


def _aligned(rows: Sequence[dict[str, Any]], *, with_name: bool) -> str:
    """The rows as plain columns: of 500 cells rich would take longer to draw a table than the store to be read."""
    from results_db.text import cell_text

    left_out = ("states",) if with_name else ("sweep", "states")
    names = list(dict.fromkeys(key for row in rows for key in row if key not in left_out))
    states = list(dict.fromkeys(state for row in rows for state in row["states"]))
    lines = [
        [cell_text(row.get(name)) for name in names] + [str(row["states"].get(state, 0)) for state in states]
        for row in rows
    ]
    cells = [[*names, *states], *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells
    ]
    aligned.insert(1, "─" * len(aligned[0]))
    return "\n".join(line.rstrip() for line in aligned)


def _sweep_states(db: str | None) -> list[dict[str, Any]]:
    from results_db.store import open_store

    with closing(open_store(db, create=False)) as store:
        sweeps = store.sweeps()
    return [
        {"sweep": name, "states": {str(state): runs for state, runs in states.items()}}
        for name, states in sweeps.items()
    ]


def _cell_states(spec: str, overrides: tuple[str, ...], db: str | None) -> list[dict[str, Any]]:
    from results_db.store import open_store
    from sweeps.spec.stored import find_sweep
    from sweeps.status.dead import dead_runs

    with closing(open_store(db, create=False)) as store:
        found, expansion = find_sweep(store, spec, overrides)
        states = store.states(run.run_id for cell in expansion.cells for run in cell.runs)
        if State.RUNNING in states.values():
            states |= {run_id: State.LOST for run_id in dead_runs(store) if run_id in states}
    return [
        {
            "sweep": found.name,
            **cell.columns,
            "states": dict(Counter(str(states.get(run.run_id, "NEW")) for run in cell.runs)),
        }
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
@console.json_option
@console.db_option
def watch(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    once: bool,
    every_s: float,
    as_json: bool,
    db: str | None,
) -> int:
    """Cells by state, running runs, failures by cause, and what is left: of SPEC, or of every sweep that was launched.

    Each look takes in what jobs left beside the store, asks squeue once, and settles what ended unheard, as `reconcile`
    does. It ends when no run waits or trains any more, with q, or with Ctrl-C; the jobs go on. Without a terminal it
    prints a line when something changed; with --json a line of JSON for every look.

    Exit code 1: no run waits or trains any more, and some failed or were interrupted.
    """
    from results_db.store import open_store

    store = open_store(db, create=False)
    try:
        watched = _watch(store, spec, overrides)
        last = _show_once(watched, as_json=as_json) if once else _go_on(watched, every_s, as_json=as_json)
    finally:
        store.close()
    return console.SOME_FAILED if last is not None and last.has_failed else 0


def _watch(store: "Store", spec: str | None, overrides: tuple[str, ...]) -> "Watch":
    from slurm.client.client import Slurm
    from sweeps.follow.watch import Watch
    from sweeps.spec.stored import find_sweep, sweeps_of

    def sweeps() -> "Sequence[tuple[str, Expansion]]":
        from sweeps.follow.coverage import with_top_ups

        found = sweeps_of(store, spec, overrides, report=options.say)
        known = set(store.runs()["run_id"])
        return [(each.name, with_top_ups(expansion, known)) for each, expansion in found]

    name = spec if spec is None else find_sweep(store, spec, overrides)[0].name
    return Watch(name or "all sweeps", sweeps, store=store, slurm=Slurm())


def _show_once(watched: "Watch", *, as_json: bool) -> "Snapshot":
    from sweeps.follow.display import show_once

    snapshot = watched.look()
    if as_json:
        click.echo(json.dumps(snapshot.as_dict(), indent=2))
    else:
        show_once(snapshot, _console())
    return snapshot


def _console() -> "Console":
    """Standard output; where it is no terminal nothing is cut, for it may be read by a program, or later."""
    from rich.console import Console

    terminal = Console(file=sys.stdout)
    return terminal if terminal.is_terminal else Console(file=sys.stdout, width=_UNLIMITED)


def _go_on(watched: "Watch", every_s: float, *, as_json: bool) -> "Snapshot | None":
    from sweeps.follow.display import Lines, summary
    from sweeps.follow.display_loop import Looks, watch_lines, watch_screen

    terminal = _console()
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
