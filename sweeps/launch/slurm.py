"""Submits the packs of a launch to Slurm."""

from collections.abc import Sequence

from results_db import console
from results_db.contract import Store
from results_db.store.address import locate
from results_db.text import counted
from slurm.client.client import Slurm, array_limit
from slurm.follow.reconcile import Reconciler
from slurm.submit.check import START_WITHIN_S, check_node
from slurm.submit.dispatch import Submission
from slurm.submit.folders import check_folders
from slurm.submit.launchers import Launcher, Resources
from sweeps.launch.machines import in_words, on_slurm, packs_in_words
from sweeps.launch.options import LaunchOptions, say
from sweeps.launch.prepare import LaunchResult, Prepared, prepare
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.status.expected import Machines
from sweeps.status.plan import make_plan


def launch_on_slurm(
    spec: Spec, expansion: Expansion, options: LaunchOptions, *, launcher: Launcher
) -> LaunchResult:
    """Submits the runs that the store lacks, and returns as soon as their jobs are queued. See `launch`.

    Raises:
        ConfigError: there is no Slurm here, a setting is wrong, the checked node cannot train, or Slurm refused.
        StoreError: see `prepare`.
    """
    limit = array_limit()
    resources = Resources.of(launcher)
    check_folders(locate(options.db).folder, resources, snapshot=options.snapshot)
    machines = on_slurm(resources)
    with prepare(spec, expansion, options, machines=machines, recover=_recover) as ready:
        for line in ready.notes:
            say(line)
        if not ready.packs:
            ready.stage()
            say(ready.nothing_to_train)
            return LaunchResult(name=spec.name, counts=ready.plan.counts, blocked=ready.plan.blocked)
        if packs := packs_in_words(ready.packs, machines):
            say(f"{spec.name}: {packs}")
        what = _confirm(ready, machines, options)
        if options.check:
            _check(ready.store, resources)
        say(what)
        ready.stage()
        done = Submission(
            ready.store,
            resources,
            sweep=spec.name,
            hold_after=options.hold_after,
            retry_failed=options.retry_failed,
            snapshot=options.snapshot,
        )
        interrupted = _submit(done, ready, limit=limit)
        after = make_plan(expansion, ready.store)
    say(_interrupted(spec, done) if interrupted else _closing(spec, done))
    return LaunchResult(
        name=spec.name,
        counts=after.counts,
        blocked=after.blocked,
        submitted=done.runs,
        jobs=done.jobs,
        interrupted=interrupted,
    )


def _submit(submission: Submission, ready: Prepared, *, limit: int) -> bool:
    """Submits the packs. Returns whether Ctrl-C ended it before all were submitted.

    Raises:
        ConfigError: Slurm refused.
    """
    done = False
    try:
        submission.submit(ready.packs, limit=limit)
        done = True
    except KeyboardInterrupt:
        return True
    finally:
        if not (done or submission.jobs or submission.unclear):
            ready.forget()
    return False


def _recover(store: Store) -> Sequence[str]:
    """Reconciles the store with the jobs of earlier launches."""
    found = Reconciler(store, Slurm()).look()
    return [*found.lines, *found.unknown]


def _confirm(ready: Prepared, machines: Machines, options: LaunchOptions) -> str:
    """Describes the launch. Asks first if past runs suggest too many GPU-hours."""
    runs = counted(ready.plan.counts.total, "run")
    of_all = f"{ready.runs} of {runs} in {counted(len(ready.packs), 'pack')}"
    what = f"{ready.spec.name}: {of_all}, {in_words(ready.expected, machines)}"
    if machines.hours(ready.expected.known_seconds) > options.ask_above and not options.yes:
        console.ask(what, f"more than {options.ask_above:g} hours", then="Submit them")
    return what


def _check(store: Store, resources: Resources) -> None:
    checking = f"checking a node, for up to {START_WITHIN_S} s (--no-check skips this)"
    unchecked = check_node(store, resources, waits=lambda: say(checking))
    if unchecked is not None:
        say(f"{unchecked}; submitting anyway, because every job checks its own node")


def _interrupted(spec: Spec, done: Submission) -> str:
    queued = "nothing is queued"
    if done.jobs:
        jobs = f"{counted(done.runs, 'run')} queued as job {', '.join(done.jobs)}"
        queued = f"{jobs}, which imagine-sweep cancel {spec.name} ends"
    unclear = f"; {counted(done.unclear, 'run')} may be queued, too" if done.unclear else ""
    return f"{spec.name}: interrupted, {queued}{unclear}; the same command submits the others"


def _closing(spec: Spec, done: Submission) -> str:
    if not done.jobs:
        return f"{spec.name}: nothing submitted: another launch has claimed these runs"
    return (
        f"{spec.name}: submitted {counted(done.runs, 'run')} as {counted(done.tasks, 'task')}, "
        f"job {', '.join(done.jobs)}; see imagine-sweep watch {spec.name}"
    )
