"""`python -m jobs.evaluate --where gol=3`: computes the metrics of stored runs again, from their final weights.

Prints the new and the stored value of each metric. `--write` stores the new values; no other command changes a stored
run.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagination import registry
from imagination.schema import ConfigError, Scalar
from jobs.needs import UnmetError, find
from results_db import console
from results_db.contract import DIVERGED, Attempt, State, StoreError
from results_db.files import Files
from results_db.text import short
from results_db.trust import UntrustedError

if TYPE_CHECKING:  # slow to import
    import torch

    from results_db.store.sql import SqlStore

_SAME = 1e-9


@click.command(name="jobs.evaluate")
@console.where_option
@console.db_option
@console.json_option
@console.limit_option
@click.option("--device", default="auto", help="A torch device. [default: a GPU if there is one]")
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="CPU threads; 0: torch's choice.",
)
@click.option("--write", is_flag=True, help="Replace the stored metrics with the new ones.")
def cli(
    where: str | None,
    db: str | None,
    as_json: bool,
    limit: int | None,
    device: str,
    threads: int,
    write: bool,
) -> int:
    """Compute the metrics of stored runs again, from their final weights.

    Example: python -m jobs.evaluate --where preset=fast -n 5
    """
    from results_db.query.where import apply
    from results_db.store.sql import open_to_read, open_to_write

    with closing(open_to_write(db) if write else open_to_read(db)) as store:
        frame = apply(where, store.runs())
        completed = frame[(frame["state"] == State.COMPLETED) & (frame["outcome"] != DIVERGED)]
        chosen = completed.head(limit) if limit else completed
        if chosen.empty:
            matches = f" that matches --where '{where}'" if where is not None else ""
            raise StoreError(f"no completed run{matches} in {store.display_url}; see imagine-results runs")
        results, missing = _evaluate_all(store, chosen["run_id"].tolist(), device, threads, write=write)
        _show(results, as_json=as_json)
        for run_id, why in missing.items():
            click.echo(f"run {short(run_id)}: {why}", err=True)
        return console.SOME_FAILED if missing else 0


def _evaluate_all(
    store: "SqlStore", run_ids: list[str], device: str, threads: int, *, write: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Per run its id, stored and new metrics; and why runs cannot be evaluated, by run id."""
    from rich.console import Console
    from rich.progress import track

    from jobs.worker import choose_device

    chosen = choose_device(device, threads=threads)
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for run_id in track(run_ids, description="evaluating", console=Console(stderr=True)):
        run = store.run(run_id)
        try:
            metrics = evaluate(store, run_id, run["config"], device=chosen)
        except UnmetError as error:
            missing[run_id] = str(error)
            continue
        if metrics is None:
            missing[run_id] = f"weights missing or damaged in {store.folder}"
            continue
        if write:
            store.replace_metrics(run_id, metrics)
        stored = {name: value for name, value in run["metrics"].items() if name in metrics}
        results.append({"run_id": run_id, "stored": stored, "evaluated": metrics})
    return results, missing


def evaluate(
    store: "SqlStore", run_id: str, config: Mapping[str, Scalar], *, device: "torch.device"
) -> dict[str, float | None] | None:
    """The metrics of a completed run from its final weights; None if the weights are missing or damaged.

    Raises:
        UnmetError: what it builds on is not there any more, or another user wrote its weights.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from jobs.worker import runner

    path = _weights_path(store, run_id)
    if path is None:
        return None
    experiment = str(config["experiment"])
    try:
        with Files(store.folder).open(path) as file:
            weights = load(file.read())
    except UntrustedError as error:
        raise UnmetError(f"its weights {path}: {error}") from None
    except SafetensorError:
        return None
    built = registry.rebuilt(config)
    (met,) = find([built], store)
    if isinstance(met, UnmetError):
        raise met
    found = runner(experiment).evaluate(built, weights, device=device, needs=met)
    return None if found is None else dict(found)


def _weights_path(store: "SqlStore", run_id: str) -> Path | None:
    """The file of a completed run's final weights; None if it is missing."""
    for attempt in reversed(store.attempts(run_id)):
        names = ("number", "restart", "nonce")
        path = Files(store.folder).weights(Attempt(run_id, *(attempt[name] for name in names)))
        if attempt["state"] == State.COMPLETED and path.is_file():
            return path
    return None


def _show(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    for result in results:
        click.echo(f"run {short(result['run_id'])}")
        for name, value in result["evaluated"].items():
            stored = result["stored"].get(name)
            same = value == stored or (None not in (value, stored) and abs(value - stored) <= _SAME)
            note = "" if same else "  differs" if name in result["stored"] else "  new"
            new, old = ("-" if each is None else f"{each:.6f}" for each in (value, stored))
            click.echo(f"  {name:<22} {new:>10}  stored {old:>10}{note}")


def main() -> None:
    """Runs the command."""
    console.run(cli, errors=(StoreError, ConfigError))


if __name__ == "__main__":
    main()
