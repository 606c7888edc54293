"""The commands for launched runs: `logs`, `cancel`, `reconcile`."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.contract import ACTIVE, INTERRUPTED, RESTARTABLE, State, Store, StoreError
from results_db.text import counted, short
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Answer, Unknown
from slurm.follow import hold
from sweeps.cli import options
from sweeps.launch.options import say

if TYPE_CHECKING:
    from slurm.follow.cancel import Cancellation


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Show new lines until the run ends.")
@console.limit_option
@console.json_option
@options.store_option()
def logs(*, run: str, follow: bool, limit: int | None, as_json: bool, store: Store) -> None:
    """Show the log of a run's newest attempt, on this machine or on Slurm; -n N shows its last N lines.

    RUN is a run id or a prefix of it. Runs that train together share a log.

    Example: imagine-sweep logs 3f2a -f -n 20
    """
    from slurm.follow import logs as files

    if follow and as_json:
        raise click.UsageError("--json prints the log once and -f follows it; give one of them")
    run_id = store.find(run)
    if follow:
        for text in files.follow(store, run_id, note=say, last=limit):
            click.echo(text, nl=False)
        return
    lines = files.read(store, run_id).splitlines()
    shown = lines[-limit:] if limit else lines
    if as_json:
        log = files.newest_log(store, run_id)
        about = {"run_id": run_id, "attempt": log.attempt, "state": str(log.state), "job_id": log.job_id}
        options.print_json({**about, "log": str(log.path), "lines": shown})
    elif shown:
        click.echo("\n".join(shown))
    else:
        say(f"the log of run {short(run_id)} is empty")


@click.command()
@options.optional_spec_arguments
@console.where_option
@click.option(
    "--state",
    "states",
    type=click.Choice(sorted(map(str, ACTIVE)), case_sensitive=False),
    multiple=True,
    help="Only waiting runs (PENDING), or only running ones.",
)
@click.option("--dry-run", is_flag=True, help="Only show what the command would do.")
@options.yes_option
@console.json_option
@options.store_option(write=True)
def cancel(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    states: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    store: Store,
) -> int:
    """Cancel active runs of SPEC, or without it of all sweeps. --where and --state choose among them.

    A job that also trains other runs continues with those. The next launch continues the cancelled runs.

    Example: imagine-sweep cancel table3 --where 'seed>9' --state pending
    """
    from slurm.follow import cancel as cancelling

    if spec is None and where is None and not states:
        raise click.UsageError(
            "no runs chosen; give a SPEC, --where or --state, or for all active runs --state pending --state running"
        )
    slurm = Slurm()
    chosen = _chosen(store, spec, overrides, where)
    found = _to_cancel(store, slurm, chosen, states, dry_run=dry_run)
    if spec is not None and where is None and (others := _of_other_launches(store, spec, overrides, chosen)):
        say(others)
    if not found.run_ids:
        raise StoreError(f"{_filter(spec, where, states)}: no active run matches; see imagine-sweep status")
    if not dry_run:
        what = f"{counted(len(found.run_ids), 'run')} and {counted(len(found.jobs), 'job')} to cancel"
        options.confirm(what, len(found.run_ids), then="Cancel them", yes=yes)
        try:
            cancelling.carry_out(found, store, slurm)
        except SlurmError as error:
            say(f"{error}; give the same command again")
            return console.SOME_FAILED
    if as_json:
        options.print_json(found.as_dict())
    else:
        if dry_run:
            _show(store, found, spec, overrides)
        done, *remarks = found.lines()
        would = f"would cancel {counted(len(found.run_ids), 'run')} and {counted(len(found.jobs), 'job')}"
        for line in (would if dry_run else done, *remarks):
            click.echo(line)
    return 0


def _chosen(store: Store, spec: str | None, overrides: Sequence[str], where: str | None) -> set[str]:
    """Ids of the runs that match SPEC, its top-ups included, and --where."""
    from results_db.query import where as filters
    from sweeps.follow.coverage import with_top_ups
    from sweeps.spec.stored import find_sweep

    frame = store.runs()
    chosen = set(filters.apply(where, frame)["run_id"])
    if spec is None:
        return chosen
    _, expansion = find_sweep(store, spec, overrides, report=say)
    return chosen & {run.run_id for run in with_top_ups(expansion, set(frame["run_id"])).runs}


def _of_other_launches(
    store: Store, spec: str, overrides: Sequence[str], chosen: Collection[str]
) -> str | None:
    """A line on active runs that only other launches of this sweep wanted, as of an earlier version of its file."""
    from results_db.columns import names_in
    from slurm.client.parse import base
    from sweeps.spec.stored import find_spec

    name = find_spec(store, spec, overrides, report=lambda _: None)[0].name
    frame = store.runs()
    members = {
        run for run, cell in zip(frame["run_id"], frame["sweep"], strict=True) if name in names_in(cell)
    }
    others = [one for one in store.open_attempts() if one.attempt.run_id in members - set(chosen)]
    if not others:
        return None
    jobs = dict.fromkeys(base(one.job_id) for one in others if one.job_id)
    named = f" (job {', '.join(jobs)})" if jobs else ""
    return (
        f"{name}: {counted(len(others), 'active run')} of other launches{named} stay; "
        f"for all: imagine-sweep cancel --where sweep={name}"
    )


def _show(store: Store, found: "Cancellation", spec: str | None, overrides: Sequence[str]) -> None:
    """Prints the runs that would be cancelled. A run that no sweep wants has only its id."""
    from sweeps.follow.coverage import grown, labels
    from sweeps.spec.stored import sweeps_of
    from sweeps.status.cell import status_of

    known = set(store.runs()["run_id"])
    named = labels(grown(sweeps_of(store, spec, overrides, report=lambda _: None), known))
    active = {one.attempt.run_id: one for one in store.open_attempts()}
    rows = [
        {
            "run_id": short(run_id),
            **named.get(run_id, {}),
            "status": status_of(active[run_id].state),
            "job": active[run_id].job_id,
        }
        for run_id in found.run_ids
        if run_id in active  # else it has just ended
    ]
    options.print_rows(rows, as_json=False)


def _to_cancel(
    store: Store, slurm: Slurm, run_ids: Collection[str], states: Sequence[str], *, dry_run: bool
) -> "Cancellation":
    """The runs and jobs to cancel.

    Raises:
        SlurmError: Slurm does not answer, and its jobs may train some of the runs.
    """
    from slurm.follow.cancel import needs_slurm, plan
    from slurm.follow.reconcile import Reconciler

    found = Reconciler(store, slurm, hold=False).look(dry_run=dry_run)
    for line in found.lines:
        say(f"would change: {line}" if dry_run else line)
    ended = {one.attempt for one in found.ended}
    open_attempts = [one for one in store.open_attempts() if one.attempt not in ended]
    queue = found.queue
    if isinstance(queue, Unknown):
        interrupted = store.ended_attempts(RESTARTABLE & INTERRUPTED)
        if needs_slurm([*open_attempts, *interrupted], run_ids):
            raise SlurmError(f"nothing was cancelled: {queue.why}; try again, on a machine of the cluster")
        queue = Answer()
    return plan(open_attempts, queue=queue, run_ids=run_ids, states=[State(state) for state in states])


def _filter(spec: str | None, where: str | None, states: Sequence[str]) -> str:
    """The choice of runs, as on the command line."""
    given = [spec, where and f"--where '{where}'", *(f"--state {state}" for state in states)]
    return " ".join(text for text in given if text)


@click.command()
@options.optional_spec_arguments
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--release", is_flag=True, help="Release the jobs that a fault holds.")
@console.json_option
@options.store_option(write=True)
def reconcile(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    release: bool,
    as_json: bool,
    store: Store,
) -> int:
    """Update the store: record what became of the runs of SPEC, or without it of all runs.

    It ingests results from the spool, finds the jobs of launches that died, and compares every PENDING or RUNNING run
    with heartbeats, squeue and sacct. It is safe at any time.

    Example: imagine-sweep reconcile table3 --dry-run
    """
    from slurm.follow.reconcile import Reconciler

    slurm = Slurm()
    run_ids = None if spec is None else _chosen(store, spec, overrides, None)
    reconciler = Reconciler(store, slurm, run_ids=run_ids, hold=not release)
    found = reconciler.look(dry_run=dry_run)
    released = []
    if release and not dry_run and isinstance(found.queue, Answer):
        released = hold.release(store, found.open, queue=found.queue, slurm=slurm)
    holds = hold.held(store.folder, [one.job_name for one in found.open if one.job_name])
    if as_json:
        names = [each.job_name for each in released]
        still = [{"job_name": each.job_name, "cause": each.cause} for each in holds]
        options.print_json({**found.as_dict(), "held": still, "released": names})
    else:
        changes = [*found.lines, *(f"{each.job_name} is released" for each in released)]
        for line in changes:
            console.say(f"would change: {line}" if dry_run else line)
        still_held = [line for each in holds if (line := each.describe()) not in changes]
        for line in still_held:
            console.say(line)
        if not changes and not still_held and isinstance(found.queue, Answer):
            console.say("nothing to change")
    for line in found.unknown:
        say(line)
    return console.SOME_FAILED if isinstance(found.queue, Unknown) else 0
