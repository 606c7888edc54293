"""What all console commands share: options, exit codes, and errors in one line.

Imports nothing slow, so that `--help` answers at once; a command imports what it needs when it runs.
"""

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import click
from typing_extensions import override

from imagination import registry
from imagination.figures import FigureError
from imagination.schema import nearest
from results_db.columns import GATE_COLUMNS, RUN_COLUMNS
from results_db.contract import State, StoreError
from results_db.text import folded, one_line

SOME_FAILED = 1
"""Exit code: the command is done, and some runs failed or are missing."""

BAD_INPUT = 2
"""Exit code: the user has something to correct."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as in shells."""

READER_GONE = 128 + signal.SIGPIPE
"""Exit code when the reader of the output stopped, as `head` does."""

CANNOT_WRITE = 74
"""Exit code when the output could not be written, for example to a full disk: EX_IOERR of sysexits.h."""

_DB = "results_db.console.db"


def _shared_db(context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    # A context shares its meta with the contexts of subcommands, so the group's --db reaches its commands.
    if value is not None:
        context.meta[_DB] = value
    return shared_db(context)


_DB_OPTION: dict[str, Any] = {
    "metavar": "URL|PATH",
    "callback": _shared_db,
    "help": "Store: a URL, or a path that ends in .db. [IMAGINE_DB; default: sqlite:///outputs/imagine.db] "
    "For a PostgreSQL store, IMAGINE_FILES names the folder of the weights.",
}


def shared_db(context: click.Context) -> str | None:
    """The `--db` that was given before the command."""
    shared: str | None = context.meta.get(_DB)
    return shared


def complete_columns(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The texts that the shell offers where columns are written: the last word may be the beginning of a column."""
    last = re.split(r"\W", incomplete)[-1]
    before = incomplete.removesuffix(last)
    own = (*RUN_COLUMNS, *GATE_COLUMNS, *registry.config_keys(), *registry.metrics())
    return [before + name for name in own if name.startswith(last)]


db_option = click.option("--db", **_DB_OPTION)
"""Adds `--db` and the argument `db: str | None`; a `--db` before the command counts, too."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""Adds `--json` and the argument `as_json: bool`."""

where_option = click.option(
    "--where",
    metavar="FILTER",
    shell_complete=complete_columns,
    help="Only those that match, e.g. 'preset=small and seed<5'.",
)
"""Adds `--where` and the argument `where: str | None`, a filter for `results_db.query.where.mask`."""

state_option = click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in State], case_sensitive=False),
    multiple=True,
    metavar="STATE",
    help=f"Only runs in these states: {', '.join(state.lower() for state in State)}.",
)
"""Adds `--state`, which may be repeated, and the argument `states: tuple[str, ...]`, in capitals."""

limit_option = click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="At most N.")
"""Adds `-n` and the argument `limit: int | None`."""


def terminal_width(*, err: bool = False) -> int | None:
    """The columns of the terminal; None if standard output (or error) is no terminal, so that nothing is cut."""
    stream = sys.stderr if err else sys.stdout
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None


def has_colours() -> bool:
    """Whether standard output is a terminal that shows colours, and NO_COLOR is not set."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def say(text: str, *, err: bool = False) -> None:
    """Prints text for people; a terminal gets it folded between words."""
    click.echo(folded(text, terminal_width(err=err)), err=err)


def ask(what: str, why: str, *, then: str) -> None:
    """Says what would be done and why it asks, and asks the question `then`.

    Raises:
        click.UsageError: standard input is no terminal.
        click.Abort: the answer is no.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{what}: {why}, and there is no terminal to ask; give -y")
    say(f"{what}: {why}", err=True)
    click.confirm(f"{then}?", abort=True, err=True)


class ConsoleGroup(click.Group):
    """A group that takes `--db` for its commands, and suggests the nearest name for an unknown command."""

    group_class = type  # a group inside this group is a ConsoleGroup, too

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--db"], expose_value=False, **_DB_OPTION))

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = not args or args[0].startswith("-") or self.get_command(ctx, args[0]) is not None
        if not known and not ctx.resilient_parsing:
            valid = self.list_commands(ctx)
            hint = nearest(args[0], valid)
            raise click.UsageError(
                f"unknown command '{args[0]}'{hint}; valid commands: {', '.join(valid)}", ctx
            )
        return super().resolve_command(ctx, args)


def run(
    command: click.Command,
    *,
    errors: tuple[type[Exception], ...] = (StoreError, FigureError),
    args: Sequence[str] | None = None,
) -> NoReturn:
    """Run a command and exit with the integer that it returns, else with 0; a user's mistake exits with 2.

    Args:
        command: the command; messages begin with its name.
        errors: exceptions that are the user's mistakes, printed as one line each. If an exception has the
            attribute `lines`, each line is printed as an error of its own.
        args: the command line; default: the arguments of this process.
    """
    # A listing makes many objects at once, and looking for cycles among them takes longer.
    gc.set_threshold(1_000_000)
    name = command.name or "python"
    _complete(command, name)
    if sys.stdout is None:
        sys.exit(_complain(name, "standard output is closed; redirect it to a file", code=CANNOT_WRITE))
    try:
        with command.make_context(name, list(sys.argv[1:] if args is None else args)) as context:
            returned = command.invoke(context)
        sys.stdout.flush()
        code = returned if isinstance(returned, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = BAD_INPUT
    except click.ClickException as error:
        code = _complain(name, _usage_message(error))
    except errors as error:
        code = _complain(name, *getattr(error, "lines", (str(error),)))
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)
        code = READER_GONE
    except OSError as error:
        if _output_works():
            raise
        _discard(sys.stdout)
        code = _complain(name, f"cannot write the output: {error.strerror}", code=CANNOT_WRITE)
    sys.exit(code)


def _complete(command: click.Command, name: str) -> None:
    """Answer the shell's question how to go on, and exit. The shell asks in a variable; see click's manual."""
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    if question := os.environ.get(variable):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(command, {}, name, variable, question))


def _output_works() -> bool:
    """Whether stdout accepts a line end. Flushing is no test: it succeeds once the unwritten text is lost."""
    try:
        click.echo()
    except OSError:
        return False
    return True


def _discard(stream: TextIO) -> None:
    # Python flushes the stream at exit, which would fail again, print an error and change the exit code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and context is not None:
        valid = sorted(name for option in context.command.params for name in option.opts if name[0] == "-")
        near = nearest(error.option_name, [name for name in error.possibilities or () if name != "--help"])
        message = f"unknown option '{error.option_name}'{near}; valid options: {', '.join(valid)}"
    return message + hint


def _complain(name: str, *messages: str, code: int = BAD_INPUT) -> int:
    try:
        for message in messages:
            say(f"{name}: error: {one_line(message)}", err=True)
    except OSError:  # the exit code remains
        _discard(sys.stderr)
    return code
