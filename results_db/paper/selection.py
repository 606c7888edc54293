"""The stored runs with which a number of the paper is compared; for `compare` and `trace`."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from results_db.contract import Store
from results_db.paper.numbers import Number, sources
from results_db.query.gate import completed


class Group(NamedTuple):
    """Runs that have a common mean: those of one preset, from one source of a number.

    Attributes:
        spec: the spec to launch for more of them.
        preset: their preset; None if there are none.
        runs: the COMPLETED runs, whatever accuracy they reached.
    """

    spec: str
    preset: str | None
    runs: pd.DataFrame


def groups(frame: pd.DataFrame, number: Number, *, store: Store) -> list[Group]:
    """The runs of a number, see `sources`, by source and preset. Without runs, one empty group of the first source.

    `frame` holds runs of the store, as `Store.runs` gives them.
    """
    found = list(_found(frame, number, store))
    return found or [Group(sources(number)[0].spec, None, frame.iloc[:0])]


def runs_of(frame: pd.DataFrame, number: Number, *, store: Store) -> pd.DataFrame:
    """The runs of all groups of a number."""
    return pd.concat([group.runs for group in groups(frame, number, store=store)])


def _found(frame: pd.DataFrame, number: Number, store: Store) -> Iterator[Group]:
    cell = {key: value for key, value in number.cell.items() if key != "effect"}
    for source in sources(number):
        runs = completed(frame)
        runs = runs[runs["run_id"].isin(store.members(source.specs, overridden=source.overridden))]
        runs = runs[runs[list(cell)].eq(pd.Series(cell, dtype=object)).all(axis=1)]
        for preset in sorted(runs["preset"].unique()):
            yield Group(source.spec, preset, runs[runs["preset"] == preset])
