"""`python -m jobs.evaluate --where gol=3`: metrics anew, from the final weights of stored runs.

Prints each metric beside the stored one. `--write` puts the new values into the store; nothing else ever changes
a completed run.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagination.schema import ConfigError
from jobs.identity import SHORT
from results_db import console
from results_db.contract import State, StoreError

if TYPE_CHECKING:
    import pandas as pd

_SAME = 1e-9


@click.command(name="jobs.evaluate")
@console.where_option
@console.db_option
@console.json_option
@console.limit_option
@click.option("--device", default="auto", help="A torch device. [default: a GPU if there is one]")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="CPU threads. [default: torch's choice]"
)
@click.option("--write", is_flag=True, help="Replace the stored metrics by the new ones.")
def cli(
    where: str | None,
    db: str | None,
    as_json: bool,
    limit: int | None,
    device: str,
    threads: int,
    write: bool,
) -> int:
    """Compute metrics anew from final weights."""
    from results_db.store import open_store
    from results_db.where import apply

    store = open_store(db, create=False)
    try:
        frame = apply(where, store.runs())
        completed = frame[(frame["state"] == State.COMPLETED) & (frame["outcome"] != "diverged")]
        chosen = completed.head(limit) if limit else completed
        if chosen.empty:
            raise StoreError("no completed run matches; see imagine-results runs")
        results, missing = _evaluate_all(store, _rows(chosen), device, threads, write=write)
        _show(results, as_json=as_json)
        for run_id in missing:
            click.echo(f"run {run_id[:SHORT]}: its weights are not in {store.folder}", err=True)
        return 1 if missing else 0
    finally:
        store.close()


def _rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _evaluate_all(
    store: Any, rows: list[dict[str, Any]], device: str, threads: int, *, write: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Per run its id, the stored and the new metrics; and the ids of runs whose weights are not there."""
    from rich.console import Console
    from rich.progress import track

    results, missing = [], []
    for row in track(rows, description="evaluating", console=Console(stderr=True)):
        metrics = evaluate(store, row, device=device, threads=threads)
        if metrics is None:
            missing.append(row["run_id"])
            continue
        if write:
            store.replace_metrics(row["run_id"], metrics)
        stored = {name: _number(row.get(name)) for name in metrics}
        results.append({"run_id": row["run_id"], "stored": stored, "evaluated": metrics})
    return results, missing


def evaluate(
    store: Any, row: dict[str, Any], *, device: str = "auto", threads: int = 0
) -> dict[str, float | None] | None:
    """The metrics of one stored run from its final weights, None if those are not there.

    Args:
        store: where the run is.
        row: its row of `Store.runs`.
        device: a torch device, or `auto`.
        threads: CPU threads; 0: torch's choice.
    """
    import torch
    from safetensors.torch import load_file

    from imagination import registry
    from imagination.schema import build, keys
    from jobs.worker import choose_device, experiment_of

    path = weights_path(store, row["run_id"])
    if path is None:
        return None
    chosen = choose_device(device, threads=threads)
    config_type = registry.config_type(row["experiment"])
    config: Any = build(config_type, {key: row[key] for key in keys(config_type)})
    experiment = experiment_of([config], chosen)
    named = load_file(path)
    parameters = torch.cat([named[name].reshape(1, -1) for name in experiment.layout.shapes], dim=1)
    return dict(experiment.evaluate(parameters.to(chosen)).metrics)


def weights_path(store: Any, run_id: str) -> Path | None:
    """The final weights of a completed run, None if they are not there."""
    from jobs.files import Files

    for attempt in reversed(store.attempts(run_id)):
        path = Files(store.folder).weights(run_id, attempt["number"])
        if attempt["state"] == State.COMPLETED and path.is_file():
            return path
    return None


def _show(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    for result in results:
        click.echo(f"run {result['run_id'][:SHORT]}")
        for name, value in result["evaluated"].items():
            stored = result["stored"][name]
            same = value == stored or (None not in (value, stored) and abs(value - stored) <= _SAME)
            click.echo(
                f"  {name:<22} {_text(value):>10}  stored {_text(stored):>10}{'' if same else '  differs'}"
            )


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def main() -> None:
    """The command."""
    console.run(cli, errors=(StoreError, ConfigError))


if __name__ == "__main__":
    main()
