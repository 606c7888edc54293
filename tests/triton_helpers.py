"""Triton's kernels: on a GPU, or without one in Triton's interpreter, which `conftest.py` chooses."""

import pytest
import torch

from imagination.training import gpu, native
from imagination.ways import TRITON, VARIABLE

pytest.importorskip("triton", reason="Triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def by_triton(monkeypatch):
    """Chooses Triton from its call on; before, PyTorch's own operations."""
    monkeypatch.setattr(native, "library", lambda: None)

    def choose():
        monkeypatch.setenv(VARIABLE, TRITON)
        assert gpu.takes(torch.zeros(1, device=DEVICE))

    return choose
