"""What a report shows, as plain data for its page."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from imagination import registry
from imagination.declaration import Declaration
from imagination.figures import (
    Analysis,
    Drawn,
    FigureError,
    Gallery,
    Stored,
    check_analysis,
    check_figure,
    check_gallery,
    takes_one_run,
)
from results_db.columns import config_keys, merged
from results_db.contract import Experiment, State, StoreError
from results_db.paper.compare import compare, kept_values
from results_db.paper.numbers import ABOUT, MEANS, TABLES, cell_keys
from results_db.paper.selection import runs_of
from results_db.query.aggregate import records, sort_key
from results_db.query.gate import completed, passed
from results_db.report.boards import plain
from results_db.store.launched import launched
from results_db.store.sampled import with_samples
from results_db.store.sql import SqlStore
from results_db.text import cell_text
from results_db.views.figures import metrics
from results_db.views.stored import several

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
        galleries: what the pictures of the gallery are, a paragraph each.
        launches: launched sweep with its overrides, as `table1 channels=32`, to its number of runs.
        left_out: the number of kept runs beyond those of the gallery.
    """

    store: str
    summary: Mapping[str, str]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Sequence[Picture]
    runs: Sequence[Mapping[str, Any]]
    galleries: Sequence[str]
    launches: Mapping[str, int]
    left_out: int = 0
    about: Mapping[str, str] = field(default_factory=lambda: ABOUT)


def collect(store: SqlStore, frame: pd.DataFrame, *, most_runs: int, gate: str | None = None) -> Report:
    """What the report on these runs shows. `frame` holds runs of the store, as `Store.runs` gives them.

    Raises:
        StoreError: none of the runs is COMPLETED.
    """
    done = completed(frame)
    if done.empty:
        raise StoreError("no COMPLETED run to report on; see imagine-results runs")
    kept = done[passed(done, gate=gate)]
    tables = {name: compare(name, frame, store=store, gate=gate) for name in TABLES}
    filled = {name: rows for name, rows in tables.items() if any(row["run"] for row in rows)}
    experiments = [one for name, one in store.experiments().items() if name in set(done["experiment"])]
    cells = merged([["experiment", "preset"], *(one.cells for one in experiments)])
    shown = _spread(_with_pictures(store, kept), most_runs, cells)
    own = [one for one in registry.declarations() if one.name in set(done["experiment"])]
    galleries = {one.name: found for one in own if (found := _gallery(one)) is not None}
    runs = _runs(store, shown, cells, galleries)
    return Report(
        store=store.display_url,
        summary=_summary(done, kept),
        tables=filled,
        pictures=list(_pictures(store, frame, kept, filled, experiments, own, gate=gate)),
        runs=runs,
        galleries=list(dict.fromkeys(one.about for one in galleries.values())),
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


def _with_pictures(store: SqlStore, kept: pd.DataFrame) -> pd.DataFrame:
    """The runs with samples, and all runs of experiments without any."""
    has = kept["run_id"].isin(with_samples(store))
    return kept[has | ~has.groupby(kept["experiment"]).transform("any")]


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
    own: Sequence[Declaration],
    *,
    gate: str | None,
) -> Iterable[Picture]:
    for name, rows in tables.items():
        if name in MEANS:
            values = kept_values(name, frame, store=store, gate=gate)
            drawn = metrics.cells(rows, values, cell_keys(name), short=TABLES[name][0].short)
            yield _picture(f"{name}: {ABOUT[name]}", drawn)
    yield from _own_pictures(store, kept, own)
    done = completed(frame)
    if "steps" in done and done["steps"].notna().any():
        cells = merged(one.cells for one in experiments)[:2]
        known = done[done["steps"].notna()].assign(kept=lambda runs: passed(runs, gate=gate))
        yield _picture("Steps until runs are kept", metrics.steps(known, cells))
    for metric in dict.fromkeys(one.shown[0] for one in experiments if one.shown):
        having = kept[kept[metric].notna()]
        by = next((key for key in merged(one.cells for one in experiments) if _is_switch(having[key])), None)
        keys = [key for key in config_keys(having.columns) if key != "seed" and _is_varied(having[key])]
        if keys:
            drawn = metrics.against(having, keys, metric=metric, by=by)
            yield _picture(f"{metric} against {', '.join(keys)}", drawn)


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


