"""The command of a figure or an analysis that experiments declare, made of its code: a function of stored runs."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

from imagination import registry
from imagination.figures import (
    Analysis,
    Drawn,
    Findings,
    OwnOption,
    check_analysis,
    check_figure,
    own_options,
    takes_one_run,
)
from results_db import console
from results_db.cli import options
from results_db.contract import StoreError
from results_db.views import tables
from results_db.views.figures import files

if TYPE_CHECKING:
    import pandas as pd

    from imagination.figures import Stored
    from results_db.store.sql import SqlStore

log = logging.getLogger(__name__)

Kind = Literal["figures", "analyses"]
Result = TypeVar("Result")

_RUN = "RUN is a run id or its first characters."
_RUNS = f"{_RUN} Without a RUN, the runs are the kept runs that --where and --sweep choose."


@dataclass
class Entry:
    """One meaning of a name: the code, its line of help, and the experiments that declare it."""

    path: str
    about: str
    experiments: list[str]

    @property
    def of(self) -> str:
        """Its experiments in words."""
        return " and ".join(self.experiments)


@dataclass
class Loaded:
    """An entry with its code: a function, or an analysis with its function."""

    entry: Entry
    code: Any

    @property
    def function(self) -> Callable[..., Any]:
        """The function that draws or finds."""
        return self.code.function if isinstance(self.code, Analysis) else self.code

    @property
    def options(self) -> dict[str, OwnOption]:
        """See `own_options`."""
        return own_options(self.function)

    def call(
        self, wanted: type[Result], runs: "Stored | Sequence[Stored]", given: Mapping[str, Any]
    ) -> Result:
        """What the function gives.

        Raises:
            FigureError: see `registry.call`.
        """
        return registry.call(self.entry.path, lambda: self.function(runs, **self._values(given)), wanted)

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of its options: those of the command line, else its defaults."""
        context, own = click.get_current_context(), self.options
        chosen = [name for name in given if context.get_parameter_source(name) != ParameterSource.DEFAULT]
        for name in chosen:
            if name not in own:
                raise click.UsageError(f"{_flag(name)} is no option for runs of {self.entry.of}", context)
        return {name: given[name] if name in chosen else one.default for name, one in own.items()}


@dataclass
class Declared:
    """A declared name, and its meanings: experiments may give one name to different code."""

    name: str
    loaded: list[Loaded]

    @property
    def of(self) -> str:
        """The experiments in words."""
        return " and ".join(one.entry.of for one in self.loaded)

    @property
    def experiments(self) -> list[str]:
        """The experiments that declare the name."""
        return [name for one in self.loaded for name in one.entry.experiments]

    @property
    def options(self) -> dict[str, OwnOption]:
        """The options of all."""
        return {name: one for loaded in reversed(self.loaded) for name, one in loaded.options.items()}

    def meant(self, experiments: Sequence[str]) -> Loaded:
        """The code for runs of these experiments; the first if they are of none.

        Raises:
            StoreError: they have different code of this name.
        """
        found = [one for one in self.loaded if {*one.entry.experiments} & {*experiments}] or self.loaded[:1]
        if len(found) > 1:
            of = " and ".join(one.entry.of for one in found)
            raise StoreError(
                f"the runs are of {of}, and '{self.name}' is different for them; choose runs of one of them, such as "
                f"--where 'experiment={found[0].entry.experiments[0]}'"
            )
        return found[0]


def summary(entries: Sequence[Entry]) -> str:
    """The line of help of a name: those of its meanings."""
    return " ".join(dict.fromkeys(entry.about for entry in entries))


def command(kind: Kind, name: str, entries: Sequence[Entry]) -> click.Command:
    """The command of a declared name, of the code that can be had. A warning names what is left out, and why.

    Raises:
        StoreError: no code can be had.
    """
    check = check_analysis if kind == "analyses" else check_figure
    found: list[Loaded] = []
    for entry in entries:
        code = registry.load_or_warn(entry.path, check)
        if code is not None and _fits(one := Loaded(entry, code), found):
            found.append(one)
    if not found:
        raise StoreError(
            f"'{name}' has no code that works; mend or update {entries[0].path.partition('.')[0]}"
        )
    declared = Declared(name, found)
    if kind == "analyses":
        return _analysis(declared)
    return _of_one(declared) if takes_one_run(found[0].function) else _of_several(declared)


