"""Which runs count: every COMPLETED run counts in `run`, and in `kept` if it passed the accuracy gate."""

import numpy as np
import pandas as pd

from results_db.contract import DIVERGED, State, StoreError

GATES = {"life_state": 0.99, "life_count": 0.999}
"""Experiment to gate: the training accuracy that a stored run needs to be kept. It is the share of correct pixels
(paper, section 3.1.1), or the share of boards whose rounded count is correct (the authors' code)."""


def named(frame: pd.DataFrame, min_accuracy: float | None) -> str:
    """The gates of these runs, in words: `0.99 for life_state`."""
    if min_accuracy is not None:
        return f"{min_accuracy:g}"
    return " and ".join(f"{GATES[name]:g} for {name}" for name in sorted(frame["experiment"].unique()))


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    return frame[frame["state"] == State.COMPLETED]


def passed(frame: pd.DataFrame, *, min_accuracy: float | None = None) -> np.ndarray:
    """The runs that pass the gate, `train_accuracy >= min_accuracy`: bool `[rows]`. A diverged run never passes.

    `frame` is as `Store.runs` gives it. By default, each run has the gate of its experiment.

    Raises:
        StoreError: an experiment has no default gate.
    """
    if min_accuracy is None:
        unknown = sorted(set(frame["experiment"].astype(str)) - set(GATES))
        if unknown:
            raise StoreError(f"experiment '{unknown[0]}' has no accuracy gate; give one with --min-accuracy")
    gates = frame["experiment"].map(GATES).to_numpy(dtype=float) if min_accuracy is None else min_accuracy
    reached = frame["train_accuracy"].to_numpy(dtype=float) >= gates  # false for NaN
    return np.asarray(reached & (frame["outcome"] != DIVERGED).to_numpy(dtype=bool), dtype=bool)
