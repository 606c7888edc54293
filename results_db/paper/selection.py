"""Which stored runs a number of the paper is held against: the one place that `compare` and `trace` ask."""

from collections.abc import Mapping

import pandas as pd

from results_db.contract import Scalar
from results_db.paper import numbers as paper
from results_db.query import gate as select
from results_db.query import where

FINE = 100
"""Steps between the points of a trace, at most, from which leads are taken: the shortest are of that order."""


def of(frame: pd.DataFrame, number: paper.Number) -> pd.DataFrame:
    """The COMPLETED runs of a number, whatever accuracy they reached.

    Args:
        frame: runs, as `Store.runs` gives them.
        number: one of `paper.TABLES`.
    """
    needed = {**paper.RUNS[number.table], **number.cell}
    runs = select.completed(frame)
    runs = runs[_have(runs, needed)]
    if number.table == "learning_order":
        runs = runs[~(runs["trace_every"] > FINE)]  # one of before such a key existed lacks it
    # A run of before such a key existed lacks it, and had what all of the authors' runs had.
    runs = runs[_have(runs, paper.CONSTANT[str(needed["experiment"])], or_null=True)]
    return runs if number.table in paper.EFFECTS else runs[~_ablated(runs, str(needed["experiment"]))]


def _have(runs: pd.DataFrame, wanted: Mapping[str, Scalar], *, or_null: bool = False) -> "pd.Series[bool]":
    mask = pd.Series(True, index=runs.index)
    for key, value in wanted.items():
        mask &= (runs[key] == value) | (runs[key].isna() & or_null)
    return mask


def _ablated(runs: pd.DataFrame, experiment: str) -> "pd.Series[bool]":
    """The runs that only an ablation wants: of a preset with one shape, and on the other side of an effect."""
    other = pd.Series(False, index=runs.index)
    for table, effect in paper.EFFECTS.items():
        if paper.RUNS[table]["experiment"] == experiment:
            other |= where.parse(effect.second).mask(runs)
    return other & runs["preset"].isin(paper.ONE_SHAPE)
