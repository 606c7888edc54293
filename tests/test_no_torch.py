"""Commands of the login node answer at once: they never import torch, and `--help` imports nothing heavy."""

import subprocess
import sys

import pytest
from sweep_helpers import write_spec

pytestmark = pytest.mark.slow

SWEEP, RESULTS = "sweeps.cli.root", "results_db.cli.root"
CASES = [
    (SWEEP, ["--help"], 0),
    (SWEEP, ["launch", "--help"], 0),
    (SWEEP, ["list", "--json"], 0),
    (SWEEP, ["plan", "quick", "--db", "x.db"], 0),
    (SWEEP, ["launch", "quick", "--db", "x.db", "--dry-run"], 0),
    (SWEEP, ["status", "quick", "--db", "x.db", "--json"], 0),
    (SWEEP, ["plan", "s.yaml", "channels=4,8", "--db", "x.db"], 0),
    (SWEEP, ["plan", "nothing"], 2),
    (RESULTS, ["--help"], 0),
    (RESULTS, ["table", "--json"], 0),
    (RESULTS, ["runs", "--where", "gol=3"], 0),
]


def imported(module: str, arguments: list[str], *, folder, code: int) -> set[str]:
    """The top-level packages that the command imports, run in a process of its own."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('IMPORTED', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        f"sys.argv = ['command', *{arguments!r}]\n"
        f"from {module} import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("IMPORTED ")]
    return set(line.split()[1:])


@pytest.mark.parametrize(("module", "arguments", "code"), CASES)
def test_no_torch(tmp_path, module, arguments, code) -> None:
    write_spec(tmp_path)
    names = imported(module, arguments, folder=tmp_path, code=code)
    assert "click" in names  # so the list is not empty by mistake
    assert "torch" not in names
    if "--help" in arguments:
        assert not names & {"pandas", "numpy", "scipy", "sqlalchemy", "alembic", "hydra", "omegaconf", "rich"}
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_the_workers_entry_imports_no_torch(tmp_path) -> None:
    """Launchers import it. Only its `main` loads the worker."""
    script = "import sys, jobs.entry, slurm.job, slurm.local, sweeps.launch.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0
