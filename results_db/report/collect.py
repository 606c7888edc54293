"""What a report shows, as plain data for its page."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from imagination.paper import SIMILARITY
from results_db.columns import config_keys, merged
from results_db.contract import Experiment, State, StoreError
from results_db.paper import learning_order
from results_db.paper.compare import compare, kept_values
from results_db.paper.numbers import ABOUT, TABLES
from results_db.query.aggregate import records, sort_key
from results_db.query.gate import completed, passed
from results_db.report.boards import sequence
from results_db.store.launched import launched
from results_db.store.sql import SqlStore
from results_db.text import cell_text, short
from results_db.views.figures import boards, curves, metrics

_FEWEST_VALUES = 4
"""The metric is drawn against numbers of the config that have at least so many values in the kept runs."""


@dataclass(frozen=True)
class Picture:
    """A figure of the report: SVG with its title, which also describes it to readers who do not see it."""

    title: str
    svg: str


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        store: the store's name.
        summary: label to value.
        tables: table to its rows, as `compare` gives them.
        pictures: the figures.
        runs: the runs of the gallery: id, filters, metrics, config, attempts and sequences.
        launches: launched sweep with its overrides, as `table1 channels=32`, to its number of runs.
        left_out: the number of kept runs beyond those of the gallery.
    """

    store: str
    summary: Mapping[str, str]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Sequence[Picture]
    runs: Sequence[Mapping[str, Any]]
    launches: Mapping[str, int]
    left_out: int = 0
    about: Mapping[str, str] = field(default_factory=lambda: ABOUT)


def collect(
    store: SqlStore, frame: pd.DataFrame, *, most_runs: int, min_accuracy: float | None = None
) -> Report:
    """What the report on these runs shows. `frame` holds runs of the store, as `Store.runs` gives them.

    Raises:
        StoreError: none of the runs is COMPLETED.
    """
    done = completed(frame)
    if done.empty:
        raise StoreError("no COMPLETED run to report on; see imagine-results runs")
    kept = done[passed(done, min_accuracy=min_accuracy)]
    tables = {name: compare(name, frame, store=store, min_accuracy=min_accuracy) for name in TABLES}
    filled = {name: rows for name, rows in tables.items() if any(row["run"] for row in rows)}
    experiments = [one for name, one in store.experiments().items() if name in set(done["experiment"])]
    cells = merged([["experiment", "preset"], *(one.cells for one in experiments)])
    shown = _spread(kept, most_runs, cells)
    runs = [run for row in records(shown) if (run := _run(store, row, cells, experiments)) is not None]
    return Report(
        store=store.display_url,
        summary=_summary(done, kept),
        tables=filled,
        pictures=list(_pictures(store, frame, kept, filled, experiments, min_accuracy=min_accuracy)),
        runs=runs,
        launches=_launches(store, done),
        left_out=len(kept) - len(runs),
    )


def _summary(done: pd.DataFrame, kept: pd.DataFrame) -> dict[str, str]:
    hours = done["seconds"].sum() / 3600
    return {
        "runs": f"{len(done):,}",
        "kept": f"{len(kept):,} ({100 * len(kept) / len(done):.0f}%)",
        "training": f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min",
        "presets": ", ".join(sorted(done["preset"].unique())),
    }


def _launches(store: SqlStore, done: pd.DataFrame) -> dict[str, int]:
    """What to launch to repeat the runs, with the overrides of their launches, to the number of runs here."""
    found = {}
    for launch in launched(store):
        runs = done[done["run_id"].isin(launch.run_ids)]
        overrides = [f"{key}={_values(runs[key])}" for key in launch.overridden or () if key in runs]
        if len(runs):
            found[" ".join([launch.name, *overrides])] = len(runs)
    return dict(sorted(found.items()))


def _values(column: "pd.Series[Any]") -> str:
    """The distinct values of a config key, as an override has them: `20,32`."""
    distinct = sorted(set(column.dropna().tolist()), key=lambda value: sort_key([value]))
    return ",".join(repr(value) if isinstance(value, float) else cell_text(value) for value in distinct)