@click.command()
@options.choice_options(gate=True)
@options.output_options
@options.style_options
def _general(**_: Any) -> None: ...


_NO_PLOT = "--no-plot"
_TAKEN = {_NO_PLOT, "--help", *(flag for parameter in _general.params for flag in parameter.opts)}
"""The options of all these commands."""


def _fits(one: Loaded, others: Sequence[Loaded]) -> bool:
    """Whether its options are none of ours, and it can be one command with the other code of this name."""
    own = one.options
    why = [f"{_flag(name)} is an option of all such commands" for name in own if _flag(name) in _TAKEN]
    for other in others[:1]:
        path, theirs = other.entry.path, other.options
        if takes_one_run(one.function) != takes_one_run(other.function):
            why.append(f"it must take a run, or runs, as {path} does, which has the same name")
        both = [(name, type(own[name].default), type(theirs[name].default)) for name in own if name in theirs]
        differ = [name for name, kind, other_kind in both if kind is not other_kind]
        why += [f"{_flag(name)} has another type in {path}, which has the same name" for name in differ]
    for reason in why[:1]:
        log.warning("%s: %s; left out", one.entry.path, reason)
    return not why


def _of_one(declared: Declared) -> click.Command:
    @options.output_options
    @console.json_option
    @console.db_option
    def command(*, run: str, place: options.Place, as_json: bool, db: str | None, **given: Any) -> None:
        from results_db.views.stored import named

        with options.reading(db) as store:
            stored = named(store, store.find(run))
            _check(declared, [stored])
            one = declared.meant([str(stored.config["experiment"])])
            drawn = one.call(Drawn, stored, given)
        shown = {"run_id": stored.run_id}
        _save(drawn, place(_file(declared, stored.name, *_words(given))), shown, as_json=as_json)

    about = f"{_RUN} Without -o the file is {_named(declared, 'RUN')}."
    return _made(declared, click.argument("run")(command), about)


def _of_several(declared: Declared) -> click.Command:
    @options.choice_options(gate=True)
    @options.output_options
    @console.json_option
    def command(
        *, runs: tuple[str, ...], choice: options.Choice, place: options.Place, as_json: bool, **given: Any
    ) -> None:
        with choice.reading() as store:
            one, _, stored = _chosen(store, declared, runs, choice)
            if not stored:
                raise StoreError(f"no kept run of {declared.of}{choice} is stored; see imagine-results runs")
            drawn = one.call(Drawn, stored, given)
        shown = {"runs": [one.run_id for one in stored]}
        _save(drawn, place(_file(declared, *_words(given))), shown, as_json=as_json)

    about = f"{_RUNS} Without -o the file is {_named(declared)}."
    return _made(declared, _RUN_ARGUMENTS(command), about)


def _analysis(declared: Declared) -> click.Command:
    @options.choice_options(gate=True)
    @options.output_options
    @click.option(_NO_PLOT, is_flag=True, help="Print only, and draw nothing.")
    @options.style_options
    def command(
        *,
        runs: tuple[str, ...],
        choice: options.Choice,
        place: options.Place,
        no_plot: bool,
        style: str,
        **given: Any,
    ) -> None:
        if place.output is not None and no_plot:
            raise click.UsageError(
                "-o names a file to draw into, and --no-plot draws nothing; give one of them"
            )
        with choice.reading() as store:
            one, frame, stored = _chosen(store, declared, runs, choice)
            found = one.call(Findings, stored, given)
            path = None if no_plot else place(_file(declared, *(found.runs if len(found.runs) == 1 else ())))
            if style == "json":
                click.echo(tables.as_json(found.facts))
            elif style == "csv":
                click.echo(tables.render(found.table.rows, found.table.columns, style=style))
            elif found.runs:
                shown = [tables.render(part.rows, part.columns, style=style) for part in found.shown]
                click.echo("\n\n".join(shown))
            else:
                chosen = f" of `compare {one.code.table}` (choose others with --where)"
                default = chosen if one.code.table and not runs else ""
                choice.say_nothing(store, frame, of=default, shown=declared.name)
            if found.runs and path is not None:
                from matplotlib.figure import Figure

                files.save(registry.call(one.entry.path, found.draw, Figure), path)
                click.echo(f"wrote {path}", err=True)

    named = dict.fromkeys(one.code.table for one in declared.loaded if one.code.table)
    default = "".join(f" Without these, too, they are the runs of `compare {table}`." for table in named)
    drawn = f" Without -o the file is {_file(declared, 'RUN')}, or {_file(declared)} for several runs."
    return _made(declared, _RUN_ARGUMENTS(command), f"{_RUNS}{default}{drawn}")


