"""The commands that deal with what was launched: `logs`, `cancel`, `reconcile`."""

import json
from collections.abc import Collection, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.contract import ACTIVE, StoreError
from results_db.text import counted
from sweeps.cli import options

if TYPE_CHECKING:
    from results_db.contract import Store
    from slurm.client.client import Slurm
    from slurm.follow.cancel import Cancellation


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Show what is added, until the run is over.")
@console.limit_option
@console.json_option
@console.db_option
def logs(*, run: str, follow: bool, limit: int | None, as_json: bool, db: str | None) -> None:
    """The log of a run's newest attempt, on this machine or on Slurm; -n shows its last lines alone.

    RUN is its id, or the first characters of it. Runs that train together share a log.
    """
    from results_db.store import open_store
    from slurm.follow import logs as files

    if follow and as_json:
        raise click.UsageError("--json is for a log as it stands; leave -f out")
    with closing(open_store(db, create=False)) as store:
        run_id = store.find(run)
        if follow:
            for text in files.follow(store, run_id, note=lambda line: click.echo(line, err=True), last=limit):
                click.echo(text, nl=False)
            return
        lines = files.read(store, run_id).splitlines()
        shown = lines[-limit:] if limit else lines
        if as_json:
            log = files.newest_log(store, run_id)
            about = {"run_id": run_id, "attempt": log.attempt, "state": str(log.state), "job_id": log.job_id}
            click.echo(json.dumps({**about, "log": str(log.path), "lines": shown}, indent=2))
        elif shown:
            click.echo("\n".join(shown))
        else:
            click.echo(f"the log of run {run_id[:10]} is empty", err=True)


@click.command()
@options.optional_spec_arguments
@console.where_option
@click.option(
    "--state",
    "states",
    type=click.Choice(sorted(map(str, ACTIVE)), case_sensitive=False),
    multiple=True,
    help="Only runs that wait, or that train.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@options.yes_option
@console.json_option
@console.db_option
def cancel(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    where: str | None,
    states: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    db: str | None,
) -> int:
    """Stop runs that wait or train: of SPEC, or without it of all sweeps, those that --where and --state choose.

    A job trains several runs together; one that trains others, too, goes on for them. The next launch goes on with what
    was cancelled.
    """
    from results_db.store import open_store
    from slurm.client.client import Slurm, SlurmError
    from slurm.follow import cancel as cancelling

    if spec is None and where is None and not states:
        raise click.UsageError(
            "cancel what? name a SPEC, --where or --state; all of it is --state pending --state running"
        )
    slurm = Slurm()
    with closing(open_store(db, create=False)) as store:
        found = _to_cancel(store, slurm, _chosen(store, spec, overrides, where), states)
        if not found.run_ids:
            raise StoreError(
                f"{_filter(spec, where, states)}: no run waits or trains; see imagine-sweep status"
            )
        if not dry_run:
            what = f"{counted(len(found.run_ids), 'run')} to cancel, and {counted(len(found.jobs), 'job')}"
            options.confirm(what, len(found.run_ids), yes=yes)
            try:
                cancelling.carry_out(found, store, slurm)
            except SlurmError as error:
                click.echo(f"{error}; give the same command again", err=True)
                return console.SOME_FAILED
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        done, *remarks = found.lines()
        would = f"would cancel {counted(len(found.run_ids), 'run')}, and {counted(len(found.jobs), 'job')} with them"
        for line in (would if dry_run else done, *remarks):
            click.echo(line)
    return 0


def _chosen(
    store: "Store", spec: str | None, overrides: tuple[str, ...], where: str | None
) -> Collection[str]:
    """Ids of the runs that SPEC, with its top-ups, and --where name."""
    from results_db.query import where as filters
    from sweeps.follow.coverage import with_top_ups

    frame = store.runs()
    chosen = set(filters.apply(where, frame)["run_id"])
    if spec is None:
        return chosen
    _, expansion = options.find_sweep(store, spec, overrides)
    return chosen & {run.run_id for run in with_top_ups(expansion, set(frame["run_id"])).runs}


def _to_cancel(
    store: "Store", slurm: "Slurm", run_ids: Collection[str], states: Sequence[str]
) -> "Cancellation":
    """What there is to cancel.

    Raises:
        SlurmError: some of it is Slurm's, which does not answer.
    """
    from results_db.contract import INTERRUPTED, RESTARTABLE, State
    from slurm.client.client import SlurmError
    from slurm.client.parse import Answer, Unknown
    from slurm.follow.cancel import needs_slurm, plan
    from slurm.follow.reconcile import Reconciler

    found = Reconciler(store, slurm, hold=False).look()
    for line in found.lines:
        click.echo(line, err=True)
    open_attempts, queue = store.open_attempts(), found.queue
    if isinstance(queue, Unknown):
        interrupted = store.ended_attempts(RESTARTABLE & INTERRUPTED)
        if needs_slurm([*open_attempts, *interrupted], run_ids):
            raise SlurmError(f"nothing was cancelled: {queue.why}; try again, on a machine of the cluster")
        queue = Answer()
    return plan(open_attempts, queue=queue, run_ids=run_ids, states=[State(state) for state in states])


def _filter(spec: str | None, where: str | None, states: Sequence[str]) -> str:
    """What was asked for."""
    parts = [
        spec,
        f"--where '{where}'" if where is not None else None,
        *(f"--state {state}" for state in states),
    ]
    return " ".join(part for part in parts if part)


@click.command()
@options.optional_spec_arguments
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
@click.option("--release", is_flag=True, help="Let go what is held because its first runs failed alike.")
@console.json_option
@console.db_option
def reconcile(
    *,
    spec: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    release: bool,
    as_json: bool,
    db: str | None,
) -> int:
    """Bring the store up to what happened: of SPEC, or without it of everything.

    Takes in results that jobs left beside the store, finds jobs of launches that died, and asks heartbeats, squeue and
    sacct what became of every run that the store holds for waiting or training. May be run at any time.
    """
    from results_db.store import open_store
    from slurm.client.client import Slurm
    from slurm.client.parse import Answer, Unknown
    from slurm.follow.hold import held
    from slurm.follow.hold import release as let_go
    from slurm.follow.reconcile import Reconciler

    slurm = Slurm()
    with closing(open_store(db, create=False)) as store:
        run_ids = None if spec is None else _chosen(store, spec, overrides, None)
        reconciler = Reconciler(store, slurm, run_ids=run_ids, hold=not release)
        found = reconciler.look(dry_run=dry_run)
        released = []
        if release and not dry_run and isinstance(found.queue, Answer):
            released = let_go(store, found.open, queue=found.queue, slurm=slurm)
        holds = held(store.folder, [one.job_name for one in found.open if one.job_name])
    if as_json:
        names = [hold.job_name for hold in released]
        still = [{"job_name": hold.job_name, "cause": hold.cause} for hold in holds]
        click.echo(json.dumps({**found.as_dict(), "held": still, "released": names}, indent=2))
    else:
        changes = [*found.lines, *(f"{hold.job_name} is released" for hold in released)]
        for line in changes:
            click.echo(f"would be changed: {line}" if dry_run else line)
        still_held = [line for hold in holds if (line := hold.describe()) not in changes]
        for line in still_held:
            click.echo(line)
        if not changes and not still_held and isinstance(found.queue, Answer):
            click.echo("nothing to change")
    for line in found.unknown:
        click.echo(line, err=True)
    return console.SOME_FAILED if isinstance(found.queue, Unknown) else 0
