"""Which runs count: COMPLETED runs count as `run`, and those that learned their task as `kept`."""

import numpy as np
import pandas as pd

from results_db.contract import DIVERGED, State, StoreError

GATES = {"life_state": 0.99, "life_count": 0.999}
"""Experiment to the training accuracy from which a run's metric counts: the share of correct pixels (paper, section
3.1.1), and the share of boards whose rounded count is correct (the authors' code)."""


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    return frame[frame["state"] == State.COMPLETED]


def passed(frame: pd.DataFrame, *, min_accuracy: float | None = None) -> np.ndarray:
    """The runs that pass the gate, `train_accuracy >= min_accuracy`: bool `[rows]`. A diverged run never passes.

    Args:
        frame: runs, as `Store.runs` gives them.
        min_accuracy: the gate for all runs; default: the gate of each run's experiment.

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
