"""Trains the packs of a launch on this machine."""

from collections.abc import Sequence
from contextlib import closing

from jobs.progress import Display, duration
from jobs.provenance import lose_dead_attempts
from results_db.contract import FAILURES, INTERRUPTED, State, Store
from results_db.spool.ingest import ingest
from results_db.store import open_store
from results_db.text import counted
from slurm.local import LocalLauncher, resources
from slurm.submit.launchers import Launcher
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import LaunchResult, Prepared, prepare
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.status.cell import dead_runs, describe
from sweeps.status.plan import make_plan


def launch_locally(
    spec: Spec, expansion: Expansion, options: LaunchOptions, *, launcher: Launcher
) -> LaunchResult:
    """Trains the runs that the store lacks, and returns when they have ended. See `launch`."""
    cpus = launcher.settings.get("cpus_per_task")
    machine = resources(cpus_per_task=int(str(cpus)) if cpus else None, workers=options.workers)
    with prepare(spec, expansion, options, on_gpus=bool(machine.gpus), recover=_recover) as ready:
        workers = min(machine.workers, len(ready.packs))
        run_ids = [run.run_id for pack in ready.packs for run in pack.runs]
        display = Display(run_ids, workers=workers, estimate=ready.plan.estimate)
        for line in (*ready.notes, _opening(ready, workers=workers)):
            display.say(line)
        labels = {
            run.run_id: describe({**cell.columns, "seed": run.config["seed"]})
            for cell in expansion.cells
            for run in cell.runs
        }
        local = LocalLauncher(ready.store, machine=machine, display=display, labels=labels)
        ready.stage()
        if ready.packs:
            with display:
                local.run(ready.packs)
    result = _result(spec, expansion, local, db=options.db)
    display.say(_closing(result, trained=ready.runs))
    return result


def _recover(store: Store) -> Sequence[str]:
    """Ingests the spool, and records attempts of dead workers as LOST."""
    found = ingest(store)
    lose_dead_attempts(store)
    return [*found.damaged, *found.left]


def _result(spec: Spec, expansion: Expansion, local: LocalLauncher, *, db: str | None) -> LaunchResult:
    """The result. Opens the store again, because an open store does not notice that its file was removed."""
    with closing(open_store(db, create=False)) as store:
        counts = make_plan(expansion, store, dead=dead_runs(store)).counts
        stored = store.states(local.states)
    failure = local.failure
    trained = [run_id for run_id, state in local.states.items() if state is State.COMPLETED]
    if any(stored.get(run_id) is not State.COMPLETED for run_id in trained):
        failure = f"{store.display_url} lacks runs that were trained, as if it was removed; launch again"
    return LaunchResult(
        name=spec.name,
        counts=counts,
        states=local.states,
        interrupted=local.interrupted and counts.to_submit > 0,
        failure=failure,
    )


def _opening(ready: Prepared, *, workers: int) -> str:
    if not ready.packs:
        return ready.nothing_to_train
    counts, expected, seconds = ready.plan.counts, "", ready.plan.expected_seconds
    if seconds is not None:
        share = ready.runs / counts.to_submit / workers
        expected = f", about {duration(seconds * share)} by past runs"
    return (
        f"{ready.spec.name}: training {ready.runs} of {counted(counts.total, 'run')} ({counts.stored} stored, "
        f"{counts.active} active, {counts.failed} failed), packs: {len(ready.packs)}, workers: {workers}{expected}"
    )


def _closing(result: LaunchResult, *, trained: int) -> str:
    if result.failure:
        return f"{result.name}: {result.failure}"
    counts = result.counts
    if result.interrupted:
        left = counted(counts.to_submit, "run")
        return f"{result.name}: interrupted with {left} to submit; launch again to continue"
    line = f"{result.name}: {counts.stored} of {counted(counts.total, 'run')} stored"
    if counts.failed:
        states = " ".join(f"--state {state}" for state in sorted(FAILURES))
        line += f", {counts.failed} failed (imagine-results runs {states}; launch --retry-failed)"
    interrupted = sum(state in INTERRUPTED for state in result.states.values())
    if interrupted:
        line += f", {interrupted} interrupted (imagine-results show RUN names the log); launch again"
    return line if trained or counts.failed else line + "; see imagine-results table"
