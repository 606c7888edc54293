"""The commands that show a sweep's progress: `status` once, `watch` until no run is active."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.contract import State, Store, StoreError
from sweeps.cli import options
from sweeps.launch.options import say

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.follow.watch import Snapshot

_UNLIMITED = 100_000


@click.command()
@options.optional_spec_arguments
@options.store_option
@console.json_option
def status(spec: str | None, overrides: tuple[str, ...], store: Store, as_json: bool) -> None:
    """Show the number of runs in each state, for each cell of SPEC or for each launched sweep.

    It reads only the store. `reconcile` and `watch` also ask Slurm. NEW runs are not in the store.

    Example: imagine-sweep status table3
    """
    if spec is None:
        rows = [{"sweep": name, "states": states} for name, states in store.sweeps().items()]
    else:
        rows = _cell_states(store, spec, overrides)
    if as_json:
        options.print_json(rows)
    elif not rows:
        from sweeps.spec.stored import NO_SWEEP

        click.echo(NO_SWEEP)
    else:
        click.echo(_aligned(rows, with_name=spec is None))


def _aligned(rows: Sequence[dict[str, Any]], *, with_name: bool) -> str:
    """The rows as plain columns. With 500 cells, a table of rich would take longer than reading the store."""
    from results_db.text import cell_text

    left_out = ("states",) if with_name else ("sweep", "states")
    names = dict.fromkeys(key for row in rows for key in row if key not in left_out)
    states = dict.fromkeys(state for row in rows for state in row["states"])
    columns = [[name, *(cell_text(row.get(name)) for row in rows)] for name in names]
    columns += [[state, *(str(row["states"].get(state, 0)) for row in rows)] for state in states]
    widths = [max(map(len, column)) for column in columns]
    head, *lines = ("   ".join(map(str.ljust, line, widths)) for line in zip(*columns, strict=True))
    return "\n".join(line.rstrip() for line in (head, "─" * len(head), *lines))


def _cell_states(store: Store, spec: str, overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    from sweeps.spec.stored import find_sweep
    from sweeps.status.cell import dead_runs, read_cells, with_lost

    sweep, expansion = find_sweep(store, spec, overrides)
    states = store.states(run.run_id for run in expansion.runs)
    if State.RUNNING in states.values():
        states = with_lost(states, dead_runs(store))
    cells = read_cells(expansion, states)
    return [{"sweep": sweep.name, **cell.cell.columns, "states": cell.states} for cell in cells]


@click.command()
@options.optional_spec_arguments
@click.option("--once", is_flag=True, help="Show it once and exit.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between refreshes.",
)
@console.json_option
@options.store_option
def watch(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    once: bool,
    every_s: float,
    as_json: bool,
    store: Store,
) -> int:
    """Show cells by status, running runs, time left and causes of failures of SPEC, or of every launched sweep.

    Each look reconciles, as `reconcile` does, and runs squeue once. The command ends when no run is active, or with
    Ctrl-C; the jobs continue. Without a terminal it prints a line when something has changed; with --json it prints a
    line of JSON for every look.

    Exit code 1: some runs failed or were interrupted.

    Example: imagine-sweep watch table3 --every 30
    """
    from slurm.client.client import Slurm
    from sweeps.follow.display import show_once
    from sweeps.follow.watch import Watch
    from sweeps.spec.stored import find_sweep, sweeps_of

    watched = Watch(
        lambda: sweeps_of(store, spec, overrides, report=say),
        store=store,
        slurm=Slurm(),
        name="all sweeps" if spec is None else find_sweep(store, spec, overrides)[0].name,
    )
    last = watched.look() if once else _go_on(watched.look, every_s, as_json=as_json)
    if once and as_json:
        options.print_json(last.as_dict())
    elif once:
        show_once(last, _terminal())
    return console.SOME_FAILED if last.has_failed else 0


def _terminal() -> "Console":
    """Standard output. It is very wide if it is not a terminal, because a program that reads it needs whole lines."""
    from rich.console import Console

    terminal = Console(file=sys.stdout)
    return terminal if terminal.is_terminal else Console(file=sys.stdout, width=_UNLIMITED)


def _go_on(look: "Callable[[], Snapshot]", every_s: float, *, as_json: bool) -> "Snapshot":
    """Shows a snapshot after each look until no run is active, and returns the last snapshot."""
    from sweeps.follow.display import JsonLines, Lines, Screen

    terminal = _terminal()
    on_screen = terminal.is_terminal and not as_json
    with Screen(terminal) if on_screen else nullcontext(JsonLines() if as_json else Lines()) as display:
        while True:
            try:
                found = _interruptible(look)
            except StoreError as error:
                display.complain(error)
            else:
                display.show(found)
                if not found.active:
                    return found
            time.sleep(every_s)


def _interruptible(look: "Callable[[], Snapshot]") -> "Snapshot":
    """Calls `look` in a thread, because Ctrl-C does not interrupt SQLite while it waits for a lock."""
    done: Future[Snapshot] = Future()

    def work() -> None:
        try:
            done.set_result(look())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result()
