"""The stored runs with which a number of the paper is compared; for `compare` and `trace`."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from imagination import registry
from imagination.paper import Number, Source
from results_db.columns import config_keys, names_in
from results_db.contract import State, Store
from results_db.paper.numbers import TABLES
from results_db.query import where
from results_db.query.gate import completed


class Group(NamedTuple):
    """Runs that have a common mean: those of one preset, from one source of a number.

    Attributes:
        spec: the spec to launch for more of them.
        preset: their preset; None if there are none.
        runs: the COMPLETED runs, whatever accuracy they reached.
        absent: why other runs are not among them, see `ABSENT`, to their ids.
    """

    spec: str
    preset: str | None
    runs: pd.DataFrame
    absent: Mapping[str, Collection[str]]


ABSENT = {
    "not_trained": "not yet trained",
    "overridden": "of launches that set config keys",
    "discarded": "discarded",
}
"""Why a run of a number's specs is not in its mean, in words. Runs can also miss the gate."""


def groups(frame: pd.DataFrame, number: Number, *, store: Store) -> list[Group]:
    """The runs of a number, by its sources and their presets. Without runs, one empty group of the first source.

    `frame` holds runs of the store, as `Store.runs` gives them.
    """
    frame = _with_declared(frame)
    fitting = _fitting(frame, number)
    found = [group for source in number.sources for group in _found(fitting, number, source, store=store)]
    if found:
        return found
    source = number.sources[0]
    members = store.members(source.specs, overridden=source.overridden)
    return [Group(source.spec, None, frame.iloc[:0], _absent(fitting, source, members))]


def runs_of(frame: pd.DataFrame, numbers: Sequence[Number], *, store: Store) -> pd.DataFrame:
    """The runs of all groups of these numbers, each run once."""
    found = [group.runs for number in numbers for group in groups(frame, number, store=store)]
    return pd.concat(found).drop_duplicates("run_id")


def others(table: str, frame: pd.DataFrame, *, store: Store) -> pd.DataFrame:
    """The COMPLETED runs that would fit into the rows of this table that have no runs; they do not count.

    Runs of another experiment have the same keys, but not the row's metric.
    """
    runs = completed(_with_declared(frame))
    fitting = [
        _fitting(runs if number.derived else runs[runs[number.quantity].notna()], number)
        for number in TABLES[table]
        if not number.effect and runs_of(frame, [number], store=store).empty
    ]
    return pd.concat([runs.iloc[:0], *fitting]).drop_duplicates("run_id")


def overridden(table: str, sweeps: Collection[str], *, store: Store) -> list[str]:
    """The config keys that launches of these sweeps set, so that their runs do not count in this table."""
    own = {
        spec: source.overridden
        for number in TABLES[table]
        for source in number.sources
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


def _with_declared(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all columns of the experiments whose paper this is: a store of others lacks them."""
    papers = [one for one in registry.declarations() if one.numbers]
    known = [name for one in papers for name in (*one.keys, *one.metrics)]
    missing = [name for name in dict.fromkeys(known) if name not in frame.columns]
    return pd.concat([frame, pd.DataFrame(None, index=frame.index, columns=missing, dtype=object)], axis=1)


def _fitting(runs: pd.DataFrame, number: Number) -> pd.DataFrame:
    """The runs in the number's cell, or on one of the two sides of its effect."""
    if number.effect:
        first, second = number.effect.first, number.effect.second
        return where.apply(f"({first.where}) or ({second.where})", runs)
    cell = pd.Series(number.cell, dtype=object)
    found: pd.DataFrame = runs[runs[list(number.cell)].eq(cell).all(axis=1)]
    return found


def _found(fitting: pd.DataFrame, number: Number, source: Source, *, store: Store) -> Iterator[Group]:
    """The groups of one source, by preset, among the runs that fit into the number's row."""
    members = store.members(source.specs, overridden=source.overridden)
    runs = completed(fitting)
    runs = runs[runs["run_id"].isin(members)]
    if number.where:
        runs = where.apply(number.where, runs)
    if number.alike:
        runs = runs.drop_duplicates([name for name in config_keys(runs.columns) if name not in number.alike])
    for preset in sorted(runs["preset"].unique()):
        absent = _absent(fitting[fitting["preset"] == preset], source, members)
        yield Group(source.spec, preset, runs[runs["preset"] == preset], absent)


def _absent(fitting: pd.DataFrame, source: Source, members: Collection[str]) -> dict[str, list[str]]:
    ids = fitting["run_id"]
    wanted = ids.isin(members)
    stored, discarded = (fitting["state"] == state for state in (State.COMPLETED, State.DISCARDED))
    launched = np.array(
        [bool(set(names_in(cell)) & set(source.specs)) for cell in fitting["sweep"]], dtype=bool
    )
    return {
        "not_trained": list(ids[wanted & ~stored & ~discarded]),
        "overridden": list(ids[launched & ~wanted & stored]),
        "discarded": list(ids[wanted & discarded]),
    }
