"""Trains the packs of a launch on this machine."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

from imagination import registry
from imagination.schema import ConfigError, RunConfig
from jobs.pack import Pack
from jobs.progress import Display
from jobs.provenance import lose_dead_attempts
from results_db.contract import FAILURES, INTERRUPTED, State, Store
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool
from results_db.store import open_store
from results_db.text import counted
from slurm.local import LocalLauncher
from slurm.submit.launchers import Launcher
from sweeps.launch.machines import in_words, local_resources, on_this_machine, packs_in_words
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import LaunchResult, Prepared, prepare
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.status.blocked import lines
from sweeps.status.cell import dead_runs, describe
from sweeps.status.expected import Machines
from sweeps.status.plan import make_plan


def launch_locally(
    spec: Spec, expansion: Expansion, options: LaunchOptions, *, launcher: Launcher
) -> LaunchResult:
    """Trains the runs that the store lacks, and returns when they have ended. See `launch`."""
    machine = local_resources(launcher, workers=options.workers)
    machines = on_this_machine(machine)
    with prepare(spec, expansion, options, machines=machines, recover=_recover) as ready:
        _check_machine(ready.packs)
        display = Display(
            [[run.run_id for run in pack.runs] for pack in ready.packs],
            workers=ready.expected.workers,
            device=machines.device or "",
            estimate=ready.expected.estimate,
        )
        for line in (*ready.notes, *_opening(ready, machines)):
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
    stopped = {run_id: why for run_id, why in result.blocked.items() if run_id in result.states}
    for line in lines(stopped):
        display.say(f"{spec.name}: {line}")
    display.say(_closing(result, trained=ready.runs))
    return result


def _check_machine(packs: Sequence[Pack]) -> None:
    """Raises ConfigError if this machine lacks what runs of these packs use."""
    configs: dict[str, list[RunConfig]] = defaultdict(list)
    for run in (run for pack in packs for run in pack.runs):
        name = str(run.config["experiment"])
        configs[name].append(registry.rebuilt(run.config))
    for name, same in configs.items():
        path = registry.declaration(name).ready
        try:
            if path:
                registry.load(path)(same)
        except ImportError as error:
            raise ConfigError(
                f"experiment '{name}' needs a package that is not installed here, {error.name}; install it with pip"
            ) from None


def _recover(store: Store) -> Sequence[str]:
    """Ingests the spool, and records attempts of dead workers as LOST."""
    found = ingest(store)
    lose_dead_attempts(store)
    return [*found.damaged, *found.left]


def _result(spec: Spec, expansion: Expansion, local: LocalLauncher, *, db: str | None) -> LaunchResult:
    """The result. Opens the store again, because an open store does not notice that its file was removed."""
    with closing(open_store(db, create=False)) as store:
        plan = make_plan(expansion, store, dead=dead_runs(store))
        stored = store.states(local.states)
    failure = local.failure
    trained = [run_id for run_id, state in local.states.items() if state is State.COMPLETED]
    lacking = [run_id for run_id in trained if stored.get(run_id) is not State.COMPLETED]
    waiting = len(Spool(store.folder).attempts())
    if lacking and waiting:
        failure = (
            f"{counted(waiting, 'result')} wait in the spool of {store.display_url} (imagine-results ingest)"
        )
    elif lacking:
        failure = f"{store.display_url} lacks runs that were trained, as if it was removed; launch again"
    return LaunchResult(
        name=spec.name,
        counts=plan.counts,
        blocked=plan.blocked,
        states=local.states,
        interrupted=local.interrupted and plan.counts.to_submit > 0,
        failure=failure,
    )


def _opening(ready: Prepared, machines: Machines) -> list[str]:
    if not ready.packs:
        return [ready.nothing_to_train]
    counts, workers = ready.plan.counts, ready.expected.workers
    others = {
        "stored": counts.stored,
        "active": counts.active,
        "failed": counts.failed,
        "blocked": counts.blocked,
    }
    beside = ", ".join(f"{count} {word}" for word, count in others.items() if count)
    packs = packs_in_words(ready.packs, machines)
    return [
        f"{ready.spec.name}: training {ready.runs} of {counted(counts.total, 'run')} in "
        f"{counted(len(ready.packs), 'pack')} on {counted(workers, 'worker')}"
        + (f" ({beside})" if beside else ""),
        f"{ready.spec.name}: {in_words(ready.expected, machines)}",
        *([f"{ready.spec.name}: {packs}"] if packs else []),
    ]


def _closing(result: LaunchResult, *, trained: int) -> str:
    if result.failure:
        return f"{result.name}: {result.failure}"
    counts = result.counts
    if result.interrupted:
        stored = f"{counts.stored} of {counted(counts.total, 'run')} stored"
        return f"{result.name}: interrupted, {stored}; the same command trains {counts.to_submit} more"
    line = f"{result.name}: {counts.stored} of {counted(counts.total, 'run')} stored"
    if counts.failed:
        states = " ".join(f"--state {state}" for state in sorted(FAILURES))
        line += f", {counts.failed} failed (imagine-results runs {states}; launch --retry-failed)"
    if counts.blocked:
        line += f", {counts.blocked} blocked"
    ended = {run_id: state for run_id, state in result.states.items() if run_id not in result.blocked}
    interrupted = sum(state in INTERRUPTED for state in ended.values())
    if interrupted:
        line += f", {interrupted} interrupted (imagine-results show RUN names the log); launch again"
    return line if trained or counts.failed or counts.blocked else line + "; see imagine-results table"
