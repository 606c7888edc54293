"""The layers contract can fail: a wrong import anywhere, inside a function or through a chain, is found."""

import os
import shutil
import subprocess
import sys
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
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(
        [command, "--no-cache"], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def test_the_tree_keeps_its_contracts(tree) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("sweeps/launch/plan.py", "import torch", "torch"),
        ("sweeps/launch/plan.py", "def late():\n    import torch", "torch"),
        ("slurm/local.py", "import jobs.worker", "torch"),  # by a chain
        ("jobs/entry.py", "def late():\n    from jobs import worker", "torch"),
        ("results_db/query/where.py", "import imagination.metrics", "imagination"),
        ("imagination/recorder.py", "import results_db.contract", "results_db"),
        ("jobs/pack.py", "import sweeps.launch.plan", "sweeps"),
        ("jobs/recording.py", "import slurm.local", "slurm"),
    ],
)
def test_a_wrong_import_breaks_a_contract(tree, file, line, broken) -> None:
    path = tree / file
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    try:
        done = lint(tree)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
    assert broken in done.stdout.split("Broken contracts")[1]
