"""Which runs count: every COMPLETED run counts in `run`, and in `kept` if it passed the gate of its experiment."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from results_db.contract import DIVERGED, State

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from results_db.frame import Frame

AnyFrame = TypeVar("AnyFrame", "pd.DataFrame", "Frame")


def named(frame: "pd.DataFrame | Frame", gate: str | None) -> str:
    """The gates of these runs, in words: `train_accuracy >= 0.99 for life_state`."""
    if gate is not None:
        return gate
    pairs = sorted(set(zip(frame["experiment"], frame["gate"], strict=True)), key=str)
    return " and ".join(f"{gate or 'none'} for {experiment}" for experiment, gate in pairs)


def completed(frame: AnyFrame) -> AnyFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    stored: np.ndarray = np.asarray(frame["state"], dtype=object) == State.COMPLETED
    return frame[stored]


def passed(frame: "pd.DataFrame | Frame", *, gate: str | None = None) -> np.ndarray:
    """The completed runs that pass the gate: bool `[rows]`. A diverged run never passes.

    `frame` is as `Store.runs` gives it. By default, each run has the gate of its experiment. `gate` is another one for
    all: a filter in the language of `--where`.

    Raises:
        StoreError: see `where.mask`.
    """
    if gate is None:
        return np.asarray(frame["kept"], dtype=bool)
    from results_db.query.where import mask  # its parser is slow to import

    met = mask(gate, frame, origin="--gate")
    return np.asarray(met & (np.asarray(frame["outcome"], dtype=object) != DIVERGED), dtype=bool)
