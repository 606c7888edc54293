"""The wheel holds every file of the packages, and both commands run from it in another folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jobs.pack

ROOT = Path(jobs.pack.__file__).parent.parent
PACKAGES = ("jobs", "imagination", "sweeps", "results_db", "slurm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not run from a checkout"),
]


def run(*command: str, folder: Path, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=180, check=False, **options
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), folder=folder
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_five_packages(wheel) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and path.suffix in (".py", ".typed", ".yaml", ".mako", ".lark", ".conf"):
                assert name in held
    # Named, so that the test also fails if the tree itself lost them.
    assert {
        "sweeps/quick.yaml",
        "results_db/store/migrations/env.py",
        "results_db/store/migrations/script.py.mako",
        "results_db/store/migrations/versions/0001_initial.py",
        "jobs/entry.py",
        "slurm/local.py",
        "imagination/life/config.py",
        *(f"{package}/py.typed" for package in PACKAGES),
    } <= held
    tops = {name.split("/")[0] for name in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder that the wheel is installed in, and an environment that finds no other copy of the packages."""
    folder = tmp_path_factory.mktemp("installed")
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder),
        str(wheel), folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Dependencies come from this environment's site-packages. As folders on PYTHONPATH their .pth files are not read,
    # so the editable install stays out. The commands run with -S, which skips site-packages but keeps PYTHONPATH.
    dependencies = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    path = os.pathsep.join([str(folder), *dependencies])
    return folder, {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def command(installed, name: str, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run an installed command by its entry point."""
    target, environment = installed
    script = (target / "bin" / name).read_text()
    return run(sys.executable, "-S", "-c", script, *arguments, folder=folder, env=environment)


def test_the_commands_are_those_of_the_wheel(installed, tmp_path) -> None:
    target, environment = installed
    script = "import sweeps.cli.root, results_db.cli.root, jobs.entry; print(sweeps.cli.root.__file__)"
    done = run(sys.executable, "-S", "-c", script, folder=tmp_path, env=environment)
    assert done.stdout.strip() == str(target / "sweeps" / "cli" / "root.py"), done.stderr


def test_plan_a_shipped_spec(installed, tmp_path) -> None:
    (tmp_path / "jobs").mkdir()  # a folder of a package's name must not hide the package
    done = command(installed, "imagine-sweep", "plan", "quick", "--json", "--db", "a.db", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["total"] == said["to_submit"] > 0
    assert said["name"] == "quick"
    listed = command(installed, "imagine-sweep", "list", "--json", folder=tmp_path)
    (quick,) = [row for row in json.loads(listed.stdout) if row["name"] == "quick"]
    assert quick["file"] == str(installed[0] / "sweeps" / "quick.yaml")


def test_an_empty_table(installed, tmp_path) -> None:
    done = command(installed, "imagine-results", "table", "--json", folder=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_launch_writes_its_store_with_the_wheels_migrations(installed, tmp_path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "experiment: life_state\n"
        "base: {gol: 1, model_t: 1, channels: 2, step_layers: 1, board: 5, batch: 4, max_steps: 4, eval_every: 2, "
        "trace_every: 2, eval_board: 5, eval_sequences: 4}\n"
    )
    target, environment = installed
    # The launch starts its workers as `python -m jobs.entry`: they inherit PYTHONPATH, but would not inherit -S.
    script = (target / "bin" / "imagine-sweep").read_text()
    launched = run(
        sys.executable, "-c", script, "launch", "s.yaml", "--db", "a.db", folder=tmp_path, env=environment
    )
    assert launched.returncode == 0, launched.stderr
    table = command(
        installed, "imagine-results", "table", "--json", "--group", "gol", "--db", "a.db", folder=tmp_path
    )
    (row,) = json.loads(table.stdout)
    assert (row["gol"], row["run"]) == (1, 1)
