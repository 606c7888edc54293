"""Runs as a pandas frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection, distinct, func, select

from results_db.columns import BEFORE, CONFIG_COLUMNS, METRIC_COLUMNS, RUN_COLUMNS, in_order
from results_db.store import models


def run_frame(connection: Connection) -> pd.DataFrame:
    """Every run of the store, in the order of staging; see `contract.Store.runs`.

    A config column keeps its type if every run has a value, else it holds objects with None, so that an integer never
    becomes a float. Metric columns are float64 with NaN for null.
    """
    run, attempt = models.Run, models.Attempt
    tried = (
        select(attempt.run, func.count(distinct(attempt.number)).label("attempts"))
        .group_by(attempt.run)
        .subquery()
    )
    query = (
        select(run.id, run.run_id, run.state, run.outcome, tried.c.attempts, run.seconds, run.config)
        .outerjoin(tried, tried.c.run == run.id)
        .order_by(run.id)
    )
    rows = connection.execute(query).all()
    sweeps = _sweeps(connection)
    data: dict[str, Any] = {
        "run_id": [row.run_id for row in rows],
        "sweep": _column([", ".join(sweeps.get(row.id, ())) or None for row in rows]),
        "state": [row.state for row in rows],
        "outcome": [row.outcome for row in rows],
        "attempts": np.array([row.attempts or 0 for row in rows], dtype=np.int64),
        "seconds": np.array([row.seconds for row in rows], dtype=np.float64),
    }
    configs = [row.config for row in rows]
    keys = {key for config in configs for key in config}
    for key in in_order(keys - set(RUN_COLUMNS), CONFIG_COLUMNS):
        data[key] = _column([config.get(key, BEFORE.get(key)) for config in configs])
    metric = models.Metric
    # pandas' read_sql would hide a database error in one of its own, which the store does not catch.
    found = connection.execute(select(metric.run, metric.name, metric.value)).all()
    long = pd.DataFrame(found, columns=["run", "name", "value"])
    wide = long.pivot(index="run", columns="name", values="value").reindex([row.id for row in rows])
    metrics = wide.reindex(columns=in_order(set(long["name"]) - data.keys(), METRIC_COLUMNS)).astype(
        np.float64
    )
    return pd.concat([pd.DataFrame(data), metrics.reset_index(drop=True)], axis=1)


def _sweeps(connection: Connection) -> dict[int, list[str]]:
    """The names of each run's sweeps, sorted."""
    sweep, member = models.Sweep, models.SweepRun
    query = select(member.run, sweep.name).join(sweep, sweep.id == member.sweep).distinct()
    found: dict[int, list[str]] = {}
    for run, name in connection.execute(query.order_by(sweep.name)):
        found.setdefault(run, []).append(name)
    return found


def _column(values: Sequence[Any]) -> "pd.Series[Any]":
    kinds = {type(value) for value in values}
    uniform = len(kinds) == 1 and kinds != {type(None)}
    return pd.Series(values, dtype=None if uniform else object)