def _own_pictures(store: SqlStore, kept: pd.DataFrame, own: Sequence[Declaration]) -> Iterator[Picture]:
    """The analyses of these experiments, and their figures of several runs, each of all runs that it is about."""
    for path in dict.fromkeys(command.code for one in own for command in one.analyses.values()):
        analysis = registry.load_or_warn(path, check_analysis)
        if analysis is not None:
            chosen = _of(kept, own, "analyses", path)
            if analysis.table in TABLES:
                chosen = runs_of(chosen, TABLES[analysis.table], store=store)
            yield from _drawn(path, partial(_found, analysis, several(store, records(chosen))))
    for path, about in dict.fromkeys(command for one in own for command in one.figures.values()):
        function = registry.load_or_warn(path, check_figure)
        if function is not None and not takes_one_run(function):
            runs = several(store, records(_of(kept, own, "figures", path)))
            yield from _drawn(path, partial(_figure, function, runs, title=about.removesuffix(".")))


def _figure(function: Callable[..., Drawn], runs: Sequence[Stored], *, title: str) -> list[Picture]:
    return [_picture(title, function(runs).figure)]


def _drawn(path: str, draw: Callable[[], list[Picture]]) -> list[Picture]:
    """What declared code draws; nothing if it cannot. If it raises anything but a FigureError, a warning says so."""
    with suppress(FigureError):
        return registry.call_or_warn(path, draw, list) or []
    return []


def _found(analysis: Analysis, runs: Sequence[Stored]) -> list[Picture]:
    found = analysis.function(runs)
    return [_picture(analysis.title, found.draw())] if found.runs else []


def _of(kept: pd.DataFrame, own: Sequence[Declaration], kind: str, path: str) -> pd.DataFrame:
    """The runs of the experiments that declare this code."""
    names = [one.name for one in own if path in (command.code for command in getattr(one, kind).values())]
    return kept[kept["experiment"].isin(names)]


def _gallery(declared: Declaration) -> Gallery | None:
    return registry.load_or_warn(declared.gallery, check_gallery) if declared.gallery else None


def _runs(
    store: SqlStore, shown: pd.DataFrame, cells: Sequence[str], galleries: Mapping[str, Gallery]
) -> list[dict[str, Any]]:
    """The runs of the gallery; those of which it shows nothing are left out."""
    rows = records(shown[shown["experiment"].isin(list(galleries))])
    experiments = store.experiments()
    found: list[dict[str, Any]] = []
    broken: set[str] = set()
    for row, run in zip(rows, several(store, rows), strict=True):
        experiment = str(run.config["experiment"])
        if experiment not in broken:
            pictures = _boards(galleries[experiment], run)
            if pictures is None:
                broken.add(experiment)
            elif pictures:
                about = _about(store, row, run, cells, experiments[experiment])
                found.append({**about, "sequences": pictures})
    return found


def _boards(gallery: Gallery, run: Stored) -> list[Mapping[str, Any]] | None:
    """What the gallery shows of a run; nothing if it cannot; None, with a warning, if its code is wrong."""
    path = f"{gallery.function.__module__}:{gallery.function.__qualname__}"
    with suppress(FigureError):
        return registry.call_or_warn(path, lambda: [plain(boards) for boards in gallery.function(run)], list)
    return []


def _about(
    store: SqlStore, row: Mapping[str, Any], run: Stored, cells: Sequence[str], experiment: Experiment
) -> dict[str, Any]:
    """What the page says of a run of the gallery. Its score is the first metric that tables show."""
    (attempt,) = [one for one in store.attempts(run.run_id) if one["state"] == State.COMPLETED]
    gate = [experiment.gate[0]] if experiment.gate else []
    return {
        "id": run.name,
        "seed": run.config["seed"],
        "score": run.metrics.get(experiment.shown[0]) if experiment.shown else None,
        "cell": {key: run.config[key] for key in cells if key in run.config},
        "metrics": {
            name: run.metrics[name] for name in (*experiment.shown, *gate, "steps") if name in run.metrics
        },
        "config": run.config,
        "about": {
            "sweeps": row["sweep"],
            "commit": attempt["git_commit"],
            "host": attempt["host"],
            "device": attempt["device"],
            "minutes": round(float(row["seconds"]) / 60, 1),
        },
    }
