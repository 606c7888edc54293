"""`imagine-results` called in this process, as its console script calls it."""

import subprocess
import sys

import pytest

from results_db import console
from results_db.cli.root import results


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        console.run(results, args=args)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def output(capsys: pytest.CaptureFixture[str], *args: str, says: str = "") -> str:
    """The standard output of a call that succeeds and says only this on standard error."""
    code, out, err = call(capsys, *args)
    assert (code, err.strip()) == (0, says)
    return out


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def imported_by(*args: str) -> set[str]:
    """The modules that a command imports, run as `python -m results_db.cli`."""
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)))\n"
        "runpy.run_module('results_db.cli', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return set(done.stderr.split())
