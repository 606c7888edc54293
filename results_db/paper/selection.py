"""The stored runs with which a number of the paper is compared; for `compare` and `trace`."""

from collections.abc import Mapping

import pandas as pd

from results_db.contract import Scalar
from results_db.paper.numbers import CONSTANT, EFFECTS, ONE_SHAPE, RUNS, Number
from results_db.query import where
from results_db.query.gate import completed

FINE = 100
"""The largest `trace_every` of runs whose leads count, because the shortest leads are about this long."""


def runs_of(frame: pd.DataFrame, number: Number) -> pd.DataFrame:
    """The COMPLETED runs of a number, whatever accuracy they reached. `frame` is as `Store.runs` gives it.

    A run that lacks a config key predates that key and was trained like the authors' runs.
    """
    needed = {**RUNS[number.table], **number.cell}
    experiment = str(needed["experiment"])
    runs = completed(frame)
    runs = runs[_have(runs, needed)]
    runs = runs[_have(runs, CONSTANT[experiment], or_null=True)]
    if number.table == "learning_order":
        runs = runs[~(runs["trace_every"] > FINE)]
    return runs if number.table in EFFECTS else runs[~_ablated(runs, experiment)]


def _have(runs: pd.DataFrame, wanted: Mapping[str, Scalar], *, or_null: bool = False) -> "pd.Series[bool]":
    cells = runs[list(wanted)]
    return (cells.eq(pd.Series(wanted, dtype=object)) | (cells.isna() & or_null)).all(axis=1)


def _ablated(runs: pd.DataFrame, experiment: str) -> "pd.Series[bool]":
    """The runs that belong to an ablation alone: the second side of an effect, in a preset with one shape."""
    second = pd.Series(False, index=runs.index)
    for table, effect in EFFECTS.items():
        if RUNS[table]["experiment"] == experiment:
            second |= where.mask(effect.second, runs)
    return second & runs["preset"].isin(ONE_SHAPE)