_RUN_ARGUMENTS = click.argument("runs", metavar="[RUN]...", nargs=-1)


def _made(declared: Declared, command: Callable[..., None], about: str) -> click.Command:
    """The command with the own options; its help: the declared line, `about`, the docstring after its first line."""
    said = [inspect.cleandoc(one.function.__doc__ or "").partition("\n\nArgs:")[0] for one in declared.loaded]
    more = [part for text in said for part in text.split("\n\n")[1:]]
    for name, (default, option) in reversed(declared.options.items()):
        kind: Any = type(default)
        if option.low is not None or option.high is not None:
            bounded: Any = click.IntRange if kind is int else click.FloatRange
            kind = bounded(option.low, option.high)
        command = click.option(
            _flag(name),
            name,
            type=kind,
            is_flag=kind is bool,
            default=default,
            show_default=True,
            metavar=option.metavar,
            help=option.help,
        )(command)
    first = summary([one.entry for one in declared.loaded])
    return click.command(declared.name, help="\n\n".join([first, about, *more]))(command)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _chosen(
    store: "SqlStore", declared: Declared, runs: Sequence[str], choice: options.Choice
) -> "tuple[Loaded, pd.DataFrame, list[Stored]]":
    """What the name means for the chosen runs; these; and the named ones, or those kept and of its experiments.

    Raises:
        StoreError: a run id or a filter is wrong, or a named run is of another experiment, or the name means several.
    """
    from results_db.paper.numbers import TABLES
    from results_db.paper.selection import runs_of
    from results_db.query.aggregate import records
    from results_db.query.gate import completed, passed
    from results_db.views.stored import several

    if runs and choice.gate is not None:
        raise click.UsageError("--gate chooses among runs, and a named RUN is always shown; give one of them")
    frame = store.runs()
    if runs:
        frame = frame[frame["run_id"].isin({store.find(prefix) for prefix in runs})]
    frame = choice.of(frame)
    if runs:
        found = several(store, records(frame), are_named=True)
        _check(declared, found)
        return declared.meant(list(frame["experiment"])), frame, found
    own = completed(frame[frame["experiment"].isin(declared.experiments)])
    one = declared.meant(list(own["experiment"]))
    table = one.code.table if isinstance(one.code, Analysis) and choice.is_all else ""
    if table in TABLES:
        frame = runs_of(frame, TABLES[table], store=store)
        own = completed(frame[frame["experiment"].isin(declared.experiments)])
    return one, frame, several(store, records(own[passed(own, gate=choice.gate)]))


def _check(declared: Declared, runs: "Sequence[Stored]") -> None:
    """Check that the runs are of experiments that declare this name.

    Raises:
        StoreError: one is not.
    """
    for run in runs:
        experiment = str(run.config["experiment"])
        if experiment not in registry.names():
            raise StoreError(
                f"run {run.name} is of {experiment}, which is not installed here; "
                f"{declared.name} needs the package that adds this experiment"
            )
        if experiment not in declared.experiments:
            raise StoreError(
                f"run {run.name} is of {experiment}, and {declared.name} is for {declared.of}; "
                "name another run, see imagine-results runs"
            )


def _file(declared: Declared, *parts: Any) -> str:
    return f"{'-'.join([declared.name, *map(str, parts)])}.png"


def _named(declared: Declared, *parts: str) -> str:
    """The name of a file in a line of help: in brackets what flags add."""
    options = declared.options.items()
    words = [f"[-{name}]" if one.default is False else f"-{name.upper()}" for name, one in options]
    return f"{'-'.join([declared.name, *parts])}{''.join(words)}.png"


def _words(given: Mapping[str, Any]) -> list[str]:
    """The values of the options, for the name of a file; of a flag its name, if it is set."""
    return [name if value is True else str(value) for name, value in given.items() if value is not False]


def _save(drawn: Drawn, path: Path, shown: dict[str, Any], *, as_json: bool) -> None:
    files.save(drawn.figure, path)
    click.echo(tables.as_json({**shown, "file": str(path), **drawn.facts}) if as_json else str(path))
