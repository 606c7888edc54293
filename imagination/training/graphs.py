"""A training step as one CUDA graph. On a CPU, or unless the user asks for graphs, a step is an ordinary call."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from imagination.schema import RunConfig
from imagination.training import gpu
from imagination.ways import GRAPHS

log = logging.getLogger(__name__)

Step: TypeAlias = Callable[[bool], Tensor | None]

_WARM_UP = 3
"""Ordinary calls before a step is captured: in them, libraries choose and build their kernels."""


def rows(live: int, device: torch.device) -> int:
    """How many rows a pack keeps for its live runs.

    With graphs it is the next power of two, because every number of rows needs graphs of its own. The rows of ended
    runs go on training, and their results are ignored.
    """
    return 1 << (live - 1).bit_length() if keeps_rows(device) else live


def keeps_rows(device: torch.device) -> bool:
    """Whether the rows of ended runs stay for others. Elsewhere each pack has its runs in order, for equal bits."""
    return _captures(device)


def pairs(old: object, new: object) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of two objects of equal structure, side by side.

    A graph that was captured with one of them computes with the other once the tensors are copied. So nothing else may
    differ, except for configs: what a step reads from them is a tensor, or an attribute of its own, or a key that is
    equal in all runs of a pack.

    Raises:
        ValueError: something else differs.
    """
    if type(old) is not type(new):
        raise ValueError(f"{type(old).__name__} and {type(new).__name__}")
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise ValueError(f"tensors of {tuple(old.shape)} and {tuple(new.shape)}")
        yield old, new
        return
    if isinstance(old, RunConfig):
        return
    mine, other = _parts(old), _parts(new)
    if mine is None or other is None:
        if old != new:
            raise ValueError(f"{old!r} and {new!r}")
        return
    if list(mine) != list(other):
        raise ValueError(f"parts {list(mine)} and {list(other)}")
    for name, part in mine.items():
        yield from pairs(part, other[name])


def _parts(thing: object) -> Mapping[Any, object] | None:
    """What it consists of; None: it is compared as a whole."""
    if isinstance(thing, Mapping):
        return thing
    if isinstance(thing, list | tuple):
        return dict(enumerate(thing))
    # Others, such as functions and numbers, hold more than their attributes.
    return vars(thing) if type(thing).__new__ is object.__new__ and hasattr(thing, "__dict__") else None


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and gpu.uses(GRAPHS)


class Graphs:
    """The graphs of a pack's step, which is called with or without traced values.

    Args:
        device: the device of all tensors.

    Attributes:
        is_capturing: whether a call only notes the device's work, and nothing runs.
        has_failed: whether no graph could be captured, so all further steps are ordinary calls.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_capturing = self.has_failed = False
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
            self.is_capturing = True
            try:
                self._graphs[traced] = _captured(step, traced)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("training goes on without CUDA graphs: %s", str(error).strip().splitlines()[0])
                self._captures = self.is_capturing = False
                self.has_failed = True
                return step(traced)
            finally:
                self.is_capturing = False
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
