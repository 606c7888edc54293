"""README and docs are true: specs load, commands and options exist, links resolve, and lists match the code."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from imagination import registry
from jobs.evaluate import cli as evaluate
from results_db.cli.root import results
from results_db.contract import FAILURES, INTERRUPTED, OUTCOMES, State
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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SPECS = [
    block
    for name, text in TEXT.items()
    if name != "own-experiment.md"  # of a package that is not installed here; test_own_experiment.py tests it
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
]
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


@pytest.mark.slow
def test_the_pages_show_what_commands_say_of_the_store_that_comes_with_the_project():
    pages = [str(page) for page in PAGES]
    command = [
        sys.executable,
        "-m",
        "cogapp",
        "--check",
        "--diff",
        "-I",
        "docs",
        "-p",
        "from shown import *",
        *pages,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}; write them anew with: make docs"


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
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{program} has no command {rest[0]}"
        command, rest = found, rest[1:]
    return command, rest


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_the_docs_parse(line):
    command, rest = resolve(shlex.split(line))
    command.make_context(line, rest)  # a usage error if an option or an argument does not exist


def test_every_metric_is_explained():
    explained = TEXT["experiments.md"] + TEXT["chess.md"]
    assert all(f"`{name}`" in explained for name in registry.metrics())


def test_every_spec_that_ships_is_explained():
    assert all(f"`{name}`" in TEXT["spec.md"] for name in shipped())


def test_make_targets_in_the_docs_exist():
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for text in TEXT.values()
        for name in re.findall(r"(?:^    |`|\$ )make ([a-z-]+)", text, re.MULTILINE)
    }
    assert len(named) >= 5
    assert named <= made


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", TEXT[page.name]):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), f"{target}#{anchor}"


def test_readme_is_one_page():
    """Without what cog writes into it."""
    lines = re.sub(r"(?s)\]\]\] -->.*?<!-- \[\[\[end", "", TEXT["README.md"]).splitlines()
    assert len(lines) <= 155
    assert max(map(len, lines)) <= 108


def test_every_environment_variable_is_listed_once():
    code = "".join(path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    read = set(re.findall(r"\bIMAGINE_[A-Z_]+\b", code))
    read |= set(re.findall(r'(?:environ(?:\.get\(|\[)|envvar=)"([A-Z_]+)"', code)) - {"PATH"}
    assert len(read) >= 8
    page = TEXT["configuration.md"]
    assert {name for name in read if f"`{name}`" not in page} == set()
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)]
    assert sorted(listed) == sorted(set(listed))
    assert {name for name in read if name.startswith("IMAGINE_")} == {
        name for name in listed if name.startswith("IMAGINE_")
    }


def test_the_glossary_has_every_state_once():
    rows = re.findall(
        r"^\| (\w+) \| ([A-Z_, ]+?)(?:, or not in the store)? \|", TEXT["glossary.md"], re.MULTILINE
    )
    states = {status: [State(word) for word in words.split(", ")] for status, words in rows}
    assert sorted(state for group in states.values() for state in group) == sorted(State)
    assert set(states["failed"]) == FAILURES
    assert set(states["interrupted"]) == INTERRUPTED


def test_the_glossary_has_the_outcomes_and_gates():
    page = TEXT["glossary.md"]
    (outcomes,) = re.findall(r"^\| outcome \| (.+) \|$", page, re.MULTILINE)
    assert re.findall(r"`(\w+)`", outcomes) == list(OUTCOMES)
    (gate,) = re.findall(r"^\| gate \| (.+) \|$", page, re.MULTILINE)
    assert {name: float(value) for value, name in re.findall(r"([\d.]+) for `(\w+)`", gate)} == {
        one.name: one.gate.least for one in registry.own() if one.gate
    }


def test_the_architecture_page_has_the_floors_of_the_contracts():
    (block,) = re.findall(r"^(    sweeps        .+?)\n\n", TEXT["architecture.md"], re.MULTILINE | re.DOTALL)
    floors = dict(line.split(maxsplit=1) for line in re.sub(r"\n\s+>", " >", block).splitlines())
    contracts = {
        contract["containers"][0].rpartition(".")[2]: " > ".join(contract["layers"])
        .replace("(", "")
        .replace(")", "")
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if "containers" in contract
    }
    assert floors == contracts


ELSEWHERE = ("imagination/heist/", "jobs/JOB_NAME", "jobs/JOB_NAME/held.json")
"""Paths of environments that do not exist yet, and of a dispatch beside a store."""


def test_paths_in_the_docs_exist():
    for name, text in TEXT.items():
        for path in re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|docs|benchmarks)/[\w./*-]*)`", text):
            assert path in ELSEWHERE or list(ROOT.glob(path)), f"{name} names {path}"


def test_the_faults_name_tests_that_exist():
    """`test_x.py::test_y`; `::test_z` after it is of the same file."""
    file = ""
    named = re.findall(r"`(test_\w+\.py)?(?:::)?(test_\w+)?`", (ROOT / "docs/reliability.md").read_text())
    assert sum(bool(test) for _, test in named) > 40
    for own, test in named:
        file = own or file
        if file:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text() or not test, (file, test)


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert re.findall(r"^## (\S+)", TEXT["CHANGELOG.md"], re.MULTILINE)[0] == version
    assert re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]


def test_commits_and_hosted_ci_run_what_make_runs():
    assert "entry: make lint\n" in (ROOT / ".pre-commit-config.yaml").read_text()
    assert "run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
