"""The commands `coverage`, which shows each cell's missing runs, and `top-up`, which trains more runs."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli.options import gate_option
from results_db.contract import Store, StoreError
from results_db.text import counted
from sweeps.cli import options
from sweeps.follow.top_up import CAP, make_top_up, remarks, to_launch
from sweeps.launch.options import LaunchOptions, say
from sweeps.spec.document import SpecError
from sweeps.status.cell import CellStatus

if TYPE_CHECKING:
    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec

cap_option = click.option(
    "--cap",
    type=click.FloatRange(min=1),
    default=CAP,
    show_default=True,
    metavar="X",
    help="Most runs of a cell, as a multiple of its wanted runs.",
)


@click.command()
@options.optional_spec_arguments
@console.where_option
@gate_option
@cap_option
@console.json_option
@options.store_option()
def coverage(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    gate: str | None,
    cap: float,
    as_json: bool,
    store: Store,
) -> None:
    """Show how many of its wanted runs each cell has, for the cells of SPEC or of every launched sweep.

    `stored` counts completed runs, `kept` those that passed the gate, `to_submit` the new and interrupted runs that a
    launch would train, `blocked` those that it leaves out, because a need is not met. `missing` is wanted - kept.
    `top_up` is what `top-up` would launch, and `held_back` what the cell needs beyond that.

    --where takes config keys and these columns, e.g. 'missing>0'.

    Example: imagine-sweep coverage table3 --where 'missing>0'
    """
    from sweeps.spec.stored import NO_SWEEP, sweeps_of

    sweeps = sweeps_of(store, spec, overrides, report=say)
    cells = _top_ups(sweeps, store, gate=gate, cap=cap)
    if not cells and not as_json:
        if store.exists:
            click.echo(NO_SWEEP)
        return
    cells = _matching(cells, where)
    _show(cells, with_names=spec is None, as_json=as_json)
    if not as_json:
        _remark(cells, cap=cap)


@click.command("top-up")
@options.spec_arguments
@console.where_option
@gate_option
@cap_option
@options.launch_options
@options.yes_option
@console.json_option
@console.db_option
def top_up(
    *,
    spec: str,
    overrides: tuple[str, ...],
    where: str | None,
    gate: str | None,
    cap: float,
    how: LaunchOptions,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Train more runs for every cell of SPEC that has too few kept runs. The cell's pass rate sets how many.

    A cell's new and interrupted runs come first, then new seeds. When they have ended, give the same command again.
    `retry` is for failed runs.

    Example: imagine-sweep top-up table3 --cap 3 --dry-run
    """
    from results_db.store.sql import open_to_read
    from sweeps.launch.launch import launch
    from sweeps.spec.expand import first_runs
    from sweeps.spec.stored import find_sweep

    with closing(open_to_read(how.db)) as store:
        loaded, expansion = find_sweep(store, spec, overrides, report=say)
        cells = _top_ups([(loaded, expansion)], store, gate=gate, cap=cap)
    if all(cell.next_seed is None for cell in expansion.cells):
        raise SpecError(
            f"{loaded.name} fixes its seeds by a count, list or range, so a top-up cannot add any; "
            "give `runs` instead (`seeds` may only be {start: ...})"
        )
    cells = _matching(cells, where)
    chosen = first_runs(to_launch(cells), how.limit)
    if dry_run:
        ids = {run.run_id for run in chosen.runs}
        first = [replace(cell, top_up=[run for run in cell.top_up if run.run_id in ids]) for cell in cells]
        _show(first, with_names=False, as_json=as_json)
        if not as_json:
            _remark(cells, cap=cap)
            options.show_preview(loaded, chosen, how)
        return 0
    _remark(cells, cap=cap)
    if chosen.runs:
        what = f"{loaded.name}: {counted(len(chosen.runs), 'run')} to top up"
        options.confirm(what, len(chosen.runs), then="Train them", yes=how.yes)
    else:
        say(f"{loaded.name}: nothing to launch; see imagine-sweep coverage")
    result = launch(loaded, chosen, how)
    if as_json:
        options.print_json(result.as_dict())
    return result.exit_code or (console.SOME_FAILED if any(cell.held_back for cell in cells) else 0)


def _top_ups(
    sweeps: "Sequence[tuple[Spec, Expansion]]", store: Store, *, gate: str | None, cap: float
) -> list[CellStatus]:
    """Every cell of these sweeps, with the runs that a top-up would launch."""
    from sweeps.follow.coverage import cover
    from sweeps.status.cell import dead_runs

    frame, dead = store.runs(), dead_runs(store)
    cells = []
    for spec, expansion in sweeps:
        covered = cover(expansion, store, frame=frame, sweep=spec.name, dead=dead, gate=gate)
        cells += make_top_up(covered, cap=cap)
    return cells


def _matching(cells: Sequence[CellStatus], where: str | None) -> list[CellStatus]:
    """The cells that match a filter on their config keys and counts.

    Raises:
        StoreError: no cell matches, or the filter does not fit these columns.
    """
    if where is None:
        return list(cells)
    import pandas as pd

    from results_db.query import where as filters

    rows = [{"sweep": cell.sweep, **cell.cell.config, **cell.numbers} for cell in cells]
    matching = [cells[index] for index in filters.apply(where, pd.DataFrame(rows, dtype=object)).index]
    if not matching:
        raise StoreError(f"--where '{where}': no cell matches; see imagine-sweep coverage")
    return matching


def _show(cells: Sequence[CellStatus], *, with_names: bool, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for cell in cells:
        row: dict[str, Any] = {"sweep": cell.sweep} if with_names or as_json else {}
        row |= {**cell.cell.columns, **cell.numbers}
        if as_json:
            stored = cell.counts.stored
            row["pass_rate"] = cell.numbers["kept"] / stored if stored else None
            row["seeds"] = [run.config["seed"] for run in cell.top_up]
        rows.append(row)
    options.print_rows(rows, as_json=as_json)
    if as_json:
        return
    missing, wanted, top_up = (
        sum(cell.numbers[name] for cell in cells) for name in ("missing", "wanted", "top_up")
    )
    console.say(
        f"{missing} of {counted(wanted, 'wanted run')} are missing; imagine-sweep top-up would launch {top_up}"
    )


def _remark(cells: Sequence[CellStatus], *, cap: float) -> None:
    for line in remarks(cells, cap=cap):
        say(line)
