"""The import contracts can fail: they find a wrong import anywhere, inside a function or through a chain."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jobs.pack

ROOT = Path(jobs.pack.__file__).parent.parent
PACKAGES = ("jobs", "imagination", "sweeps", "results_db", "slurm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not run from a checkout"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(tree: Path) -> "subprocess.CompletedProcess[str]":
    command = str(Path(sys.executable).with_name("lint-imports"))
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}  # a name on one line
    return subprocess.run(
        [command, "--no-cache"], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def verdicts(said: str) -> dict[str, bool]:
    """Contract to whether it is kept."""
    return {name: word == "KEPT" for name, word in re.findall(r"^(.+?) (KEPT|BROKEN)", said, re.MULTILINE)}


def test_the_tree_keeps_its_contracts(tree) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert verdicts(done.stdout) == {contract["name"]: True for contract in contracts}


PACKAGES_CONTRACT = "Packages import only what stands to their right"
TORCH = "No torch on the login node"
WITHOUT_CODE = "Results are read without the code of an experiment"


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("sweeps/spec/expand.py", "import torch", TORCH),
        ("sweeps/spec/expand.py", "def late():\n    import torch", TORCH),
        ("slurm/local.py", "import jobs.worker", TORCH),  # through a chain
        ("jobs/entry.py", "def late():\n    from jobs import worker", TORCH),
        ("results_db/query/where.py", "import imagination.life.paper", WITHOUT_CODE),
        ("results_db/cli/own_commands.py", "def late():\n    import imagination.life.figures", WITHOUT_CODE),
        ("imagination/life/figures.py", "import imagination.life.rules", TORCH),
        ("results_db/store/sql.py", "import jobs.identity", PACKAGES_CONTRACT),
        ("imagination/recorder.py", "import results_db.contract", PACKAGES_CONTRACT),
        ("jobs/pack.py", "import sweeps.spec.expand", PACKAGES_CONTRACT),
        ("jobs/recording.py", "import slurm.local", PACKAGES_CONTRACT),
        ("sweeps/spec/load.py", "import sweeps.cli.root", "The floors of sweeps"),
        ("slurm/client/parse.py", "import slurm.submit.dispatch", "The floors of slurm"),
        ("results_db/store/sql.py", "import results_db.views.tables", "The floors of results_db"),
        ("results_db/query/gate.py", "import results_db.spool.records", "The floors of results_db"),
        ("jobs/pack.py", "def late():\n    import jobs.entry", "The floors of jobs"),
        ("imagination/recorder.py", "import imagination.training.loop", "The floors of imagination"),
        ("imagination/life/rules.py", "import imagination.life.networks", "The floors of life"),
        ("imagination/chess/boards.py", "import imagination.chess.network", "The floors of chess"),
        ("imagination/chess/figures.py", "def late():\n    import torch", TORCH),
    ],
)
def test_a_wrong_import_breaks_its_contract(tree, file, line, contract) -> None:
    path = tree / file
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    try:
        done = lint(tree)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    (kept,) = [kept for name, kept in verdicts(done.stdout).items() if name.startswith(contract)]
    assert not kept
