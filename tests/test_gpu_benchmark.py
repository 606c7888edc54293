"""benchmarks/gpu.py, so that it cannot fail for a silly reason where a GPU is at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def ran(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    done = ran()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "there is no GPU that torch can use here; --cpu tries every part at tiny sizes\n"


@pytest.mark.slow
@pytest.mark.fault
def test_every_part_runs_at_tiny_sizes(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    out = tmp_path / "results.json"
    done = ran("--cpu", "--out", str(out))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "no time was left" not in done.stdout
    assert not done.stderr
    names = " ".join(row["name"] for row in json.loads(out.read_text()))
    for part in (
        "next boards",
        "one after another",
        "15,000 run-steps/s",
        "in bfloat16, matrix product",
        "adversary",
        "one alone",
        "processes",
        "evaluation",
        "step network",
    ):
        assert part in names
