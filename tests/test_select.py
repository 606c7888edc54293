"""The gate: which runs count."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from imagination.registry import EXPERIMENTS
from results_db.contract import OUTCOMES, StoreError
from results_db.query import gate as select

COMPLETED = {
    "experiment": "life_state",
    "state": "COMPLETED",
    "outcome": "reached",
    "train_accuracy": 0.995,
}


def runs(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{**COMPLETED, **change} for change in changes])


def test_only_completed_runs_are_counted() -> None:
    states = ["STAGED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "LOST"]
    frame = runs(*({"state": state} for state in states))
    assert list(select.completed(frame).index) == [3]


def test_the_gate_itself_is_inside() -> None:
    frame = runs({"train_accuracy": 0.99}, {"train_accuracy": np.nextafter(0.99, 0)}, {"train_accuracy": 1.0})
    assert select.passed(frame).tolist() == [True, False, True]


def test_the_gate_of_counting() -> None:
    count = {"experiment": "life_count"}
    frame = runs(
        {**count, "train_accuracy": 0.999}, {**count, "train_accuracy": 0.9989}, {"train_accuracy": 0.9989}
    )
    assert select.passed(frame).tolist() == [True, False, True]


def test_a_run_that_was_given_up_is_kept_only_if_it_passes() -> None:
    frame = runs({"outcome": "given_up", "train_accuracy": 0.9}, {"outcome": "given_up"})
    assert "given_up" in OUTCOMES
    assert len(select.completed(frame)) == 2
    assert select.passed(frame).tolist() == [False, True]


def test_a_run_without_an_accuracy_does_not_pass() -> None:
    frame = runs({"train_accuracy": None}, {})
    assert select.passed(frame).tolist() == [False, True]
    assert select.passed(frame, min_accuracy=0).tolist() == [False, True]


def test_a_diverged_run_never_passes() -> None:
    frame = runs({"outcome": "diverged", "train_accuracy": 1.0}, {"outcome": "step_limit"}, {"outcome": None})
    assert select.passed(frame, min_accuracy=0).tolist() == [False, True, True]


def test_min_accuracy_replaces_the_gate_of_every_experiment() -> None:
    frame = runs({"train_accuracy": 0.6}, {"experiment": "unheard_of", "train_accuracy": 0.4})
    assert select.passed(frame, min_accuracy=0.5).tolist() == [True, False]


def test_an_experiment_without_a_gate_needs_one() -> None:
    with pytest.raises(StoreError, match="'unheard_of' has no accuracy gate; give one with --min-accuracy"):
        select.passed(runs({}, {"experiment": "unheard_of"}))


def test_every_experiment_has_a_gate() -> None:
    assert set(select.GATES) == set(EXPERIMENTS)


def test_diverged_is_an_outcome() -> None:
    assert select.DIVERGED in OUTCOMES
