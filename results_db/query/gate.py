"""Which runs count: the COMPLETED ones are `run`, those of them that learned their task are `kept`."""

import numpy as np
import pandas as pd

from results_db.contract import DIVERGED, State, StoreError

GATES = {"life_state": 0.99, "life_count": 0.999}
"""Experiment to the training accuracy that a run must reach for its metric to count: the share of right pixels
(paper, section 3.1.1), and that of boards whose rounded count is right (the authors' code)."""


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """The COMPLETED runs, whatever accuracy they reached."""
    return frame[frame["state"] == State.COMPLETED]


def passed(frame: pd.DataFrame, *, min_accuracy: float | None = None) -> np.ndarray:
    """Which runs pass the gate `train_accuracy >= min_accuracy`: bool `[rows]`; a diverged run never does.

    Args:
        frame: runs.
        min_accuracy: the gate for all of them; default: that of each run's experiment.

    Raises:
        StoreError: an experiment has no default gate.
    """
    gates = _gates(frame["experiment"]) if min_accuracy is None else min_accuracy
    reached = frame["train_accuracy"].to_numpy(dtype=float) >= gates  # NaN is not
    diverged = (frame["outcome"] == DIVERGED).to_numpy(dtype=bool)
    return np.asarray(reached & ~diverged, dtype=bool)


def _gates(experiments: "pd.Series[str]") -> np.ndarray:
    unknown = sorted({str(name) for name in experiments if name not in GATES})
    if unknown:
        raise StoreError(f"experiment '{unknown[0]}' has no accuracy gate; give one with --min-accuracy")
    return np.array([GATES[name] for name in experiments], dtype=float)
