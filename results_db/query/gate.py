"""Which runs count: every COMPLETED run counts in `run`, and in `kept` if it passed the accuracy gate."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from results_db.contract import DIVERGED, State, StoreError

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from results_db.frame import Frame

AnyFrame = TypeVar("AnyFrame", "pd.DataFrame", "Frame")

GATES = {"life_state": 0.99, "life_count": 0.999}
"""Experiment to gate: the training accuracy that a stored run needs to be kept. It is the share of correct pixels
(paper, section 3.1.1), or the share of boards whose rounded count is correct (the authors' code)."""


def named(frame: "pd.DataFrame | Frame", min_accuracy: float | None) -> str:
    """The gates of these runs, in words: `0.99 for life_state`."""
    if min_accuracy is not None:
        return f"{min_accuracy:g}"
    return " and ".join(f"{GATES[name]:g} for {name}" for name in sorted(set(frame["experiment"])))


def completed(frame: AnyFrame) -> AnyFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    stored: np.ndarray = np.asarray(frame["state"], dtype=object) == State.COMPLETED
    return frame[stored]


def passed(frame: "pd.DataFrame | Frame", *, min_accuracy: float | None = None) -> np.ndarray:
    """The runs that pass the gate, `train_accuracy >= min_accuracy`: bool `[rows]`. A diverged run never passes.

    `frame` is as `Store.runs` gives it. By default, each run has the gate of its experiment.

    Raises:
        StoreError: an experiment has no default gate.
    """
    gates: np.ndarray | float
    if min_accuracy is None:
        experiments = np.asarray(frame["experiment"], dtype=object)
        unknown = sorted(map(str, set(experiments) - set(GATES)))
        if unknown:
            raise StoreError(f"experiment '{unknown[0]}' has no accuracy gate; give one with --min-accuracy")
        gates = np.array([GATES[name] for name in experiments], dtype=float)
    else:
        gates = min_accuracy
    reached = np.asarray(frame["train_accuracy"], dtype=float) >= gates  # false for NaN
    return np.asarray(reached & (np.asarray(frame["outcome"], dtype=object) != DIVERGED), dtype=bool)
