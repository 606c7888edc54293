"""The stored boards of a run: which sequences to show, their scores, and the true states that boards match."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagination.figures import Boards, FigureError, Stored

Array = NDArray[Any]

RANKS = {"best": -3, "median": -2, "worst": -1}
"""The last rows of a sample, chosen by their score; the rows before them are the first sequences."""

PICKS = (*RANKS, "all", "first")
"""The words that pick sequences; `all` is the three ranks."""

_DECODERS = ("plain", "adversarial")
_ARRAYS = ("decoded", "truth", "score", "index")
_MATCH_PERCENT = 95
"""Boards match if at least this share of their pixels is equal (paper, Eq. 1)."""


@dataclass(frozen=True)
class Picked:
    """A sequence to show.

    Attributes:
        name: `best`, `median`, `worst`, or empty for a sequence picked by its place.
        index: its number in the evaluation set.
        truth: 0/1 `[m, H, W]`, the true states s_1 to s_m.
        decoded: decoder (`plain`, `adversarial`) to float `[T + 1, H, W]`, from h_0 to h_T; a cell is alive above .5.
        scores: decoder to metric (`life_state`) or correlation (`life_count`); null where undefined.
    """

    name: str
    index: int
    truth: Array
    decoded: Mapping[str, Array]
    scores: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """The sequence for `--json`: its rank, its number, and its score with each decoder."""
        return {"pick": self.name or None, "index": self.index, "scores": self.scores}


class Kind(Enum):
    """What a note says about its board."""

    MATCH = "it matches a true state"
    OTHER = "it is nearest to this true state"
    OUTSIDE = "the score leaves it out"


@dataclass(frozen=True)
class Note:
    """A few words under a decoded board, in matplotlib's mathtext, on one or more lines."""

    text: str
    kind: Kind


def read(run: Stored) -> dict[str, dict[str, Array]]:
    """The arrays of each decoder's sample, the plain decoder first.

    Raises:
        FigureError: the run has no sample, or a sample is damaged or of an older version.
    """
    found = {name: arrays for name in _DECODERS if (arrays := _arrays(run, name)) is not None}
    if not found:
        state = f"{run.state} ({run.outcome})" if run.outcome else run.state
        raise FigureError(
            f"run {run.name} is {state} and has no decoded boards: they are stored when a run ends without diverging; "
            "see imagine-results runs --state COMPLETED"
        )
    return found


def pick(arrays: Mapping[str, Mapping[str, Array]], wanted: str) -> list[Picked]:
    """The sequences to show.

    If a run has no scores, its sequences have no ranks, and the first sequences are shown instead. All decoders hold
    the same sequences.

    Raises:
        FigureError: `wanted` is neither one of `PICKS` nor the number of a stored sequence.
    """
    index = [int(number) for number in next(iter(arrays.values()))["index"]]
    ranks = list(RANKS) if wanted == "all" else [wanted]
    if set(ranks) <= set(RANKS):
        scores = [found["score"][list(RANKS.values())] for found in arrays.values()]
        if all(np.isnan(score).any() for score in scores):
            return [_picked(arrays, row) for row in range(len(ranks))]
        return [_picked(arrays, RANKS[name], name=name) for name in ranks]
    if wanted == "first":
        return [_picked(arrays, 0)]
    if wanted.isdecimal() and int(wanted) in index:
        return [_picked(arrays, index.index(int(wanted)))]
    stored = ", ".join(map(str, sorted(set(index))))
    raise FigureError(
        f"--pick: '{wanted}' is none of {', '.join(PICKS)}, and no stored sequence; stored are {stored}"
    )


def notes(boards: Array, truth: Array, *, config: Mapping[str, Any]) -> list[Note]:
    """The note under each board of a sequence, decoded float `[T + 1, H, W]`, with 0/1 `[m, H, W]` as its truth."""
    alive, true = boards > 0.5, truth.astype(bool)
    if config.get("experiment") == "life_count":
        # h_0 is trained on s_1 only, but it is also scored against later states.
        given, *later = [_most_correlated(board, true) for board in alive]
        return [Note(f"{given.text}\ntrained", given.kind), *later]
    first = "trained" if config.get("ae", True) else "ignored"
    between = [_most_equal(board, true) for board in alive[1:-1]]
    return [Note(first, Kind.OUTSIDE), *between, Note("trained", Kind.OUTSIDE)]


