"""Commands that experiments declare: their own figures and analyses, each a function of stored runs.

They come from installed code alone, by the names in its declarations; a store names no code.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from typing_extensions import override

from imagination import registry
from imagination.figures import Analysis, Drawn, FigureError, Option, takes_one_run
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

_RUN = "RUN is a run id or its first characters."
_RUNS = f"{_RUN} Without a RUN, the runs are the kept runs that --where and --sweep choose."


@dataclass
class Declared:
    """What a name means: the code, and the experiments that declare it."""

    name: str
    path: str
    experiments: list[str]

    @property
    def of(self) -> str:
        """Its experiments in words."""
        return " and ".join(self.experiments)


class DeclaredGroup(console.ConsoleGroup):
    """Its own commands, and those that the installed experiments declare under `kind`."""

    kind: Kind = "figures"

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._declared(ctx)})

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._declared(ctx):
            return own
        return _command(self.kind, self._declared(ctx)[cmd_name])

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if self.kind == "figures" and (absent := _absent(ctx, args)):
                raise StoreError(
                    f"no installed experiment has a figure '{args[0]}', and this store has runs of "
                    f"{', '.join(absent)}: figures of its own need the package that adds it; install it"
                ) from None
            raise

    def _declared(self, ctx: click.Context) -> dict[str, Declared]:
        """The declared names. Of two codes for one name, the experiment that is listed first has it."""
        key = f"{__name__}.{self.kind}"
        if key not in ctx.meta:
            found: dict[str, Declared] = ctx.meta.setdefault(key, {})
            for declared in registry.declarations():
                for name, path in getattr(declared, self.kind).items():
                    known = found.setdefault(name, Declared(name, path, []))
                    if known.path == path:
                        known.experiments.append(declared.name)
                    else:
                        log.warning(
                            "'%s' of experiment '%s' is left out: %s has it", name, declared.name, known.of
                        )
        return ctx.meta[key]  # type: ignore[no-any-return]


class AnalysisGroup(DeclaredGroup):
    """Its own commands, and the declared analyses."""

    kind: Kind = "analyses"


def _command(kind: Kind, declared: Declared) -> click.Command | None:
    """The command of a declared name; None, with a warning, if its code cannot be had."""
    code = registry.load_or_warn(declared.path)
    if code is None:
        return None
    if kind == "analyses":
        return _analysis(declared, code)
    return _of_one(declared, code) if takes_one_run(code) else _of_several(declared, code)


def _of_one(declared: Declared, function: Callable[..., Drawn]) -> click.Command:
    @options.output_options
    @console.json_option
    @console.db_option
    def command(*, run: str, place: options.Place, as_json: bool, db: str | None, **given: Any) -> None:
        from results_db.views.stored import named

        with options.reading(db) as store, _errors():
            stored = named(store, store.find(run))
            _check(declared, [stored])
            drawn = function(stored, **given)
        shown = {"run_id": stored.run_id}
        _save(drawn, place(_file(declared, stored.name, *_words(given))), shown, as_json=as_json)

    about = f"{_RUN} Without -o the file is {_file(declared, 'RUN', *_own_names(function))}."
    return _made(declared, function, click.argument("run")(command), about)


def _of_several(declared: Declared, function: Callable[..., Drawn]) -> click.Command:
    @options.choice_options(gate=True)
    @options.output_options
    @console.json_option
    def command(
        *, runs: tuple[str, ...], choice: options.Choice, place: options.Place, as_json: bool, **given: Any
    ) -> None:
        with choice.reading() as store, _errors():
            _, stored = _chosen(store, declared, runs, choice)
            if not stored:
                raise StoreError(f"no kept run of {declared.of}{choice} is stored; see imagine-results runs")
            drawn = function(stored, **given)
        shown = {"runs": [one.run_id for one in stored]}
        _save(drawn, place(_file(declared, *_words(given))), shown, as_json=as_json)

    about = f"{_RUNS} Without -o the file is {_file(declared, *_own_names(function))}."
    return _made(declared, function, _RUN_ARGUMENTS(command), about)


def _analysis(declared: Declared, analysis: Analysis) -> click.Command:
    @options.choice_options(gate=True)
    @options.output_options
    @click.option("--no-plot", is_flag=True, help="Print only, and draw nothing.")
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
        with choice.reading() as store, _errors():
            frame, stored = _chosen(store, declared, runs, choice, table=analysis.table)
            found = analysis.function(stored, **given)
            path = None if no_plot else place(_file(declared, *(found.runs if len(found.runs) == 1 else ())))
            if style == "json":
                click.echo(tables.as_json(found.facts))
            elif style == "csv":
                click.echo(tables.render(found.table.rows, found.table.columns, style=style))
            elif found.runs:
                shown = [tables.render(one.rows, one.columns, style=style) for one in found.shown]
                click.echo("\n\n".join(shown))
            else:
                chosen = f" of `compare {analysis.table}` (choose others with --where)"
                default = chosen if analysis.table and not runs else ""
                choice.say_nothing(store, frame, of=default, shown=declared.name)
            if found.runs and path is not None:
                files.save(found.draw(), path)
                click.echo(f"wrote {path}", err=True)

    default = (
        f" Without these, too, they are the runs of `compare {analysis.table}`." if analysis.table else ""
    )
    drawn = f" Without -o the file is {_file(declared, 'RUN')}, or {_file(declared)} for several runs."
    return _made(declared, analysis.function, _RUN_ARGUMENTS(command), f"{_RUNS}{default}{drawn}")


_RUN_ARGUMENTS = click.argument("runs", metavar="[RUN]...", nargs=-1)


def _made(
    declared: Declared, function: Callable[..., Any], command: Callable[..., None], about: str
) -> click.Command:
    """The command with the function's own options, and with its docstring as help."""
    summary, *more = (
        inspect.cleandoc(function.__doc__ or declared.name).partition("\n\nArgs:")[0].split("\n\n")
    )
    for option in reversed(_own_options(function)):
        command = option(command)
    return click.command(declared.name, help="\n\n".join([summary, about, *more]))(command)


