"""`--help` of every command: it fits a terminal of 80 columns and ends with an example that works."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from jobs.evaluate import cli as evaluate
from results_db.cli.root import results
from slurm.testbed.cli import cli as slurm_testbed
from sweeps.cli.root import cli as sweep


def leaves(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """The commands below this one, by the words that call them."""
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, (*words, name))


COMMANDS = dict(
    pair
    for program, command in (
        ("imagine-sweep", sweep),
        ("imagine-results", results),
        ("python -m jobs.evaluate", evaluate),
        ("python -m slurm.testbed", slurm_testbed),
    )
    for pair in leaves(command, (program,))
)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_and_has_an_example_that_parses(words) -> None:
    said = CliRunner().invoke(COMMANDS[words], ["--help"], prog_name=words, terminal_width=80)
    assert max(map(len, said.output.splitlines())) <= 80
    (example,) = re.findall(r"^ *Example: (.+)$", said.output, re.MULTILINE)
    called = example.removeprefix('eval "$(').removesuffix(')"')
    assert called.startswith(words)
    COMMANDS[words].make_context(words, shlex.split(called.removeprefix(words)))
