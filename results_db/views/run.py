"""Everything about one run: `imagine-results show`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results_db.columns import CONFIG_COLUMNS, METRIC_COLUMNS
from results_db.store.sql import SqlStore
from results_db.text import cell_text


def collect(store: SqlStore, run_id: str) -> dict[str, Any]:
    """The run's state, config, metrics, attempts, the last point of every trace, and its files.

    Raises:
        StoreError: no such run.
    """
    run = store.run(run_id)
    traces = {name: (steps, values) for name, (steps, values) in store.traces(run_id).items() if steps}
    return {
        **run,
        "config": _ordered(run["config"], CONFIG_COLUMNS),
        "metrics": _ordered(run["metrics"], METRIC_COLUMNS),
        "attempts": [{**attempt, "seconds": _seconds(attempt)} for attempt in store.attempts(run_id)],
        "traces": {
            name: {"points": len(steps), "step": steps[-1], "value": values[-1]}
            for name, (steps, values) in traces.items()
        },
        "samples": sorted(store.samples(run_id)),
        "files": [str(file) for file in _files(store.folder, run_id)],
    }


def describe(found: Mapping[str, Any]) -> str:
    """What `collect` found, for a person."""
    head = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    traces = {
        name: f"{cell_text(last['value'])} at step {last['step']} ({last['points']} points)"
        for name, last in found["traces"].items()
    }
    parts = [
        _pairs(head),
        _section("config", _pairs(found["config"])),
        _section("metrics", _pairs(found["metrics"])),
        *(_section(f"attempt {a['number']}", _pairs(_attempt(a))) for a in found["attempts"]),
        _section("traces, last value", _pairs(traces)),
        *(_section(name, "\n".join(found[name])) for name in ("sweeps", "samples", "files")),
    ]
    return "\n\n".join(part for part in parts if part)


def _seconds(attempt: Mapping[str, Any]) -> float | None:
    """How long an attempt lasted, training and evaluation together; None while it runs."""
    ended = attempt["ended_at"]
    return None if ended is None else float((ended - attempt["started_at"]).total_seconds())


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt's own columns, and what it was made with in one cell each."""
    flat = {name: value for name, value in attempt.items() if name != "number" and value not in (None, {})}
    for name in ("progress", "versions"):
        if name in flat:
            flat[name] = ", ".join(f"{key} {cell_text(value)}" for key, value in flat[name].items())
    return flat


def _pairs(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {cell_text(value)}".rstrip() for name, value in values.items())


def _section(title: str, body: str) -> str:
    indented = "\n".join(f"  {line}" for line in body.splitlines())
    return f"{title}\n{indented}" if body else ""


def _ordered(values: Mapping[str, Any], order: tuple[str, ...]) -> dict[str, Any]:
    known = [name for name in order if name in values]
    return {name: values[name] for name in [*known, *sorted(values.keys() - set(known))]}


def _files(folder: Path, run_id: str) -> list[Path]:
    return sorted(folder.glob(f"*/{run_id}*"))
