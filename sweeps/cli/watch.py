"""The commands that show a sweep's progress: `status` once, `watch` until no run is active."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.contract import OpenAttempt, State, Store, StoreError
from sweeps.cli import options
from sweeps.launch.options import say

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.follow.watch import Snapshot

_UNLIMITED = 100_000


@click.command()
@options.optional_spec_arguments
@options.where_option
@options.store_option()
@console.json_option
def status(
    *, spec: str | None, overrides: tuple[str, ...], where: str | None, store: Store, as_json: bool
) -> None:
    """Show the number of runs with each status, for each cell of SPEC or for each launched sweep.

    It reads only the store. It says how old the store's knowledge of active runs is, and which launches are held;
    `reconcile` and `watch` also ask Slurm. With --where it shows cells.

    Example: imagine-sweep status table3
    """
    from slurm.follow.changed_code import changed_code
    from slurm.follow.hold import held
    from sweeps.spec.stored import NO_SWEEP
    from sweeps.status.blocked import sweep_states
    from sweeps.status.cell import count_by_status

    active = store.open_attempts()
    rows: list[dict[str, Any]]
    if spec is None and where is None:
        rows = [{"sweep": name, "states": states} for name, states in sweep_states(store).items()]
    else:
        rows, run_ids = _cell_states(store, spec, overrides, where)
        active = [one for one in active if one.attempt.run_id in run_ids]
    rows = [{**row, "counts": count_by_status(row["states"])} for row in rows]
    if as_json:
        options.print_json(rows)
    elif rows:
        options.print_rows(_flat(rows, with_name=spec is None), as_json=False)
    elif store.exists:
        click.echo(NO_SWEEP)
    holds = held(store.folder, [one.job_name for one in active if one.job_name])
    changed = changed_code(store.folder, active)
    for line in (*_age(active), *changed, *(hold.describe() for hold in holds)):
        console.say(line, err=as_json)


def _flat(rows: Sequence[dict[str, Any]], *, with_name: bool) -> list[dict[str, Any]]:
    """The rows with a column for each status that has runs."""
    left_out = {"states", "counts"} | (set() if with_name else {"sweep"})
    statuses = [status for status in rows[0]["counts"] if any(row["counts"][status] for row in rows)]
    return [
        {name: value for name, value in row.items() if name not in left_out}
        | {status: row["counts"][status] for status in statuses}
        for row in rows
    ]


def _cell_states(
    store: Store, spec: str | None, overrides: tuple[str, ...], where: str | None
) -> tuple[list[dict[str, Any]], set[str]]:
    """A row for each cell, and the ids of the runs in them."""
    from sweeps.follow.coverage import stored_top_ups, with_top_ups
    from sweeps.spec.choose import matching
    from sweeps.spec.stored import sweeps_of
    from sweeps.status.blocked import blocked
    from sweeps.status.cell import dead_runs, read_cells, with_lost

    sweeps = sweeps_of(store, spec, overrides, report=say)
    whole = [(each, with_top_ups(cells, stored_top_ups(cells, store))) for each, cells in sweeps]
    chosen = matching(whole, where)
    run_ids = {run.run_id for _, expansion in chosen for run in expansion.runs}
    states = store.states(run_ids)
    if State.RUNNING in states.values():
        states = with_lost(states, dead_runs(store))
    rows = [
        {"sweep": each.name, **cell.cell.columns, "states": cell.states}
        for each, expansion in chosen
        for cell in read_cells(
            expansion, states, blocked=blocked(expansion.runs, states, store, at_hand=expansion.files)
        )
    ]
    return rows, run_ids


def _age(active: Sequence[OpenAttempt]) -> list[str]:
    """How old the store's knowledge of active runs is; no lines without such runs."""
    from jobs.progress import duration

    now = datetime.now(UTC)
    heard = [(one.state, now - (one.heartbeat_at or one.started_at or one.claimed_at)) for one in active]
    lines = []
    for state, what in ((State.PENDING, "waiting: submitted"), (State.RUNNING, "running: last heard of")):
        ages = [age.total_seconds() for of_state, age in heard if of_state is state]
        if ages:
            lines.append(f"{what} up to {duration(max(*ages, 0))} ago")
    return [*lines, "imagine-sweep reconcile finds out what became of them"] if lines else []


@click.command()
@options.optional_spec_arguments
@options.where_option
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
@options.on_finish_option
@console.json_option
@options.store_option(write=True)
def watch(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    once: bool,
    every_s: float,
    on_finish: str | None,
    as_json: bool,
    store: Store,
) -> int:
    """Show cells by status, running runs, time left and causes of failures of SPEC, or of every launched sweep.

    Each look reconciles, as `reconcile` does, and runs squeue once. In a store that you may only read, it shows what
    the store knows. The command ends when no run is active, or with Ctrl-C; the jobs continue. Without a terminal it
    prints a line when something has changed; with --json it prints a line of JSON for every look.

    Exit code 1: some runs failed, were interrupted or are blocked.

    Example: imagine-sweep watch table3 --on-finish 'echo $IMAGINE_STORED > done'
    """
    from slurm.client.client import Slurm
    from sweeps.follow.coverage import grown
    from sweeps.follow.display import show_once
    from sweeps.follow.watch import Watch
    from sweeps.spec.choose import matching
    from sweeps.spec.stored import sweeps_of
    from sweeps.status.cell import Counts

    if once and on_finish is not None:
        raise click.UsageError("--on-finish waits for the end, and --once does not; give only one of them")
    sweeps = sweeps_of(store, spec, overrides, report=say)
    if where is not None:  # a wrong filter ends the command, not only a look
        matching(grown(sweeps, set(store.runs()["run_id"])), where)
    if not store.may_write():
        say(f"{store.display_url} cannot be written by this user from here, so nothing is reconciled")
    watched = Watch(
        lambda: sweeps_of(store, spec, overrides, report=lambda _: None),
        store=store,
        slurm=Slurm(),
        name="all sweeps" if spec is None else sweeps[0][0].name,
        where=where,
    )
    last = watched.look() if once else _go_on(watched.look, every_s, as_json=as_json)
    if once and as_json:
        options.print_json(last.as_dict())
    elif once:
        show_once(last, _terminal())
    if on_finish is not None:
        options.run_on_finish(on_finish, last.name, sum((cell.counts for cell in last.cells), Counts()))
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
