"""What every console command shares: `--db` before or after the command, and errors of one line.

Imports nothing heavy, so that `--help` answers at once; commands import what they need when they run.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import click

from results_db.contract import State, StoreError
from results_db.text import nearest, one_line

F = TypeVar("F", bound=Callable[..., Any])

SOME_FAILED = 1
"""Exit code: the work is over, and some runs failed or are missing."""

BAD_INPUT = 2
"""Exit code: a person has something to correct."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""

READER_GONE = 128 + signal.SIGPIPE
"""Exit code when whoever read the output stopped, as `head` does."""

CANNOT_WRITE = 74
"""Exit code when the output could not be written, as to a full disk: EX_IOERR of sysexits.h."""

_DB = "results_db.console.db"
_DB_HELP = (
    "Store: a URL, or a path that ends in .db. [IMAGINE_DB; default: sqlite:///outputs/imagine.db] "
    "IMAGINE_FILES names the folder for the weights of a server's runs."
)


def _shared_db(context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    # A context's meta is shared with all contexts below it, so the group's --db reaches its commands.
    if value is not None:
        context.meta[_DB] = value
    shared: str | None = context.meta.get(_DB)
    return shared


def db_option(command: F) -> F:
    """Adds `--db` and the argument `db: str | None`, which a `--db` before the command fills as well."""
    return click.option("--db", metavar="URL|PATH", callback=_shared_db, help=_DB_HELP)(command)


def json_option(command: F) -> F:
    """Adds `--json` and the argument `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def where_option(command: F) -> F:
    """Adds `--where` and the argument `where: str | None`, a text for `results_db.query.where.parse`."""
    return click.option("--where", metavar="FILTER", help="Only these, e.g. 'ae=true and channels<=20'.")(
        command
    )


def state_option(command: F) -> F:
    """Adds `--state`, which may be repeated, and the argument `states: tuple[str, ...]`, in capitals."""
    choice = click.Choice([str(state) for state in State], case_sensitive=False)
    return click.option("--state", "states", type=choice, multiple=True, help="Only these states.")(command)


def limit_option(command: F) -> F:
    """Adds `-n` and the argument `limit: int | None`."""
    return click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="At most N.")(command)


class ConsoleGroup(click.Group):
    """Commands that take `--db` from their group, too; an unknown command is met with the nearest."""

    group_class = type  # groups below are of this kind as well

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--db"], metavar="URL|PATH", callback=_shared_db, expose_value=False, help=_DB_HELP)
        )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name.

        Raises:
            click.UsageError: there is no such command.
        """
        valid = self.list_commands(ctx)
        if args and args[0] not in valid and not args[0].startswith("-"):
            hint = nearest(args[0], valid)
            raise click.UsageError(
                f"unknown command '{args[0]}'{hint}; valid commands: {', '.join(valid)}", ctx
            )
        return super().resolve_command(ctx, args)


def run(
    command: click.Command,
    *,
    errors: tuple[type[Exception], ...] = (StoreError,),
    args: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command and exits: with the integer that it returns (else 0), or with one line of error.

    Args:
        command: the command; its name is the program's name in messages.
        errors: the exceptions that are a person's mistake: one line, exit code 2. One that has `lines` is as many
            mistakes.
        args: the command line; default: this process's.
    """
    sys.exit(_exit_code(command, errors=errors, args=args))


def _exit_code(
    command: click.Command, *, errors: tuple[type[Exception], ...], args: Sequence[str] | None
) -> int:
    name = command.name or "python"
    if sys.stdout is None:
        return _complain(name, "standard output is closed; redirect it to a file", code=CANNOT_WRITE)
    try:
        with command.make_context(name, list(sys.argv[1:] if args is None else args)) as context:
            code = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return BAD_INPUT
    except click.ClickException as error:
        return _complain(name, _usage_message(error))
    except errors as error:
        return _complain(name, *getattr(error, "lines", (str(error),)))
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)
        return READER_GONE
    except OSError as error:
        if _output_works():
            raise
        _discard(sys.stdout)
        return _complain(name, f"cannot write the output: {error.strerror}", code=CANNOT_WRITE)
    return code if isinstance(code, int) else 0


def _output_works() -> bool:
    """Whether stdout takes a line end: what was written before may be lost, so that a flush alone succeeds."""
    try:
        click.echo()
    except OSError:
        return False
    return True


def _discard(stream: TextIO) -> None:
    # Python flushes once more on its way out, which would fail again, print that and change the exit code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _complain(name: str, *messages: str, code: int = BAD_INPUT) -> int:
    try:
        for message in messages:
            click.echo(f"{name}: error: {one_line(message)}", err=True)
    except OSError:  # the exit code still tells
        _discard(sys.stderr)
    return code
