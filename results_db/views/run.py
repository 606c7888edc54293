"""Everything about one run: `imagine-results show`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill, indent
from typing import Any

from results_db.contract import UnknownRunError
from results_db.files import Files
from results_db.store.sql import SqlStore
from results_db.text import cell_text, short, short_path

_SHOWN = 12
"""How many steps of a chain of needs are listed."""


def collect(store: SqlStore, run_id: str) -> dict[str, Any]:
    """The run's state, config, metrics, attempts, the last point of every trace, and its files.

    Raises:
        StoreError: the store has no such run.
    """
    run = store.run(run_id)
    return {
        **run,
        "meanings": _meanings(store, run),
        "attempts": [_shown(attempt, Files(store.folder)) for attempt in store.attempts(run_id)],
        "traces": {
            name: {"points": len(steps), "step": steps[-1], "value": values[-1]}
            for name, (steps, values) in store.traces(run_id).items()
            if steps
        },
        "samples": sorted(store.samples(run_id)),
        "needs": _chain(run_id, partial(_needs, store), store=store),
        "needed_by": _chain(run_id, partial(_needed_by, store), store=store),
        "artifacts": {name: vars(about) for name, about in store.artifacts(run_id).items()},
        "discarded": [
            {**record, "traces": sorted(record["traces"]), "samples": sorted(record["samples"])}
            for record in store.discarded(run_id)
        ],
        "files": sorted(str(file) for file in store.folder.glob(f"*/{run_id}*")),
    }


def describe(found: Mapping[str, Any]) -> str:
    """What `collect` found, as text for people."""
    head = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    traces = {
        name: f"{cell_text(last['value'])} at step {last['step']} ({last['points']} points)"
        for name, last in found["traces"].items()
    }
    sections = {
        "config": _pairs(found["config"]),
        "metrics": _pairs(found["metrics"]),
        "meaning of the metrics": "\n".join(
            fill(f"{name}: {said}", 78, subsequent_indent="  ") for name, said in found["meanings"].items()
        ),
        **{f"attempt {attempt['number']}": _pairs(_attempt(attempt)) for attempt in found["attempts"]},
        "traces, last value": _pairs(traces),
        **{
            f"discarded, attempt {record['number']}": _pairs(_discarded(record))
            for record in found["discarded"]
        },
        **{name: "\n".join(found[name]) for name in ("sweeps", "tags", "samples")},
        "needs": _steps(found["needs"]),
        "needed by": _steps(found["needed_by"]),
        "artifacts": _pairs({name: f"{about['size']:,} bytes" for name, about in found["artifacts"].items()}),
        "files": "\n".join(short_path(Path(file)) for file in found["files"]),
    }
    parts = [f"{title}\n{indent(body, '  ')}" for title, body in sections.items() if body]
    return "\n\n".join([_pairs(head), *parts])


def _meanings(store: SqlStore, run: Mapping[str, Any]) -> dict[str, str]:
    """What the run's metrics mean, as its experiment declares it."""
    known = store.experiments().get(str(run["config"].get("experiment")))
    return (
        {}
        if known is None
        else {name: said for name, said in known.metrics.items() if name in run["metrics"]}
    )


def _needs(store: SqlStore, run_id: str) -> list[tuple[str, str]]:
    """What a run builds on: config keys and run ids."""
    return list(store.needs(run_id).items())


def _needed_by(store: SqlStore, run_id: str) -> list[tuple[str, str]]:
    """What builds on a run: the config keys that name the run, and run ids."""
    return [
        (key, other)
        for other in store.needed_by(run_id)
        for key, needed in store.needs(other).items()
        if needed == run_id
    ]


def _chain(
    run_id: str, following: Callable[[str], Sequence[tuple[str, str]]], *, store: SqlStore
) -> list[dict[str, Any]]:
    """The steps from a run to the ends of the chain, each followed by its own; a run's steps are given once.

    A step has its `depth` from 1, the config `key` of the need, and the `run_id`, `experiment` and `state` of the run.
    """
    steps: list[dict[str, Any]] = []
    visited: set[str] = set()

    def visit(run_id: str, depth: int) -> None:
        if run_id not in visited:
            visited.add(run_id)
            for key, other in following(run_id):
                steps.append({"depth": depth, "key": key, "run_id": other, **_about(store, other)})
                visit(other, depth + 1)

    visit(run_id, 1)
    return steps


def _about(store: SqlStore, run_id: str) -> dict[str, str]:
    try:
        run = store.run(run_id)
    except UnknownRunError:
        return {"experiment": "", "state": "not in this store"}
    return {"experiment": str(run["config"]["experiment"]), "state": str(run["state"])}


def _steps(chain: Sequence[Mapping[str, Any]]) -> str:
    """A line for each of the first steps of a chain, indented by its depth, and the number of the others."""
    shown = [(2 * (one["depth"] - 1) * " " + one["key"], one) for one in chain[:_SHOWN]]
    width = max((len(key) for key, _ in shown), default=0)
    lines = [
        f"{key:<{width}}  {short(one['run_id'])}  {one['experiment']}  {one['state']}" for key, one in shown
    ]
    more = [f"and {len(chain) - _SHOWN} more; --json has them all"] if len(chain) > _SHOWN else []
    return "\n".join([*lines, *more])


def _shown(attempt: Mapping[str, Any], files: Files) -> dict[str, Any]:
    log = attempt["log"] and str(files.find(attempt["log"]))
    return {**attempt, "log": log, "seconds": _seconds(attempt)}


def _seconds(attempt: Mapping[str, Any]) -> float | None:
    """The duration of an attempt, training and evaluation together; None until it ends or if it never began."""
    started, ended = attempt["started_at"], attempt["ended_at"]
    return None if started is None or ended is None else float((ended - started).total_seconds())


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt's columns that have a value, with its progress and versions in one cell each."""
    flat = {
        name: value for name, value in attempt.items() if name != "number" and value not in (None, {}, "")
    }
    for name in ("progress", "versions"):
        if name in flat:
            flat[name] = ", ".join(f"{key} {cell_text(value)}" for key, value in flat[name].items())
    return flat


def _discarded(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was discarded, with its metrics beside the rest and the names of its traces and samples in one cell each."""
    kept = {name: record[name] for name in ("why", "discarded_at", "outcome", "seconds")}
    names = {name: ", ".join(record[name]) for name in ("traces", "samples")}
    return {**kept, **record["metrics"], **names}


def _pairs(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {cell_text(value)}".rstrip() for name, value in values.items())
