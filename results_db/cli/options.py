"""What the commands of `imagine-results` share: options, the store to read, and the line for an empty answer."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.columns import check_metric, merged
from results_db.console import json_option, say
from results_db.contract import Experiment, StoreError
from results_db.text import counted
from results_db.views.figures import files
from results_db.views.tables import FORMATS

if TYPE_CHECKING:
    from results_db.query.gate import AnyFrame
    from results_db.store.sql import SqlStore


def style_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json` and `--format`, and the argument `style: str`, one of `FORMATS` or `json`."""

    @functools.wraps(command)
    def with_style(*, as_json: bool, style: str | None, **options: Any) -> Any:
        if as_json and style:
            raise click.UsageError(
                "--json and --format are two ways to print; give one of them", click.get_current_context()
            )
        return command(style="json" if as_json else style or "rich", **options)

    choice = click.Choice(FORMATS)
    return click.option("--format", "style", type=choice, help="How to print. [default: rich]")(
        json_option(with_style)
    )


def complete_tables(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The paper's tables whose names begin so."""
    from results_db.paper.numbers import TABLES

    return [name for name in (*TABLES, "all") if name.startswith(incomplete)]


gate_option = click.option(
    "--gate",
    metavar="FILTER",
    help="Keep the runs that match, e.g. 'METRIC>=0.95'. [default: the gate of each experiment]",
    shell_complete=console.complete_columns,
)
"""Adds `--gate` and the argument `gate: str | None`."""

group_option = click.option(
    "--group",
    metavar="COLUMNS",
    shell_complete=console.complete_columns,
    help="The columns to group by, with commas. [default: those that the experiments declare]",
)
"""Adds `--group` and the argument `group: str | None`."""


def names(text: str) -> list[str]:
    """The names in a text with commas."""
    return [name.strip() for name in text.split(",")]


@dataclass(frozen=True)
class Choice:
    """The runs that a command is about: those that `--where` and `--sweep` choose, in the store of `--db`.

    Attributes:
        gate: the filter of `--gate`, see `results_db.query.gate.passed`.
        states: those of `--state`.
    """

    db: str | None
    where: str | None
    sweep: str | None
    gate: str | None = None
    states: Sequence[str] = ()

    def reading(self, *, write: bool = False) -> "AbstractContextManager[SqlStore]":
        """See the function `reading`."""
        return reading(self.db, write=write)

    def of(self, frame: "AnyFrame") -> "AnyFrame":
        """The chosen rows of a frame.

        Raises:
            StoreError: see `results_db.query.where.apply`.
        """
        if self.where is not None or self.sweep is not None:
            from results_db.query.where import apply  # its parser is slow to import

            frame = apply(self.where, frame, sweep=self.sweep)
        if not self.states:
            return frame
        import numpy as np

        return frame[np.isin(np.asarray(frame["state"], dtype=str), self.states)]

    @property
    def is_all(self) -> bool:
        """Whether every run is chosen."""
        return self.where is None and self.sweep is None and not self.states

    def __str__(self) -> str:
        """The options, as on the command line: ` with --where 'gol=3'`."""
        given = [f"--sweep {self.sweep}"] if self.sweep is not None else []
        given += [f"--where '{self.where}'"] if self.where is not None else []
        given += [f"--state {state}" for state in self.states]
        return f" with {' '.join(given)}" if given else ""

    def say_nothing(self, store: "SqlStore", runs: "AnyFrame", *, of: str = "", shown: str = "") -> None:
        """Says why an answer is empty: the first step at which no run is left. See `reading` for a missing store.

        Args:
            store: the store.
            runs: the chosen runs.
            of: what chose them if no option did.
            shown: what the command shows of a run, for kept runs that do not have it.
        """
        if store.exists:
            say(_nothing(store.display_url, runs, str(self) or of, shown, gate=self.gate))


def choice_options(
    *, gate: bool = False, state: bool = False, required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--where`, `--sweep`, `--db`, and on request `--gate` and `--state`; gives `choice: Choice`.

    With `required`, `--where` must be given.
    """
    where = (
        click.option(
            "--where",
            required=True,
            metavar="FILTER",
            help="The runs, e.g. 'preset=small and seed<5'.",
            shell_complete=console.complete_columns,
        )
        if required
        else console.where_option
    )
    sweep = click.option("--sweep", metavar="NAME", help="Only runs of this launched sweep.")
    added = [where, sweep, *([gate_option] if gate else ()), *([console.state_option] if state else ())]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_choice(**given: Any) -> Any:
            own = {field.name: given.pop(field.name) for field in fields(Choice) if field.name in given}
            return command(choice=Choice(**own), **given)

        for option in (console.db_option, *reversed(added)):
            with_choice = option(with_choice)
        return with_choice

    return add


@dataclass(frozen=True)
class Place:
    """Where a command draws: into the file of `-o`, or into one with the command's own name."""

    output: Path | None
    force: bool

    def __call__(self, name: str) -> Path:
        """The file, checked: see `files.check`."""
        return files.check(self.output or Path(name), force=self.force)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `-o` and `--force`, and the argument `place: Place`. The file of -o is checked before the command begins."""

    @functools.wraps(command)
    def with_place(*, output: Path | None, force: bool, **given: Any) -> Any:
        place = Place(output, force)
        if output is not None:
            place("")
        return command(place=place, **given)

    file = click.Path(path_type=Path)
    for option in (
        click.option("--force", is_flag=True, help="Overwrite an existing file."),
        click.option(
            "-o", "--output", type=file, metavar="FILE", help="Draw into this file: .png, .svg or .pdf."
        ),
    ):
        with_place = option(with_place)
    return with_place


@contextmanager
def reading(db: str | None, *, may_create: bool = False, write: bool = False) -> "Iterator[SqlStore]":
    """Opens a store to read it, or also to `write` it.

    If it does not exist, it is empty, and a command that succeeds says so at its end.

    Raises:
        StoreError: the store does not exist though it was named, unless the command is about a launch that
            `may_create` it.
    """
    from results_db.store.sql import open_to_read, open_to_write

    with open_to_write(db) if write else open_to_read(db) as store:
        missing = (
            f"{store.display_url} does not exist; name another store with --db, or create it with: "
            "imagine-sweep launch SPEC"
        )
        if not store.exists and (db or os.environ.get("IMAGINE_DB")) and not may_create:
            raise StoreError(missing)
        yield store
        if not store.exists:
            say(missing, err=True)


metric_option = click.option(
    "--metric", metavar="NAME", help="The metric. [default: the first that the experiment declares]"
)


def metric_of(name: str | None, frame: "AnyFrame", store: "SqlStore") -> str:
    """The metric of `--metric`, or the first one that tables show of these runs' experiments.

    Raises:
        StoreError: the frame has no such metric, or none was named or declared.
    """
    there = set(frame["experiment"])
    shown = {key: one.shown[0] for key, one in store.experiments().items() if one.shown}
    chosen = name or next((shown[key] for key in shown if key in there or not there), None)
    if chosen is None:
        raise StoreError(
            "--metric is missing, because no experiment of these runs declares a metric; name one"
        )
    check_metric(chosen, list(frame.columns))
    return chosen


def cells_of(frame: "AnyFrame", experiments: Mapping[str, Experiment]) -> list[str]:
    """The keys that tell the cells of the completed runs' experiments apart."""
    from results_db.query.gate import completed

    there = set(completed(frame)["experiment"]) or set(experiments)
    return merged([one.cells for name, one in experiments.items() if name in there]) or ["experiment"]


def _nothing(store: str, runs: "AnyFrame", which: str, shown: str, *, gate: str | None) -> str:
    from results_db.query.gate import completed, named, passed

    done = completed(runs)
    if runs.empty:
        return f"no run{which} is stored in {store}; launch some with: imagine-sweep launch SPEC"
    if done.empty:
        return f"of {counted(len(runs), 'run')}{which}, none is COMPLETED; see imagine-results runs"
    of = f"of {counted(len(done), 'completed run')}{which}, none"
    if not passed(done, gate=gate).any():
        return f"{of} passed the gate ({named(done, gate)}); --gate sets another"
    return f"{of} that passed the gate has what {shown} shows"
