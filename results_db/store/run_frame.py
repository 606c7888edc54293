"""Runs as columns, read from the database."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, distinct, func, select

from results_db.columns import LAST_KEY, in_order, merged
from results_db.contract import Experiment, State, Traces
from results_db.frame import Column, Frame, column, objects, plain
from results_db.store import rows, tables

if TYPE_CHECKING:  # pandas takes half a second to import
    import pandas as pd

Reading = Callable[[], AbstractContextManager[Connection]]
Columns = dict[str, Column | Callable[[], Column]]


def run_frame(reading: Reading, *, limit: int | None = None) -> Frame:
    """The runs of a store in the order of staging, all or the first ones; see `contract.Store.runs` for the columns.

    The columns are those that the store's experiments declare, and further ones of these runs. What few tables show is
    read when it is first needed.
    """
    run = tables.run
    columns = (
        run.c.id,
        run.c.state,
        run.c.outcome,
        run.c.settings,
        run.c.own,
        run.c.metric_names,
        run.c.metrics,
    )
    with reading() as connection:
        found = connection.execute(select(*columns).order_by(run.c.id).limit(limit)).all()
        keys, states, outcomes, settings, own, names, packed = zip(*found, strict=True) if found else [()] * 7
        used = {key for key in (*settings, *names) if key is not None}
        shared = _shared(connection, None if limit is None else used)
        known = rows.experiments(connection)
    per_run = partial(_per_run, reading, keys, everything=limit is None)
    data: Columns = {
        "run_id": lambda: per_run(select(run.c.id, run.c.run_id), missing=None),
        "sweep": lambda: per_run(_sweeps(), missing=None),
        "state": column(states),
        "outcome": column(outcomes),
        "attempts": lambda: per_run(_attempts(), missing=0),
        "seconds": lambda: _floats(per_run(select(run.c.id, run.c.seconds), missing=None)),
        "tag": lambda: per_run(_tags(), missing=None),
        "note": lambda: per_run(select(run.c.id, run.c.note), missing=None),
    }
    configs = _with_own(_configs(_kinds(settings), shared, known), own)
    metrics = _metrics(_kinds(names), packed, shared)
    everywhere = np.zeros(len(keys), dtype=np.intp)
    nothing, no_number = Column(objects([None]), everywhere), Column(np.array([np.nan]), everywhere)

    def seeds() -> Column:
        pairs = zip(per_run(select(run.c.id, run.c.seed), missing=None).cells, others, strict=True)
        return column([other if seed is None else seed for seed, other in pairs])

    others = configs.get("seed", nothing).expanded
    gates = _Gates(known, configs.get("experiment", nothing))
    data |= {"gate": gates.words, "kept": lambda: gates.passed(states, outcomes, metrics)}
    declared = (
        merged(each.keys for each in known.values()),
        merged(list(each.metrics) for each in known.values()),
    )
    key_order, metric_order = ([name for name in order if name not in data] for order in declared)
    for name in [*in_order({*configs, *key_order} - {*data, LAST_KEY}, key_order), LAST_KEY]:
        data[name] = seeds if name == LAST_KEY else configs.get(name, nothing)
    for name in in_order({*metrics, *metric_order} - data.keys(), metric_order):
        data[name] = metrics.get(name, no_number)
    return Frame(data, len(keys))


class _Gates:
    """The gates of runs, by their column `experiment`."""

    def __init__(self, known: Mapping[str, Experiment], experiments: Column) -> None:
        self._known, self._experiments = known, experiments

    def words(self) -> Column:
        """The gate of each run in words; None if its experiment has none."""
        words = {name: one.gate_words for name, one in self._known.items()}
        return Column(
            objects([words.get(name) for name in plain(self._experiments.cells)]), self._experiments.kinds
        )

    def passed(
        self, states: Sequence[str], outcomes: Sequence[str | None], metrics: Mapping[str, Column]
    ) -> Column:
        """Whether each run is completed and kept."""
        stored = np.array([state == State.COMPLETED for state in states], dtype=bool)
        ended, experiments = objects(outcomes), self._experiments.expanded
        kept = stored & Experiment(()).keeps(ended, None)
        for name, one in self._known.items():
            if one.gate is not None:
                metric = one.gate[0]
                values = metrics[metric].expanded if metric in metrics else np.full(len(kept), np.nan)
                kept &= (experiments != name) | one.keeps(ended, values)
        return Column(kept)


def pandas_frame(runs: Frame) -> "pd.DataFrame":
    """The same rows for pandas.

    A config column keeps its type if every run has a value, else it holds objects with None, so that an integer never
    becomes a float. Metric columns are float64 with NaN for null.
    """
    import pandas as pd

    def series(name: str) -> "pd.Series[Any]":
        cells = runs[name]
        if cells.dtype != object:
            return pd.Series(cells)
        listed = plain(cells)
        kinds = {type(cell) for cell in listed}
        uniform = len(kinds) == 1 and kinds != {type(None)}
        return pd.Series(listed, dtype=None if uniform else object)

    return pd.DataFrame({name: series(name) for name in runs.columns})


def trace_frame(traces: Mapping[str, Traces]) -> "pd.DataFrame":
    """A row per point of these traces, by run id."""
    import pandas as pd

    each = [(run_id, name, *trace) for run_id, found in traces.items() for name, trace in found.items()]
    lengths = [len(steps) for _, _, steps, _ in each]
    return pd.DataFrame(
        {
            "run_id": np.repeat(objects([one[0] for one in each]), lengths),
            "name": np.repeat(objects([one[1] for one in each]), lengths),
            "step": np.fromiter((step for one in each for step in one[2]), np.int64, sum(lengths)),
            "value": np.fromiter((value for one in each for value in one[3]), np.float64, sum(lengths)),
        }
    )


def _shared(connection: Connection, wanted: set[int] | None) -> dict[int, Any]:
    """The values of the table `shared` by id: these, or all."""
    query = select(tables.shared.c.id, tables.shared.c.value)
    found: dict[int, Any] = {}
    for chunk in [None] if wanted is None else rows.chunks(sorted(wanted)):
        chosen = query if chunk is None else query.where(tables.shared.c.id.in_(chunk))
        found.update((key, value) for key, value in connection.execute(chosen))
    return found


def _kinds(keys: Sequence[int | None]) -> tuple[list[int | None], np.ndarray]:
    """The distinct keys, and for each of `keys` its place among them: `[keys]`."""
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return list(places), np.array([places[key] for key in keys], dtype=np.intp)


def _configs(
    settings: tuple[list[int | None], np.ndarray],
    shared: Mapping[int, Any],
    known: Mapping[str, Experiment],
) -> dict[str, Column]:
    """A column for each key of the configs but the seed. Runs that differ only in the seed share their cells."""
    used, kinds = settings
    before = {name: one.before for name, one in known.items() if one.before}
    configs: list[dict[str, Any]] = [{} if key is None else shared[key] for key in used]
    if before:
        configs = [{**before.get(str(config.get("experiment")), {}), **config} for config in configs]
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, config in enumerate(configs):
        alike.setdefault(tuple(config), []).append(place)
    found: dict[str, np.ndarray] = {}
    for names, places in alike.items():  # by columns, because looking each key up takes long for many configs
        block = zip(*(configs[place].values() for place in places), strict=True)
        for name, cells in zip(names, block, strict=True):
            if name not in found:
                found[name] = objects([None] * len(configs))
            found[name][np.array(places)] = objects(cells)
    return {name: Column(cells, kinds) for name, cells in found.items()}


def _with_own(configs: dict[str, Column], own: Sequence[str | None]) -> dict[str, Column]:
    """The columns with the values that runs keep for themselves; these keys have columns already."""
    places = [place for place, text in enumerate(own) if text is not None]
    values = json.loads(f"[{','.join(filter(None, own))}]")  # at once, because there may be many
    for name in dict.fromkeys(name for names in set(map(tuple, values)) for name in names):
        cells = configs[name].expanded.copy()
        those = [place for place, one in zip(places, values, strict=True) if name in one]
        cells[those] = objects([one[name] for one in values if name in one])
        configs[name] = Column(cells)
    return configs


def _metrics(
    names: tuple[list[int | None], np.ndarray], packed: Sequence[bytes | None], shared: Mapping[int, Any]
) -> dict[str, Column]:
    """A column for each metric: float64, NaN for null."""
    used, kinds = names
    found: dict[str, np.ndarray] = {}
    for kind, key in enumerate(used):
        if key is not None:
            places = np.flatnonzero(kinds == kind)
            values = np.frombuffer(b"".join(packed[place] or b"" for place in places.tolist()), dtype="<f8")
            for name, cells in zip(shared[key], values.reshape(len(places), -1).T, strict=True):
                found.setdefault(name, np.full(len(kinds), np.nan))[places] = cells
    return {name: Column(cells) for name, cells in found.items()}


def _per_run(reading: Reading, keys: Sequence[int], query: Any, *, everything: bool, missing: Any) -> Column:
    """A column from a query for (run, value): for each run its value, several values joined with commas."""
    found: dict[int, Any] = {}
    with reading() as connection:
        for chunk in [None] if everything else rows.chunks(keys):
            chosen = query if chunk is None else query.where(query.selected_columns[0].in_(chunk))
            for key, value in connection.execute(chosen).all():  # at once, which takes half of the time
                found[key] = f"{found[key]}, {value}" if key in found else value
    return column([found.get(key, missing) for key in keys])


def _floats(of: Column) -> Column:
    return Column(of.cells.astype(np.float64))


def _attempts() -> Any:
    """The number of attempts of each run, restarts not counted."""
    attempt = tables.attempt
    return select(attempt.c.run, func.count(distinct(attempt.c.number))).group_by(attempt.c.run)


def _tags() -> Any:
    """The tags of each run, sorted."""
    return select(tables.tag.c.run, tables.tag.c.name).order_by(tables.tag.c.name)


def _sweeps() -> Any:
    """The names of each run's sweeps, sorted."""
    sweep, member = tables.sweep, tables.sweep_run
    named = select(member.c.run, sweep.c.name).join(sweep, sweep.c.id == member.c.sweep)
    return named.distinct().order_by(sweep.c.name)