def _own_options(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """A click option for every parameter but the first."""
    made = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        said = getattr(parameter.annotation, "__metadata__", ())
        option = next((one for one in said if isinstance(one, Option)), Option(""))
        kind: Any = type(parameter.default)
        ranges: dict[type, Any] = {int: click.IntRange, float: click.FloatRange}
        if option.low is not None or option.high is not None:
            kind = ranges[kind](option.low, option.high)
        made.append(
            click.option(
                f"--{parameter.name.replace('_', '-')}",
                type=kind,
                is_flag=kind is bool,
                default=parameter.default,
                show_default=True,
                metavar=option.metavar,
                help=option.help,
            )
        )
    return made


def _own_names(function: Callable[..., Any]) -> list[str]:
    return [parameter.name.upper() for parameter in list(inspect.signature(function).parameters.values())[1:]]


def _chosen(
    store: "SqlStore", declared: Declared, runs: Sequence[str], choice: options.Choice, *, table: str = ""
) -> "tuple[pd.DataFrame, list[Stored]]":
    """The runs that are named or chosen; and of these the named ones, or those that are kept and of its experiments.

    Raises:
        StoreError: a run id or a filter is wrong, or a named run is of another experiment.
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
    elif table and choice.is_all:
        frame = runs_of(frame, TABLES[table][0], store=store)
    frame = choice.of(frame)
    if runs:
        found = several(store, records(frame), are_named=True)
        _check(declared, found)
        return frame, found
    own = completed(frame[frame["experiment"].isin(declared.experiments)])
    return frame, several(store, records(own[passed(own, gate=choice.gate)]))


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


def _absent(ctx: click.Context, args: Sequence[str]) -> list[str]:
    """The experiments in the store of this command line that are not installed."""
    from results_db.store.sql import open_to_read

    given = [value for option, value in pairwise(args) if option == "--db"]
    with open_to_read(given[-1] if given else console.shared_db(ctx)) as store:
        known = store.experiments() if store.exists else ()
    return [name for name in known if name not in registry.names()]


def _file(declared: Declared, *parts: Any) -> str:
    return f"{'-'.join([declared.name, *map(str, parts)])}.png"


def _words(given: Mapping[str, Any]) -> list[str]:
    """The values of the options, for the name of a file; of a flag its name, if it is set."""
    return [name if value is True else str(value) for name, value in given.items() if value is not False]


def _save(drawn: Drawn, path: Path, shown: dict[str, Any], *, as_json: bool) -> None:
    files.save(drawn.figure, path)
    click.echo(tables.as_json({**shown, "file": str(path), **drawn.facts}) if as_json else str(path))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except FigureError as error:
        raise StoreError(str(error)) from None
