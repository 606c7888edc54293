"""Triton's kernels are built for real GPUs, which needs none: a mistake in them shows before a GPU is at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.slow
@pytest.mark.fault
def test_every_kernel_is_built_for_an_a100_and_an_h100(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_build.py"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "built\n", done.stderr[-3000:]
