"""Completed runs with chosen values, in a real store, as members of a sweep."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from store_helpers import start

from imagination.registry import config_type, preset
from imagination.schema import build
from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, Provenance, RunRecord
from results_db.store.sql import SqlStore

WHO = Provenance("local", "node1", "1:1", "cpu", "0123abc", True, {"torch": "2.6"})
METRICS = {
    "metric": 1.0,
    "metric_plain": 0.9,
    "metric_adv": 1.0,
    "train_accuracy": 0.995,
    "baseline_repeat": 0.05,
}
FIVE = (0.98, 0.99, 1.0, 0.99, 0.98)
"""Mean .988; deviations -.008, .002, .012, .002, -.008, whose squares sum to 280e-6: variance 70e-6, squared error of
the mean 14e-6. With t(4, .975) = 2.776445 (tables) the half width is 2.776445 * sqrt(14e-6) = .0103885."""
HALF = 0.0103885


def config(experiment: str = "life_state", **changes: Any) -> dict[str, Any]:
    """A complete config of the preset `fast`, with a post-hoc adversary and a fixed width and depth."""
    shape = {"channels": 20, "enc_layers": 1, "dec_layers": 1}
    values = {**preset(experiment, changes.pop("preset", "fast")), **shape, "gan": "posthoc", **changes}
    return dataclasses.asdict(build(config_type(experiment), values))


def complete(db: SqlStore, record: RunRecord) -> None:
    """Starts and completes a staged run."""
    attempt = start(db, record.run_id, WHO)
    assert attempt is not None
    assert db.finish(attempt, record)


def store_run(
    db: SqlStore,
    of: Mapping[str, Any],
    *,
    sweep: str | None = None,
    outcome: str = "reached",
    traces: Mapping[str, tuple[Sequence[int], Sequence[float]]] | None = None,
    **metrics: float | None,
) -> None:
    """A COMPLETED run with these metrics, and `METRICS` for the others; by default of Table 1 or of Table 4."""
    sweep = sweep or ("table4" if of["experiment"] == "life_count" else "table1")
    db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep(sweep, ""))
    complete(db, RunRecord(run_id(of), outcome, 1.0, {**METRICS, **metrics}, traces or {}))


def store_five(
    db: SqlStore, metrics: Sequence[float] = FIVE, sweep: str | None = None, **changes: Any
) -> None:
    for seed, metric in enumerate(metrics):
        store_run(db, config(**changes, seed=seed), metric=metric, sweep=sweep)
