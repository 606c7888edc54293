"""What all console commands share: `--db` on either side, errors in one line, exit codes, pipes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from results_db import console
from results_db.contract import StoreError


class OtherError(Exception):
    pass


@click.group("tool", cls=console.ConsoleGroup)
def tool() -> None:
    """A tool."""


@tool.command()
@console.db_option
@console.json_option
@console.where_option
@console.state_option
@console.limit_option
def echo(
    *, db: str | None, as_json: bool, where: str | None, states: tuple[str, ...], limit: int | None
) -> None:
    click.echo(f"{db} {as_json} {where} {states} {limit}")


@tool.group(cls=console.ConsoleGroup)
def inner() -> None:
    """Commands one level down."""


@inner.command()
@console.db_option
def deep(*, db: str | None) -> None:
    click.echo(db)


RAISES = {
    "store": StoreError("no such\nthing"),
    "other": OtherError("other"),
    "interrupt": KeyboardInterrupt(),
    "file": FileNotFoundError("/nowhere"),
    "bug": ZeroDivisionError(),
}


@tool.command()
@click.argument("how")
def end(how: str) -> int | None:
    if how in RAISES:
        raise RAISES[how]
    if how == "exit":
        click.get_current_context().exit(3)
    return 1 if how == "one" else None


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        console.run(tool, errors=(StoreError, OtherError), args=args)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.mark.parametrize(
    ("args", "db"),
    [
        (["echo"], "None"),
        (["--db", "a.db", "echo"], "a.db"),
        (["echo", "--db", "a.db"], "a.db"),
        (["--db", "a.db", "echo", "--db", "b.db"], "b.db"),
        (["--db=a.db", "inner", "deep"], "a.db"),
        (["inner", "--db=a.db", "deep"], "a.db"),
        (["inner", "deep", "--db=a.db"], "a.db"),
    ],
)
def test_db_before_or_after_the_command(capsys: pytest.CaptureFixture[str], args: list[str], db: str) -> None:
    code, out, _ = run(capsys, *args)
    assert (code, out.split()[0]) == (0, db)


def test_the_shared_options(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["echo", "--json", "--where", "gol=3", "--state", "failed", "--state", "LOST", "-n", "5"]
    assert run(capsys, *args)[1] == "None True gol=3 ('FAILED', 'LOST') 5\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["ehco"], "unknown command 'ehco' (did you mean 'echo'?); valid commands: echo, end, inner"),
        (["inner", "deeep"], "(did you mean 'deep'?)"),
        (
            ["echo", "--wher", "x=1"],
            "unknown option '--wher' (did you mean '--where'?); valid options: --db, --json,",
        ),
        (
            ["inner", "deep", "--where", "x=1"],
            "unknown option '--where'; valid options: --db; see 'tool inner deep",
        ),
        (["--bd", "x", "echo"], "--db"),
        (["echo", "--state", "broken"], "is not one of"),
        (["echo", "-n", "0"], "0"),
        (["echo", "-n", "many"], "many"),
        (["echo", "extra"], "extra"),
        (["end"], "HOW"),
        (["end", "store"], "tool: error: no such thing\n"),
        (["end", "other"], "tool: error: other\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("tool: error: ")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("how", "kind"), [("bug", ZeroDivisionError), ("file", FileNotFoundError)])
def test_a_bug_keeps_its_traceback(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        console.run(tool, args=["end", how])


@pytest.mark.parametrize(("how", "code"), [("nothing", 0), ("one", 1), ("exit", 3), ("interrupt", 130)])
def test_exit_codes(capsys: pytest.CaptureFixture[str], how: str, code: int) -> None:
    assert run(capsys, "end", how) == (code, "", "")


def test_help_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert "Usage: tool" in out
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "Usage: tool" in err


WRITER = """
import click
from results_db import console

@click.command("writer")
def writer():
    for n in range(100_000):
        click.echo(f"line {n}")

console.run(writer)
"""


def test_a_reader_that_stops_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=30)) == ("", 141)


def test_a_reader_that_is_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    assert ended(SHORT, stdout=write) == (141, "")
    os.close(write)


def ended(script: str, **options: Any) -> tuple[int, str]:
    """The exit code and the errors of a Python script."""
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, check=False, **options
    )
    return done.returncode, done.stderr


# A short output stays in the buffer and fails again; a long one is lost at the first try.
SHORT = WRITER.replace("100_000", "1")
LONG = SHORT.replace('f"line {n}"', '"x" * 1_000_000')
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, where writes fail")


@needs_full
@pytest.mark.parametrize("script", [WRITER, SHORT, LONG])
def test_an_output_that_cannot_be_written(script: str) -> None:
    with Path("/dev/full").open("w") as full:
        assert ended(script, stdout=full) == (
            74,
            "writer: error: cannot write the output: No space left on device\n",
        )


@needs_full
def test_an_error_that_cannot_be_written_keeps_its_exit_code() -> None:
    script = WRITER.replace("for n in range(100_000):\n", "raise click.UsageError('bad')\n").replace(
        '        click.echo(f"line {n}")', ""
    )
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, "-c", script], stderr=full, check=False).returncode == 2


def test_a_closed_output() -> None:
    command = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, WRITER]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        74,
        "writer: error: standard output is closed; redirect it to a file\n",
    )
