"""From a spec's expansion to packs, whoever trains them, and to trained runs on this machine."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jobs.pack import Pack, group
from jobs.progress import Display, duration
from jobs.provenance import dead_attempts, lose_dead_attempts
from results_db import console
from results_db.contract import FAILURES, INTERRUPTED, NewSweep, State, Store
from results_db.files import Files
from results_db.spool.ingest import ingest
from results_db.store import open_store
from results_db.store.address import locate
from results_db.text import counted
from results_db.views.tables import text
from slurm.local import LocalLauncher, resources
from slurm.submit.launchers import Launcher
from sweeps.launch.plan import Counts, Plan, make_plan
from sweeps.spec.expand import Expansion, in_breadth_first_order
from sweeps.spec.model import Spec

GPU_PACK = 16
"""Runs that a GPU trains at once unless somebody says otherwise."""


@dataclass(frozen=True)
class LaunchResult:
    """What a launch did.

    Attributes:
        name: the sweep.
        states: run id to the state in which it ended, of the runs that were trained here.
        counts: of the whole spec, afterwards.
        interrupted: somebody stopped it.
        failure: why nothing could be trained, or None.
        submitted: how many runs were put into a scheduler's queue.
        jobs: the scheduler's ids of the jobs that train them.
    """

    name: str
    states: Mapping[str, State]
    counts: Counts
    interrupted: bool = False
    failure: str | None = None
    submitted: int = 0
    jobs: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """0: done; 1: some runs failed; 130: interrupted."""
        if self.interrupted:
            return console.INTERRUPTED
        completed = all(state is State.COMPLETED for state in self.states.values())
        return console.SOME_FAILED if self.failure or self.counts.failed or not completed else 0

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "name": self.name,
            "trained": {run_id: str(state) for run_id, state in self.states.items()},
            "submitted": self.submitted,
            "jobs": list(self.jobs),
            **self.counts.as_dict(),
            "interrupted": self.interrupted,
            "failure": self.failure,
        }


def launch_locally(
    spec: Spec,
    expansion: Expansion,
    *,
    launcher: Launcher,
    db: str | None,
    retry_failed: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    pack_size: int | None = None,
) -> LaunchResult:
    """Stage the spec's runs, and train on this machine those that the store lacks.

    Args:
        spec: the spec, overrides applied.
        expansion: its cells and runs.
        launcher: a local one.
        db: the store; see `results_db.store.address`.
        retry_failed: train failed runs again, too.
        limit: train only what is missing of the first so many runs.
        workers: processes; default: one per GPU, or one per `launcher.cpus_per_task` cores.
        pack_size: runs that one worker trains at once; default: 16 on a GPU, 1 on a CPU.

    Raises:
        StoreError: see `open_store`; or the folder beside the store cannot be written.
    """
    Files(locate(db).folder).check_writable()
    store = open_store(db, create=True)
    try:
        found = ingest(store)
        lose_dead_attempts(store)
        store.stage(expansion.runs, sweep=NewSweep(spec.name, spec.composed))
        plan = make_plan(expansion, store, retry_failed=retry_failed)
        cpus = launcher.settings.get("cpus_per_task")
        machine = resources(cpus_per_task=int(str(cpus)) if cpus else None, workers=workers)
        size = pack_size or (GPU_PACK if machine.gpus else 1)
        packs = open_packs(expansion, plan, size=size, limit=limit, alone=out_of_memory(store))
        chosen = [run for pack in packs for run in pack.runs]
        parallel = min(machine.workers, len(packs))
        display = Display(total=len(chosen), workers=parallel, expected_s=_expected(plan))
        for line in (*found.damaged, *found.left):
            display.say(line)
        display.say(_opening(spec, plan, trained=len(chosen), workers=parallel, packs=len(packs)))
        local = LocalLauncher(store, machine=machine, display=display, labels=_labels(expansion))
        if packs:
            with display:
                local.run(packs)
    finally:
        store.close()
    result = _result(spec, expansion, local, db=db)
    display.say(_closing(result, chosen=len(chosen)))
    return result


def open_packs(
    expansion: Expansion, plan: Plan, *, size: int, limit: int | None, alone: Collection[str] = ()
) -> list[Pack]:
    """What there is to train of the first `limit` runs.

    Packs are formed of all runs, and those that are done then left out: so a run that is resumed has the partners
    that it had, and its result is the undisturbed one.

    Args:
        expansion: all cells and runs.
        plan: says which are open.
        size: runs of a pack, at most.
        limit: how many runs, of the first ones; None: all.
        alone: ids of runs that get a pack of their own.
    """
    first = in_breadth_first_order(expansion)[:limit]
    open_ids = {run.run_id for run in plan.to_submit}
    packs = []
    for pack in group(first, size=size):
        left = [run for run in pack.runs if run.run_id in open_ids]
        together = tuple(run for run in left if run.run_id not in alone)
        packs += [Pack(together)] if together else []
        packs += [Pack((run,)) for run in left if run.run_id in alone]
    return packs


def out_of_memory(store: Store) -> set[str]:
    """Ids of runs whose job or process had too little memory: who of the pack it was, nobody says."""
    return {one.attempt.run_id for one in store.ended_attempts({State.OUT_OF_MEMORY})}


def _result(spec: Spec, expansion: Expansion, local: LocalLauncher, *, db: str | None) -> LaunchResult:
    """What the store, opened anew, holds after the launch: an open one does not notice that its file was removed."""
    store = open_store(db, create=False)
    try:
        dead = [attempt.run_id for attempt in dead_attempts(store)]
        counts = make_plan(expansion, store, dead=dead).counts
        stored = store.states(local.states)
    finally:
        store.close()
    failure = local.failure
    trained = [run_id for run_id, state in local.states.items() if state is State.COMPLETED]
    if any(stored.get(run_id) is not State.COMPLETED for run_id in trained):
        failure = f"{store.display_url} lacks runs that were trained: was it removed meanwhile? launch again"
    interrupted = local.interrupted and counts.to_submit > 0
    return LaunchResult(spec.name, local.states, counts, interrupted, failure)


def _expected(plan: Plan) -> float | None:
    """Mean seconds of a run to submit, by past runs."""
    total, runs = plan.expected_seconds, plan.counts.to_submit
    return total / runs if total is not None and runs else None


def _opening(spec: Spec, plan: Plan, *, trained: int, workers: int, packs: int) -> str:
    counts = plan.counts
    if not trained:
        return nothing_to_train(spec, counts)
    mean = _expected(plan)
    expected = "" if mean is None else f", about {duration(mean * trained / workers)} by past runs"
    return (
        f"{spec.name}: training {trained} of {counted(counts.total, 'run')} ({counts.stored} stored, "
        f"{counts.active} active, {counts.failed} failed), packs: {packs}, workers: {workers}{expected}"
    )


def nothing_to_train(spec: Spec, counts: Counts) -> str:
    """What is said where no run is left to train."""
    hint = "; --retry-failed takes the failed ones" if counts.failed else ""
    return (
        f"{spec.name}: nothing to train: {counts.stored} stored, {counts.active} active, "
        f"{counts.failed} failed of {counted(counts.total, 'run')}{hint}"
    )


def _closing(result: LaunchResult, *, chosen: int) -> str:
    if result.failure:
        return f"{result.name}: {result.failure}"
    counts = result.counts
    if result.interrupted:
        left = counted(counts.to_submit, "run")
        return f"{result.name}: stopped with {left} open; the same command goes on from here"
    line = f"{result.name}: {counts.stored} of {counted(counts.total, 'run')} stored"
    if counts.failed:
        states = " ".join(f"--state {state}" for state in sorted(FAILURES))
        line += f", {counts.failed} failed (imagine-results runs {states}; launch --retry-failed)"
    stopped = sum(state in INTERRUPTED for state in result.states.values())
    if stopped:
        line += (
            f", {stopped} stopped by something else (imagine-results show RUN names their log); launch again"
        )
    return line if chosen or counts.failed else line + "; see imagine-results table"


def _labels(expansion: Expansion) -> dict[str, str]:
    """Run id to what tells it from the others."""
    return {
        run.run_id: " ".join(
            f"{key}={text(value)}" for key, value in [*cell.columns.items(), ("seed", run.config["seed"])]
        )
        for cell in expansion.cells
        for run in cell.runs
    }
