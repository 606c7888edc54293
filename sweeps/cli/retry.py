"""The command `retry`, which trains failed runs again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli.options import reading
from results_db.contract import FAILURES, StoreError
from results_db.text import counted, short
from sweeps.cli import options
from sweeps.follow.coverage import labels
from sweeps.follow.retry import MAX_ATTEMPTS, Retry, failed_runs, plan_retries
from sweeps.launch.options import LaunchOptions, say

if TYPE_CHECKING:
    from sweeps.launch.prepare import LaunchResult

_MOST_NAMED = 20


@click.command()
@options.optional_spec_arguments
@console.where_option
@click.option(
    "--state",
    "states",
    type=click.Choice(sorted(map(str, FAILURES)), case_sensitive=False),
    multiple=True,
    help="Only runs in this failed state.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    default=MAX_ATTEMPTS,
    show_default=True,
    metavar="N",
    help="Skip runs with N or more attempts.",
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
    how: LaunchOptions,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Train failed runs again: those of SPEC, or without it those of every launched sweep, with their top-ups.

    --where takes the columns of `imagine-results runs`.

    Example: imagine-sweep retry table3 --state out_of_memory launcher.mem_gb=16
    """
    from results_db.query import where as filters
    from results_db.query.failures import with_causes
    from sweeps.spec.stored import sweeps_of

    with reading(how.db) as store:
        frame = with_causes(store)
        sweeps = sweeps_of(store, spec, overrides, report=say)
        chosen = filters.apply(where, frame)
        if where is not None and chosen.empty:
            raise StoreError(f"--where '{where}': no run matches; see imagine-results runs")
        failed = failed_runs(chosen, states=states)
        known = set(frame["run_id"])
    retries = plan_retries(sweeps, failed, known=known, max_attempts=max_attempts, limit=how.limit)
    if dry_run:
        _show(retries, failed, as_json=as_json)
    left = _say_left([run_id for retry in retries for run_id in retry.left], max_attempts=max_attempts)
    runs = [run for retry in retries for run in retry.expansion.runs]
    if not runs and not left and not (dry_run and as_json):
        say("no failed run of a sweep to train again; see imagine-sweep status")
    if dry_run:
        if not as_json:
            for each in retries:
                options.show_preview(each.spec, each.expansion, replace(how, retry_failed=True))
        return 0
    what = f"{counted(len(runs), 'failed run')} to train again"
    options.confirm(what, len(runs), then="Train them", yes=how.yes)
    if spec is None:
        retries = [each for each in retries if each.expansion.runs]
    results = _train(retries, replace(how, retry_failed=True))
    if as_json:
        said = [result.as_dict() for result in results]
        options.print_json(said if spec is None else said[0])
    return max([console.SOME_FAILED if left else 0, *(result.exit_code for result in results)])


def _train(retries: Sequence[Retry], how: LaunchOptions) -> "list[LaunchResult]":
    """Trains sweep after sweep, each with its own launcher, until one is interrupted."""
    from sweeps.launch.launch import launch

    results: list[LaunchResult] = []
    for retry in retries:
        results.append(launch(retry.spec, retry.expansion, how))
        if results[-1].interrupted:
            break
    return results


def _show(retries: Sequence[Retry], failed: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    """Prints the runs that would be trained."""
    rows: list[dict[str, Any]] = [
        {"run_id": run_id if as_json else short(run_id), **label, **failed[run_id]}
        for run_id, label in labels((retry.spec, retry.expansion) for retry in retries).items()
    ]
    if rows or as_json:
        options.print_rows(rows, as_json=as_json)


def _say_left(run_ids: Sequence[str], *, max_attempts: int) -> bool:
    """Names the runs that have used up their attempts, and returns whether there are any."""
    if run_ids:
        named = ", ".join(short(run_id) for run_id in run_ids[:_MOST_NAMED])
        more = f" and {len(run_ids) - _MOST_NAMED} more" if len(run_ids) > _MOST_NAMED else ""
        say(
            f"skipped after {counted(max_attempts, 'attempt')} or more: {named}{more}; see imagine-results show RUN, "
            "or raise --max-attempts"
        )
    return bool(run_ids)
