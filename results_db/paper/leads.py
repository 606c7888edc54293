"""In which order a network learns its states: the paper's learning order (section 3.1.1).

A trace `stateN` holds the pixel similarity of decoded state N with its true state; `state1` is the given board and
the last one the prediction that the network is trained on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SIMILARITY = 0.98
"""The similarity from which the paper counts a state as learned."""

Traces = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Name to (steps, values), equally long, as `Store.traces` gives them."""

_STATE = re.compile(r"state([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Lead:
    """How far before the final state another one is learned.

    Attributes:
        steps: final state's first step minus this state's; null where either was never learned.
        share: `steps` as a share of the final state's first step; null also where that is step 0.
    """

    steps: int | None
    share: float | None


def states(names: Iterable[str]) -> list[str]:
    """Those names of traces that are states', by the number of the state; `state1` is left out."""
    numbers = {int(match[1]) for match in map(_STATE.fullmatch, names) if match}
    return [f"state{number}" for number in sorted(numbers) if number > 1]


def first_steps(traces: Traces, *, similarity: float = SIMILARITY) -> dict[str, int | None]:
    """Per state, the first traced step at which it reaches the similarity; null if it never does.

    The order is that of the states, so that the last one is the final state.
    """
    return {name: _first(*traces[name], similarity=similarity) for name in states(traces)}


def leads(first: Mapping[str, int | None]) -> dict[str, Lead]:
    """Per state before the final one, how far it leads that. Takes what `first_steps` gives.

    A state that is learned after the final one has a negative lead.
    """
    if not first:
        return {}
    *earlier, final = first
    return {name: _lead(first[name], first[final]) for name in earlier}


def _first(steps: Sequence[int], values: Sequence[float], *, similarity: float) -> int | None:
    return next((step for step, value in zip(steps, values, strict=True) if value >= similarity), None)


def _lead(step: int | None, final: int | None) -> Lead:
    if step is None or final is None:
        return Lead(None, None)
    return Lead(final - step, (final - step) / final if final else None)
