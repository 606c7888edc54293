"""The command that trains failed runs again: `retry`."""

import json
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli.options import SHORT
from results_db.contract import FAILURES, StoreError
from results_db.text import counted
from sweeps.cli import options
from sweeps.follow.retry import MAX_ATTEMPTS, Failed, Retry, failed_runs, plan_retries

if TYPE_CHECKING:
    from sweeps.launch.local import LaunchResult

_MOST_NAMED = 20


@click.command()
@options.optional_spec_arguments
@console.where_option
@click.option(
    "--state",
    "states",
    type=click.Choice(sorted(map(str, FAILURES)), case_sensitive=False),
    multiple=True,
    help="Only runs that failed so.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    default=MAX_ATTEMPTS,
    show_default=True,
    metavar="N",
    help="Leave runs that have had so many attempts.",
)
@options.launch_options
@options.yes_option
@console.json_option
@console.db_option
def retry(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    states: tuple[str, ...],
    max_attempts: int,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    db: str | None,
    **how: Any,
) -> int:
    """Train failed runs again, and no others: those of SPEC, or without it of every sweep that was launched.

    The runs of top-ups belong to their sweep. --where takes the columns of `imagine-results runs`.
    """
    from results_db.query import where as filters
    from results_db.store import open_store

    with closing(open_store(db, create=False)) as store:
        frame = store.runs()
        sweeps = options.sweeps_of(store, spec, overrides)
    chosen = filters.apply(where, frame)
    if where is not None and chosen.empty:
        raise StoreError(f"--where '{where}': no run matches; see imagine-results runs")
    failed = failed_runs(chosen, states=states)
    retries = plan_retries(sweeps, failed, known=set(frame["run_id"]), max_attempts=max_attempts, limit=limit)
    if dry_run:
        _show(retries, failed, as_json=as_json)
    left = _say_left([each for retry in retries for each in retry.left], max_attempts=max_attempts)
    runs = [run for retry in retries for run in retry.expansion.runs]
    if not runs and not left and not (dry_run and as_json):
        click.echo("no failed run of a sweep to train again; see imagine-sweep status", err=True)
    if dry_run:
        return 0
    options.confirm(f"{counted(len(runs), 'failed run')} to train again", len(runs), yes=yes)
    if spec is None:
        retries = [each for each in retries if each.expansion.runs]
    results = _train(retries, db=db, yes=yes, **how)
    if as_json:
        said = [result.as_dict() for result in results]
        click.echo(json.dumps(said if spec is None else said[0], indent=2))
    return max([console.SOME_FAILED if left else 0, *(result.exit_code for result in results)])


def _train(retries: Sequence[Retry], **how: Any) -> "list[LaunchResult]":
    """Sweep by sweep, each where its spec says, until all are done or somebody stops it."""
    results: list[LaunchResult] = []
    for retry in retries:
        results.append(options.train(retry.spec, retry.expansion, retry_failed=True, **how))
        if results[-1].interrupted:
            break
    return results


def _show(retries: Sequence[Retry], failed: dict[str, Failed], *, as_json: bool) -> None:
    """The runs that would be trained."""
    rows: list[dict[str, Any]] = [
        {
            "sweep": retry.spec.name,
            "run_id": run.run_id if as_json else run.run_id[:SHORT],
            **cell.columns,
            "seed": run.config["seed"],
            "state": failed[run.run_id].state,
            "attempts": failed[run.run_id].attempts,
        }
        for retry in retries
        for cell in retry.expansion.cells
        for run in cell.runs
    ]
    if rows or as_json:
        options.print_rows(rows, as_json=as_json)


def _say_left(left: Sequence[Failed], *, max_attempts: int) -> bool:
    """Whether runs have failed too often; names them."""
    if left:
        named = ", ".join(each.run_id[:SHORT] for each in left[:_MOST_NAMED])
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        click.echo(
            f"left, after {counted(max_attempts, 'attempt')} or more: {named}{more}; see imagine-results show RUN, "
            "or raise --max-attempts",
            err=True,
        )
    return bool(left)
