"""Which runs count: every COMPLETED run counts in `run`, and in `kept` if it passed the gate of its experiment."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from results_db.columns import check
from results_db.contract import DIVERGED, State

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from results_db.frame import Frame

AnyFrame = TypeVar("AnyFrame", "pd.DataFrame", "Frame")


def named(frame: "pd.DataFrame | Frame", min_accuracy: float | None) -> str:
    """The gates of these runs, in words: `train_accuracy >= 0.99 for life_state`."""
    if min_accuracy is not None:
        return f"train_accuracy >= {min_accuracy:g}"
    pairs = sorted(set(zip(frame["experiment"], frame["gate"], strict=True)), key=str)
    return " and ".join(f"{gate or 'none'} for {experiment}" for experiment, gate in pairs)


def completed(frame: AnyFrame) -> AnyFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    stored: np.ndarray = np.asarray(frame["state"], dtype=object) == State.COMPLETED
    return frame[stored]


def passed(frame: "pd.DataFrame | Frame", *, min_accuracy: float | None = None) -> np.ndarray:
    """The completed runs that pass the gate: bool `[rows]`. A diverged run never passes.

    `frame` is as `Store.runs` gives it. By default, each run has the gate of its experiment; with `min_accuracy` the
    gate is `train_accuracy >= min_accuracy`.

    Raises:
        StoreError: `min_accuracy` is given, and no experiment of the store has this metric.
    """
    if min_accuracy is None:
        return np.asarray(frame["kept"], dtype=bool)
    check("train_accuracy", list(frame.columns), origin="--min-accuracy")
    reached = np.asarray(frame["train_accuracy"], dtype=float) >= min_accuracy  # false for NaN
    return np.asarray(reached & (np.asarray(frame["outcome"], dtype=object) != DIVERGED), dtype=bool)