def _spread(kept: pd.DataFrame, most: int, cells: Sequence[str]) -> pd.DataFrame:
    """At most so many runs, taken in turn from every cell, so that each is represented."""
    if len(kept) <= most:
        return kept
    turn = kept.groupby(list(cells), dropna=False).cumcount()
    return kept.loc[turn.sort_values(kind="stable").index[:most].sort_values()]


def _pictures(
    store: SqlStore,
    frame: pd.DataFrame,
    kept: pd.DataFrame,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    experiments: Sequence[Experiment],
    *,
    min_accuracy: float | None,
) -> Iterable[Picture]:
    for name, rows in tables.items():
        if name.startswith("table"):
            values = kept_values(name, frame, store=store, min_accuracy=min_accuracy)
            drawn = metrics.cells(rows, values, list(TABLES[name][0].cell))
            yield _picture(f"{name}: {ABOUT[name]}", drawn)
    chosen = learning_order.choose(store, (), where=None, sweep=None)
    chosen = chosen[chosen["run_id"].isin(frame["run_id"])]
    orders = learning_order.collect(
        store, chosen, named=False, min_accuracy=min_accuracy, similarity=SIMILARITY
    )
    if orders:
        yield _picture(
            "Learning order: when each state is learned", curves.draw(orders, similarity=SIMILARITY)
        )
    done = completed(frame)
    if "steps" in done and done["steps"].notna().any():
        cells = merged(one.cells for one in experiments)[:2]
        yield _picture("Steps to the accuracy", metrics.steps(done[done["steps"].notna()], cells))
    for metric in dict.fromkeys(one.shown[0] for one in experiments if one.shown):
        having = kept[kept[metric].notna()]
        by = next((key for key in merged(one.cells for one in experiments) if _is_switch(having[key])), None)
        for key in config_keys(having.columns):
            if key != "seed" and _is_varied(having[key]):
                drawn = metrics.against(having, key, metric=metric, by=by)
                yield _picture(f"{metric} against {key}", drawn)


def _is_switch(column: "pd.Series[Any]") -> bool:
    return set(column.dropna()) == {True, False}


def _is_varied(column: "pd.Series[Any]") -> bool:
    values = set(column.dropna())
    return len(values) >= _FEWEST_VALUES and all(type(value) in (int, float) for value in values)


def _picture(title: str, figure: Figure) -> Picture:
    from matplotlib import rc_context

    data = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    text = data.getvalue()
    # The page has its own colours for text and lines, in light and dark.
    return Picture(title, text[text.index("<svg") :].replace("#000000", "currentColor"))


def _run(
    store: SqlStore, row: Mapping[str, Any], cells: Sequence[str], experiments: Sequence[Experiment]
) -> dict[str, Any] | None:
    """A run of the gallery; None without decoded boards."""
    run_id = str(row["run_id"])
    try:
        read = boards.read(store.samples(run_id), run=short(run_id), state="COMPLETED")
    except StoreError:
        return None
    (attempt,) = [one for one in store.attempts(run_id) if one["state"] == State.COMPLETED]
    config = {key: row[key] for key in config_keys(row) if row[key] is not None}
    return {
        "id": short(run_id),
        "seed": row["seed"],
        "cell": {key: config[key] for key in cells if key in config},
        "metrics": {
            name: row[name]
            for one in experiments
            for name in (*one.shown, *([one.gate[0]] if one.gate else []), "steps")
            if row.get(name) is not None
        },
        "config": config,
        "about": {
            "sweeps": row["sweep"],
            "commit": attempt["git_commit"],
            "host": attempt["host"],
            "device": attempt["device"],
            "minutes": round(float(row["seconds"]) / 60, 1),
        },
        "sequences": [sequence(picked) for picked in boards.pick(read, "all")],
    }
