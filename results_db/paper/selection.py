"""The stored runs with which a number of the paper is compared; for `compare` and `trace`."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from results_db.columns import config_keys
from results_db.contract import Scalar, Store
from results_db.paper.numbers import LEADS, TABLES, Number, sources
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


def others(table: str, frame: pd.DataFrame, *, store: Store) -> pd.DataFrame:
    """The COMPLETED runs that would fit into the rows of this table that have no runs; they do not count."""
    runs = completed(frame)
    fitting = [
        _in_cell(runs, number.cell)
        for number in TABLES[table]
        if table != "signs" and runs_of(frame, number, store=store).empty
    ]
    return pd.concat([runs.iloc[:0], *fitting]).drop_duplicates("run_id")


def overridden(table: str, sweeps: Collection[str], *, store: Store) -> list[str]:
    """The config keys that launches of these sweeps set, so that their runs do not count in this table."""
    own = {
        spec: source.overridden
        for number in TABLES[table]
        for source in sources(number)
        for spec in source.specs
    }
    return sorted(
        {
            key
            for launch in store.launches()
            if launch.name in own and launch.name in sweeps
            for key in launch.overridden or ()
            if key not in own[launch.name]
        }
    )


def _in_cell(runs: pd.DataFrame, cell: Mapping[str, Scalar]) -> pd.DataFrame:
    found: pd.DataFrame = runs[runs[list(cell)].eq(pd.Series(cell, dtype=object)).all(axis=1)]
    return found


def _one_per_network(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without a joint adversary. Those that differ only in `gan` are one network and one row."""
    runs = runs[runs["gan"].isin(("none", "posthoc"))]
    return runs.drop_duplicates([name for name in config_keys(runs.columns) if name != "gan"])


def _found(frame: pd.DataFrame, number: Number, store: Store) -> Iterator[Group]:
    cell = {key: value for key, value in number.cell.items() if key != "effect"}
    for source in sources(number):
        runs = completed(frame)
        runs = runs[runs["run_id"].isin(store.members(source.specs, overridden=source.overridden))]
        runs = _in_cell(runs, cell)
        if number.quantity in LEADS:
            runs = _one_per_network(runs)
        for preset in sorted(runs["preset"].unique()):
            yield Group(source.spec, preset, runs[runs["preset"] == preset])
