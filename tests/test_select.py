"""The gate: which runs count."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from imagination.registry import EXPERIMENTS
from results_db.contract import DIVERGED, OUTCOMES, StoreError
from results_db.query.gate import GATES, completed, passed

COMPLETED = {
    "experiment": "life_state",
    "state": "COMPLETED",
    "outcome": "reached",
    "train_accuracy": 0.995,
}
COUNT = "life_count"


def runs(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{**COMPLETED, **change} for change in changes])


def test_only_completed_runs_are_counted() -> None:
    states = ["STAGED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "LOST"]
    assert list(completed(runs(*({"state": state} for state in states))).index) == [3]
    assert len(completed(runs({"outcome": "given_up"}))) == 1


@pytest.mark.parametrize(
    ("change", "min_accuracy", "kept"),
    [
        ({"train_accuracy": 0.99}, None, True),  # the gate itself passes
        ({"train_accuracy": np.nextafter(0.99, 0)}, None, False),
        ({"train_accuracy": 0.9989}, None, True),
        ({"experiment": COUNT, "train_accuracy": 0.999}, None, True),
        ({"experiment": COUNT, "train_accuracy": 0.9989}, None, False),
        ({"outcome": "given_up"}, None, True),
        ({"outcome": "given_up", "train_accuracy": 0.9}, None, False),
        ({"train_accuracy": None}, None, False),
        ({"train_accuracy": None}, 0, False),
        ({"outcome": DIVERGED, "train_accuracy": 1.0}, 0, False),  # whatever it reached
        ({"outcome": "step_limit"}, 0, True),
        ({"outcome": None}, 0, True),
        # --min-accuracy replaces the gate of every experiment.
        ({"train_accuracy": 0.6}, 0.5, True),
        ({"experiment": "unheard_of", "train_accuracy": 0.4}, 0.5, False),
    ],
)
def test_the_gate(change: dict[str, Any], min_accuracy: float | None, kept: bool) -> None:
    # Beside a run that passes every gate, so that the frame has more than one row.
    frame = runs(change, {"train_accuracy": 1.0})
    assert passed(frame, min_accuracy=min_accuracy).tolist() == [kept, True]


def test_an_experiment_without_a_gate_needs_one() -> None:
    with pytest.raises(StoreError, match="'unheard_of' has no accuracy gate; give one with --min-accuracy"):
        passed(runs({}, {"experiment": "unheard_of"}))


def test_every_experiment_has_a_gate_and_every_outcome_a_name() -> None:
    assert set(GATES) == set(EXPERIMENTS)
    assert {DIVERGED, "given_up"} <= set(OUTCOMES)
