"""From a spec's expansion to jobs in the queue of a cluster."""

from collections.abc import Callable
from contextlib import closing

import click

from imagination.schema import ConfigError
from jobs.pack import Pack
from results_db.contract import NewSweep, Store
from results_db.files import Files
from results_db.store import open_store
from results_db.store.address import locate
from results_db.text import counted
from slurm.client.client import Slurm, array_limit
from slurm.follow.hold import HOLD_AFTER
from slurm.follow.reconcile import Reconciler
from slurm.job import PackJob
from slurm.submit.dispatch import Submitted, dispatch
from slurm.submit.launchers import Launcher, Resources
from slurm.submit.probe import START_WITHIN_S, probe
from sweeps.launch.local import GPU_PACK, LaunchResult, nothing_to_train, open_packs, out_of_memory
from sweeps.launch.plan import Plan, make_plan
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec


def launch_on_slurm(
    spec: Spec,
    expansion: Expansion,
    *,
    launcher: Launcher,
    db: str | None,
    retry_failed: bool = False,
    limit: int | None = None,
    pack_size: int | None = None,
    check: bool = True,
    hold_after: int = HOLD_AFTER,
    approve: Callable[[str, float], None] = lambda what, hours: None,
) -> LaunchResult:
    """Submit the runs that the store lacks, and return as soon as they are queued.

    Args:
        spec: the spec, overrides applied.
        expansion: its cells and runs.
        launcher: one of Slurm's.
        db: the store; see `results_db.store.address`.
        retry_failed: submit failed runs again, too.
        limit: submit only what is missing of the first so many runs.
        pack_size: runs of one job; default: 16 on a GPU, 1 on a CPU.
        check: let a node look first whether it can do the jobs' work.
        hold_after: identical failures at its start after which it is held; 0: never.
        approve: called with what is about to be submitted and the hours that past runs suggest; raises if not.

    Raises:
        ConfigError: no Slurm here, a setting that is wrong, a node that cannot do it, or Slurm refused.
        StoreError: see `open_store`; or the folder beside the store cannot be written.
    """
    limit_per_array = array_limit()
    resources = Resources.of(launcher)
    Files(locate(db).folder).check_writable()
    with closing(open_store(db, create=True)) as store:
        _take_up(store)
        plan = make_plan(expansion, store, retry_failed=retry_failed)
        packs = open_packs(
            expansion,
            plan,
            size=pack_size or (GPU_PACK if resources.gpus else 1),
            limit=limit,
            alone=out_of_memory(store),
        )
        sweep = NewSweep(spec.name, spec.composed)
        if not packs:
            store.stage(expansion.runs, sweep=sweep)
            _say(nothing_to_train(spec, plan.counts))
            return LaunchResult(spec.name, {}, plan.counts)
        what = _approve(spec, plan, packs, resources, approve)
        if check:
            _check(store, resources)
        _say(what)
        store.stage(expansion.runs, sweep=sweep)
        done = Submitted()
        try:
            dispatch(
                store,
                packs,
                resources=resources,
                limit=limit_per_array,
                sweep=spec.name,
                retry_failed=retry_failed,
                hold_after=hold_after,
                job=PackJob,
                done=done,
            )
        except ConfigError:
            if not done.jobs:
                store.forget(sweep)
            raise
        counts = make_plan(expansion, store).counts
    _say(_closing(spec, done))
    return LaunchResult(spec.name, {}, counts, submitted=done.runs, jobs=done.jobs)


def _take_up(store: Store) -> None:
    """What earlier launches and jobs left on their way, and what became of those that nobody heard of."""
    found = Reconciler(store, Slurm()).look()
    for line in (*found.lines, *found.unknown):
        _say(line)


def _approve(
    spec: Spec, plan: Plan, packs: list[Pack], resources: Resources, approve: Callable[[str, float], None]
) -> str:
    """What is about to be submitted, in words; approved."""
    runs = sum(len(pack.runs) for pack in packs)
    hours, expected = 0.0, f"no past runs to tell the {resources.unit} from"
    if plan.known_seconds is not None:
        hours = resources.hours(plan.known_seconds * runs / plan.counts.to_submit)
        about = "at least" if plan.expected_seconds is None else "about"
        expected = f"{about} {hours:.3g} {resources.unit} by past runs"
    of_all = f"{runs} of {counted(plan.counts.total, 'run')} in {counted(len(packs), 'pack')}"
    what = f"{spec.name}: {of_all}, {expected}"
    approve(what, hours)
    return what


def _check(store: Store, resources: Resources) -> None:
    def waits() -> None:
        _say(f"letting a node look first, up to {START_WITHIN_S} s (--no-check skips it)")

    unseen = probe(store, resources, waits=waits)
    if unseen is not None:
        _say(f"{unseen}; submitting all the same, every job looks for itself")


def _closing(spec: Spec, done: Submitted) -> str:
    if not done.jobs:
        return f"{spec.name}: nothing submitted: another launch was granted these runs"
    return (
        f"{spec.name}: submitted {counted(done.runs, 'run')} as {counted(done.packs, 'task')}, "
        f"job {', '.join(done.jobs)}; see imagine-sweep watch {spec.name}"
    )


def _say(line: str) -> None:
    click.echo(line, err=True)
