"""README and docs say what is true: their specs load, their commands and options exist."""

import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.evaluate import cli as evaluate
from results_db.cli.root import results
from results_db.columns import METRIC_COLUMNS
from slurm.testbed.cli import cli as slurm_testbed
from sweeps.cli.root import cli as sweep
from sweeps.spec.expand import expand
from sweeps.spec.load import load, shipped

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {page.name: page.read_text() for page in PAGES}
SPECS = [block for text in TEXT.values() for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
PROGRAMS = {
    "imagine-sweep": sweep,
    "imagine-results": results,
    "jobs.evaluate": evaluate,
    "slurm.testbed": slurm_testbed,
}
COMMANDS = sorted(
    {
        line.strip().removeprefix("$ ").split("  #")[0].split(" | ")[0]
        for text in TEXT.values()
        for line in text.splitlines()
        if re.match(
            r"(    |\$ )(\$ )?(imagine-(sweep|results)|python -m (jobs\.evaluate|slurm\.testbed)) ", line
        )
    }
)


def test_nothing_is_left_to_fill_in():
    for name, text in TEXT.items():
        assert not re.search(r"@[A-Z]+@|TODO|TBD", text), name


def test_there_is_something_to_check():
    assert len(SPECS) >= 2
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("block", SPECS)
def test_specs_in_the_docs_expand(block, tmp_path):
    for path in shipped().values():
        (tmp_path / path.name).write_text(path.read_text())
    file = tmp_path / "spec.yaml"
    file.write_text(block)
    assert expand(load(file)).runs


def resolve(words):
    """The command that these words name, and the words after it."""
    program, *rest = words
    if program == "python":
        program, rest = rest[1], rest[2:]
    command = PROGRAMS[program]
    while isinstance(command, click.Group) and rest:
        assert rest[0] in command.commands, f"{program} has no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_the_docs_parse(line):
    command, rest = resolve(shlex.split(line))
    command.make_context(line, rest)  # a usage error if an option or an argument does not exist


def test_every_metric_is_explained():
    assert all(f"`{name}`" in TEXT["experiments.md"] for name in METRIC_COLUMNS)


def test_make_targets_in_the_docs_exist():
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for text in TEXT.values()
        for name in re.findall(r"(?:^    |`|\$ )make ([a-z-]+)", text, re.MULTILINE)
    }
    assert len(named) >= 5
    assert named <= made


def test_pages_that_are_linked_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", TEXT[page.name]):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
