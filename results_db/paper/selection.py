"""The stored runs with which a number of the paper is compared; for `compare` and `trace`."""

from collections.abc import Sequence

import pandas as pd

from results_db.contract import Store
from results_db.paper.numbers import EFFECTS, SPECS, Number
from results_db.query.gate import completed


def runs_of(frame: pd.DataFrame, number: Number, store: Store) -> pd.DataFrame:
    """The COMPLETED runs of a number, whatever accuracy they reached: those of its specs that are in its cell.

    A launch that overrode another key than the preset was of another experiment, so its runs do not count.

    Args:
        frame: runs of the store, as `Store.runs` gives them.
        number: one of `numbers.TABLES`.
        store: knows which runs a launch wanted.
    """
    effect = number.cell.get("effect")
    specs, cell = (SPECS[number.table], number.cell) if effect is None else (EFFECTS[str(effect)].specs, {})
    runs = completed(frame)
    runs = runs[runs["run_id"].isin(store.members(specs, overridden=("preset",)))]
    return runs[runs[list(cell)].eq(pd.Series(cell, dtype=object)).all(axis=1)]


def presets(runs: pd.DataFrame) -> Sequence[str | None]:
    """The presets of these runs, sorted; `[None]` without runs. Runs of different presets have no common mean."""
    return sorted(runs["preset"].unique()) or [None]
