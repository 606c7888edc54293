"""The gate: which runs count. The store decides by what an experiment declares."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from store_helpers import WHO, start

from imagination import registry
from jobs.config import resolve
from jobs.identity import run_id
from results_db.contract import DIVERGED, OUTCOMES, PlannedRun, RunRecord, StoreError
from results_db.frame import Frame
from results_db.query.gate import completed, named, passed

STATE, COUNT = "life_state", "life_count"


def finished(
    store: Any, *, experiment: str = STATE, outcome: str = "reached", **metrics: float | None
) -> None:
    """Store a run of this experiment with these metrics."""
    seed = len(store.runs())
    config = (
        resolve(experiment, "fast", {"seed": seed})
        if experiment in registry.names()
        else {"experiment": experiment, "seed": seed}
    )
    run = PlannedRun(run_id(config) if experiment in registry.names() else f"{seed:064x}", config)
    store.stage([run])
    attempt = start(store, run.run_id, WHO)
    assert store.finish(attempt, RunRecord(run.run_id, outcome, 1.0, metrics))


@pytest.mark.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)
def test_only_completed_runs_are_counted(store) -> None:
    finished(store, train_accuracy=0.995)
    config = resolve(STATE, "fast", {"seed": 7})
    store.stage([PlannedRun(run_id(config), config)])
    assert passed(store.runs()).tolist() == passed(store.frame()).tolist() == [True, False]
    assert len(completed(store.runs())) == 1


CASES = [
    ({"train_accuracy": 0.99}, None, True),  # the gate itself passes
    ({"train_accuracy": np.nextafter(0.99, 0)}, None, False),
    ({"train_accuracy": 0.9989}, None, True),
    ({"experiment": COUNT, "train_accuracy": 0.999}, None, True),
    ({"experiment": COUNT, "train_accuracy": 0.9989}, None, False),
    ({"outcome": "given_up", "train_accuracy": 0.995}, None, True),
    ({"outcome": "given_up", "train_accuracy": 0.9}, None, False),
    ({"train_accuracy": None}, None, False),
    ({"train_accuracy": None}, "train_accuracy>=0", False),
    ({"outcome": DIVERGED, "train_accuracy": 1.0}, "train_accuracy>=0", False),  # whatever it reached
    ({"outcome": DIVERGED, "train_accuracy": 1.0}, None, False),
    ({"outcome": "step_limit", "train_accuracy": 0.2}, "train_accuracy>=0", True),
    # --gate replaces the gate of every experiment.
    ({"train_accuracy": 0.6}, "train_accuracy>=.5", True),
    ({"accuracy": 0.6}, "accuracy>=.5 or train_accuracy=1", True),
    # An experiment that declares no gate keeps every completed run.
    ({"experiment": "unheard_of", "accuracy": 0.4}, None, True),
    ({"experiment": "unheard_of", "outcome": DIVERGED}, None, False),
    ({"experiment": "unheard_of", "train_accuracy": 0.4}, "train_accuracy>=.5", False),
]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("run", "gate", "kept"), CASES)
def test_the_gate(store, run: dict[str, Any], gate: str | None, kept: bool) -> None:
    # Beside a run that passes every gate, so that the frame has more than one row.
    finished(store, **run)
    finished(store, train_accuracy=1.0)
    for frame in (store.runs(), store.frame()):
        assert passed(frame, gate=gate).tolist() == [kept, True]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_the_gate_is_named_as_it_was_declared(store) -> None:
    finished(store, train_accuracy=0.5)
    finished(store, experiment="unheard_of", accuracy=0.4)
    assert named(store.runs(), None) == "train_accuracy >= 0.99 for life_state and none for unheard_of"
    assert named(store.runs(), "metric>0") == "metric>0"


def test_a_gate_needs_its_metric() -> None:
    runs = Frame.of([{"experiment": "parity", "outcome": "done", "kept": True, "accuracy": 0.4}])
    with pytest.raises(StoreError, match="--gate: unknown column 'train_accuracy'"):
        passed(runs, gate="train_accuracy>=.5")


def test_every_outcome_has_a_name() -> None:
    assert {DIVERGED, "given_up"} <= set(OUTCOMES)


def test_a_frame_without_runs_has_nothing_to_pass() -> None:
    frame = pd.DataFrame({"kept": pd.Series([], dtype=bool)})
    assert passed(frame).tolist() == []