def beside_life(picked: Picked) -> Boards:
    """The decoded boards of a sequence beside the true states, which go on where there are more decoded boards."""
    places = max(len(picked.truth), *map(len, picked.decoded.values()))
    life = list(picked.truth)
    while len(life) < places:
        life.append(after(life[-1]))
    alive = np.stack(life) > 0.5
    said = []
    for place in range(places):
        near = [
            f"{name} is nearest to {_nearest(boards[min(place, len(boards) - 1)] > 0.5, alive, place)}"
            for name, boards in picked.decoded.items()
        ]
        said.append(f"State {place + 1} of {places}: {'; '.join(near)}.")
    rows = {"Life itself": np.stack(life), **{f"decoded, {name}": of for name, of in picked.decoded.items()}}
    return Boards(picked.name, picked.index, rows, said, overview=len(picked.truth))


def after(board: Array) -> Array:
    """The next state of Life; everything outside the board is dead."""
    alive = np.pad(board > 0.5, 1)
    high, wide = board.shape
    corners = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    around = sum(alive[y : y + high, x : x + wide].astype(np.uint8) for y, x in corners)
    return ((around == 3) | ((around == 2) & (board > 0.5))).astype(board.dtype)


def _nearest(board: Array, life: Array, place: int) -> str:
    """The state of Life that a board is nearest to; of equally near ones the state of its own place.

    With unequal timesteps a decoded board has no true state of its own.
    """
    equal = (board == life).mean((1, 2))
    best = place if equal[place] == equal.max() else int(equal.argmax())
    return f"state {best + 1} of Life ({int(100 * equal[best])}% of the cells)"


def correlation(decoded: Array, truth: Array) -> float:
    """The Matthews coefficient of two boards' living cells; 0 where a board is uniform.

    For two values per cell it equals Pearson's coefficient.
    """
    if any(board.all() or not board.any() for board in (decoded, truth)):
        return 0.0
    return float(np.corrcoef(decoded.ravel(), truth.ravel())[0, 1])


def _arrays(run: Stored, name: str) -> dict[str, Array] | None:
    sample = run.sample(name)
    if sample is None:
        return None
    if missing := [key for key in _ARRAYS if key not in sample]:
        raise FigureError(
            f"run {run.name}: its sample '{name}' lacks the array '{missing[0]}', so an older version wrote it; "
            "choose another run, or train it in a new store"
        )
    return {key: sample[key] for key in _ARRAYS}


def _picked(arrays: Mapping[str, Mapping[str, Array]], row: int, *, name: str = "") -> Picked:
    one = next(iter(arrays.values()))
    decoded = {decoder: found["decoded"][row].astype(float) for decoder, found in arrays.items()}
    scores = {decoder: float(found["score"][row]) for decoder, found in arrays.items()}
    defined = {decoder: None if np.isnan(score) else score for decoder, score in scores.items()}
    return Picked(name, int(one["index"][row]), one["truth"][row], decoded, defined)


def _most_equal(board: Array, true: Array) -> Note:
    """The true intermediate states that a board matches, else the nearest one, and the share of equal pixels."""
    equal = (board == true[1:-1]).sum((1, 2))
    if not len(equal):
        return Note("", Kind.OTHER)
    matched = [j + 2 for j, pixels in enumerate(equal) if 100 * pixels >= _MATCH_PERCENT * board.size]
    states = matched or [int(equal.argmax()) + 2]
    # Rounded down, so that 94.9% does not read as a match.
    percent = 100 * int(equal.max()) // board.size
    return Note(rf"{_named(states)} {percent}%", Kind.MATCH if matched else Kind.OTHER)


def _most_correlated(board: Array, true: Array) -> Note:
    values = [correlation(board, state) for state in true[1:]]
    best = int(np.argmax(values))
    return Note(f"{_named([best + 2])} {values[best]:z.2f}", Kind.OTHER)


def _named(states: list[int]) -> str:
    """States in mathtext; three or more in a row as the first and the last."""
    names = [f"$s_{{{state}}}$" for state in states]
    if len(names) < 3:
        return ",".join(names)
    whole = states[-1] - states[0] == len(states) - 1
    return f"{names[0]}–{names[-1]}" if whole else f"{len(names)} states"
