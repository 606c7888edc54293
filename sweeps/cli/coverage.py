"""The commands that find what a sweep still lacks, and train it: `coverage` and `top-up`."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from results_db import console
from results_db.cli.options import gate_option
from results_db.contract import PlannedRun, StoreError
from results_db.text import counted
from sweeps.cli import options
from sweeps.follow.top_up import CAP, CellTopUp, make_top_up, to_launch, why_held_back
from sweeps.spec.document import SpecError

if TYPE_CHECKING:
    from results_db.contract import Store
    from sweeps.launch.options import LaunchOptions
    from sweeps.spec.expand import Expansion
    from sweeps.spec.model import Spec

cap_option = click.option(
    "--cap",
    type=click.FloatRange(min=1),
    default=CAP,
    show_default=True,
    metavar="X",
    help="Top up no cell beyond X times the runs that it wants.",
)


class _Entry(NamedTuple):
    """A cell of a sweep, its top-up, and the runs of that which are launched: all, or the first ones alone."""

    sweep: str
    top_up: CellTopUp
    runs: Sequence[PlannedRun]

    @property
    def label(self) -> str:
        """How a line names it: sweep and columns."""
        from results_db.text import cell_text

        columns = " ".join(
            f"{key}={cell_text(value)}" for key, value in self.top_up.covered.cell.columns.items()
        )
        return f"{self.sweep}: {columns}" if columns else self.sweep

    @property
    def counts(self) -> dict[str, int]:
        """What the cell has, and what it would get."""
        counts = self.top_up.covered.counts
        return {**counts, "top_up": len(self.runs), "held_back": self.top_up.held_back}


@click.command()
@options.optional_spec_arguments
@console.where_option
@gate_option
@cap_option
@console.json_option
@console.db_option
def coverage(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    min_accuracy: float | None,
    cap: float,
    as_json: bool,
    db: str | None,
) -> None:
    """What each cell has of the runs that it wants: of SPEC, or without it of every sweep that was launched.

    `tried` counts the completed runs, `reached` those of them that reached the accuracy, `open` those never tried or
    interrupted, `missing` what the cell lacks of `reached`. `top_up` is what `top-up` would launch, `held_back` what
    it would need beyond its cap.

    --where takes config keys and these columns, e.g. 'missing>0'.
    """
    from results_db.store import open_store
    from sweeps.spec.stored import NO_SWEEP, sweeps_of

    with closing(open_store(db, create=False)) as store:
        sweeps = sweeps_of(store, spec, overrides, report=options.say)
        entries = _entries(sweeps, store, min_accuracy=min_accuracy, cap=cap)
    if not entries and not as_json:
        click.echo(NO_SWEEP)
        return
    _show(_matching(entries, where), cap=cap, with_names=spec is None, as_json=as_json)


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
    min_accuracy: float | None,
    cap: float,
    how: "LaunchOptions",
    dry_run: bool,
    as_json: bool,
) -> int:
    """Train as many more runs as the cells of SPEC lack that reached the accuracy, by the share that did so far.

    A cell's open runs come first, then seeds that no run has yet. When they have ended, the same command looks anew.
    Failed runs are left to `retry`.
    """
    from results_db.store import open_store
    from sweeps.launch.launch import launch
    from sweeps.spec.load import expand_spec

    loaded, expansion = expand_spec(spec, overrides)
    _check_may_grow(loaded, expansion)
    with closing(open_store(how.db, create=False)) as store:
        every = _entries([(loaded, expansion)], store, min_accuracy=min_accuracy, cap=cap)
    entries = _first(_matching(every, where), how.limit)
    if dry_run:
        _show(entries, cap=cap, with_names=False, as_json=as_json)
        return 0
    chosen = _to_launch(entries)
    held_back = _say_held_back(entries, cap=cap)
    if chosen.runs:
        what = f"{loaded.name}: {counted(len(chosen.runs), 'run')} to top up"
        options.confirm(what, len(chosen.runs), yes=how.yes)
    else:
        click.echo(f"{loaded.name}: nothing to launch; see imagine-sweep coverage", err=True)
    result = launch(loaded, chosen, how)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    return result.exit_code or (console.SOME_FAILED if held_back else 0)


def _check_may_grow(spec: "Spec", expansion: "Expansion") -> None:
    if all(cell.next_seed is None for cell in expansion.cells):
        raise SpecError(
            f"{spec.name} fixes its seeds by a count, list or range, so there are no more to add; "
            "give `runs`, and with it at most {start: ...} as `seeds`"
        )


def _entries(
    sweeps: "Sequence[tuple[Spec, Expansion]]", store: "Store", *, min_accuracy: float | None, cap: float
) -> list[_Entry]:
    """Every cell of these sweeps."""
    from sweeps.follow.coverage import cover
    from sweeps.status.dead import dead_runs

    frame, dead = store.runs(), dead_runs(store)
    return [
        _Entry(spec.name, top_up, top_up.runs)
        for spec, expansion in sweeps
        for top_up in make_top_up(cover(expansion, frame, dead=dead, min_accuracy=min_accuracy), cap=cap)
    ]


def _first(entries: Sequence[_Entry], limit: int | None) -> list[_Entry]:
    """The entries with the first so many of their runs alone, in breadth-first order."""
    from sweeps.spec.expand import first_runs

    kept = {run.run_id for run in first_runs(_to_launch(entries), limit).runs}
    return [entry._replace(runs=[run for run in entry.runs if run.run_id in kept]) for entry in entries]


def _to_launch(entries: Sequence[_Entry]) -> "Expansion":
    return to_launch([replace(entry.top_up, runs=entry.runs) for entry in entries])


def _matching(entries: Sequence[_Entry], where: str | None) -> list[_Entry]:
    """Those that meet the filter, which compares a cell's config keys and what is counted of it.

    Raises:
        StoreError: none does, or it is no filter for these columns.
    """
    if where is None:
        return list(entries)
    import pandas as pd

    from results_db.query import where as filters

    rows = [{"sweep": entry.sweep, **entry.top_up.covered.cell.config, **entry.counts} for entry in entries]
    frame = pd.DataFrame(rows, dtype=object)
    kept = [entries[index] for index in filters.apply(where, frame).index]
    if not kept:
        raise StoreError(f"--where '{where}': no cell matches; see imagine-sweep coverage")
    return kept


def _show(entries: Sequence[_Entry], *, cap: float, with_names: bool, as_json: bool) -> None:
    options.print_rows(
        [_row(entry, with_name=with_names, in_full=as_json) for entry in entries], as_json=as_json
    )
    if as_json:
        return
    total = {key: sum(entry.counts[key] for entry in entries) for key in ("wanted", "missing", "top_up")}
    click.echo(
        f"{total['missing']} of {counted(total['wanted'], 'wanted run')} are missing; "
        f"imagine-sweep top-up would launch {total['top_up']}"
    )
    _say_held_back(entries, cap=cap)


def _row(entry: _Entry, *, with_name: bool, in_full: bool) -> dict[str, Any]:
    covered = entry.top_up.covered
    row: dict[str, Any] = {"sweep": entry.sweep} if with_name or in_full else {}
    row |= {**covered.cell.columns, **entry.counts}
    if in_full:
        row |= {"pass_rate": covered.pass_rate, "seeds": [run.config["seed"] for run in entry.runs]}
    return row


def _say_held_back(entries: Sequence[_Entry], *, cap: float) -> bool:
    """Whether cells get fewer runs than they need; says of each, why."""
    held_back = [entry for entry in entries if entry.top_up.held_back]
    for entry in held_back:
        click.echo(f"{entry.label}: {why_held_back(entry.top_up, cap=cap)}", err=True)
    return bool(held_back)
