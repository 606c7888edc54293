"""A training step as one CUDA graph. On a CPU, or unless the user asks for graphs, a step is an ordinary call."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from imagination.training import gpu

log = logging.getLogger(__name__)

Step: TypeAlias = Callable[[bool], Tensor | None]

_WARM_UP = 3
"""Ordinary calls before a step is captured: in them, libraries choose and build their kernels."""


def rows(live: int, device: torch.device) -> int:
    """How many rows a pack keeps for its live runs.

    With graphs it is the next power of two, because every number of rows needs graphs of its own. The rows of ended
    runs go on training, and their results are ignored.
    """
    return 1 << (live - 1).bit_length() if _captures(device) else live


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and gpu.uses(gpu.GRAPHS)


class Graphs:
    """The graphs of a pack's step, which is called with or without traced values.

    Args:
        device: the device of all tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._captures = _captures(device)
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor | None]] = {}
        self._calls: Counter[bool] = Counter()

    def run(self, step: Step, *, traced: bool) -> Tensor | None:
        """One step. A returned tensor is valid until the next call.

        Args:
            step: the device's work, always the same. It reads and changes only tensors that stay where they are, and
                never waits for the device.
            traced: its argument.
        """
        if not self._captures:
            return step(traced)
        self._calls[traced] += 1
        if self._calls[traced] <= _WARM_UP:
            return _aside(step, traced)
        if traced not in self._graphs:
            try:
                self._graphs[traced] = _captured(step, traced)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("training goes on without CUDA graphs: %s", str(error).strip().splitlines()[0])
                self._captures = False
                return step(traced)
        graph, found = self._graphs[traced]
        graph.replay()
        return found


def _aside(step: Step, traced: bool) -> Tensor | None:
    """An ordinary call on another stream, as a capture needs it before."""
    usual, other = torch.cuda.current_stream(), torch.cuda.Stream()
    other.wait_stream(usual)
    with torch.cuda.stream(other):
        found = step(traced)
    usual.wait_stream(other)
    return found


def _captured(step: Step, traced: bool) -> tuple[torch.cuda.CUDAGraph, Tensor | None]:
    graph = torch.cuda.CUDAGraph()
    # Another thread delivers results meanwhile, and may do as it likes.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step(traced)
    return graph, found
