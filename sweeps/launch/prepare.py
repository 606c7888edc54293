"""Prepares a launch: recovers, plans and forms packs."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial

from imagination import registry, ways
from imagination.schema import ConfigError
from jobs.calibration import USUAL, knee
from jobs.pack import Pack, group, shape
from results_db import console
from results_db.contract import NewSweep, PlannedRun, State, Store
from results_db.files import Files
from results_db.store import open_store
from results_db.store.address import locate
from results_db.text import counted
from sweeps.launch import assets
from sweeps.launch.options import LaunchOptions
from sweeps.spec.expand import Expansion, expand, first_runs, in_breadth_first_order
from sweeps.spec.model import Spec
from sweeps.status.blocked import check_needs, lines
from sweeps.status.cell import Counts
from sweeps.status.expected import Expected, Machines, calibrations_of, expect
from sweeps.status.plan import Plan, make_plan

REFILLS = 4
"""How many times as many runs as train at once a pack has, by default, on a calibrated GPU."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A launch that is ready to train.

    Attributes:
        store: the open store.
        spec: the spec with its overrides.
        expansion: the cells and runs.
        plan: their status, and the runs to submit.
        packs: the packs to train, in order.
        expected: how long that takes.
        limit: see `LaunchOptions`.
        notes: lines from the recovery, for the user.
    """

    store: Store
    spec: Spec
    expansion: Expansion
    plan: Plan
    packs: Sequence[Pack]
    expected: Expected
    limit: int | None
    notes: Sequence[str]

    @property
    def runs(self) -> int:
        """The number of runs in the packs."""
        return sum(len(pack.runs) for pack in self.packs)

    @property
    def sweeps(self) -> dict[NewSweep, list[PlannedRun]]:
        """The launch of the spec and of each spec that it includes, as the store records them, and their runs."""
        wanted = {self.spec.name: self.expansion.runs}
        if included := self.spec.included:
            planned = {run.run_id for run in expand(self.spec).runs}
            wanted |= {spec.name: self._wanted_by(spec, planned) for spec in included}
        return {
            NewSweep(spec.name, spec.composed, spec.overridden, spec.content): wanted[spec.name]
            for spec in (self.spec, *included)
            if wanted[spec.name] or spec is self.spec
        }

    def _wanted_by(self, included: Spec, planned: Collection[str]) -> list[PlannedRun]:
        """The runs of this launch that an included spec wants; the runs of a top-up are not `planned`."""
        own = {run.run_id for run in expand(included).runs}
        cells = [cell for cell in self.expansion.cells if included.name in cell.specs]
        own |= {run.run_id for cell in cells for run in cell.runs if run.run_id not in planned}
        return [run for run in self.expansion.runs if run.run_id in own]

    def stage(self) -> None:
        """Records the launch and its runs in the store. Call it last before training."""
        for sweep, runs in self.sweeps.items():
            self.store.stage(runs, sweep=sweep)

    def forget(self) -> None:
        """Takes the launch back, which submitted nothing. Its runs stay."""
        for sweep in self.sweeps:
            self.store.forget(sweep)

    @property
    def nothing_to_train(self) -> str:
        """The line for a launch without packs."""
        counts = self.plan.counts
        hint = "; --retry-failed trains the failed runs again" if counts.failed else ""
        blocked = f", {counts.blocked} blocked" if counts.blocked else ""
        first = f" of the first {self.limit}" if counts.to_submit and self.limit else ""
        return (
            f"{self.spec.name}: nothing{first} to train: {counts.stored} stored, {counts.active} active, "
            f"{counts.failed} failed{blocked} of {counted(counts.total, 'run')}{hint}"
        )


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """The result of a launch.

    Attributes:
        name: the name of the sweep.
        counts: numbers of runs after the launch.
        blocked: the reasons why runs are blocked then, by run id.
        states: run id to final state, for the runs that were trained here.
        interrupted: a signal stopped the launch.
        failure: the reason why runs could not be trained, if any.
        submitted: the number of runs that were submitted to Slurm.
        jobs: the ids of their Slurm jobs.
    """

    name: str
    counts: Counts
    blocked: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    interrupted: bool = False
    failure: str | None = None
    submitted: int = 0
    jobs: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """0: done; 1: some runs failed or are blocked; 130: interrupted."""
        if self.interrupted:
            return console.INTERRUPTED
        completed = all(state is State.COMPLETED for state in self.states.values())
        short = self.failure or self.counts.failed or self.counts.blocked or not completed
        return console.SOME_FAILED if short else 0

    def as_dict(self) -> dict[str, object]:
        """The result for `--json`."""
        return {
            "name": self.name,
            "trained": {run_id: str(state) for run_id, state in self.states.items()},
            "submitted": self.submitted,
            "jobs": list(self.jobs),
            **self.counts.as_dict(),
            "why_blocked": lines(self.blocked),
            "interrupted": self.interrupted,
            "failure": self.failure,
        }


@contextmanager
def prepare(
    spec: Spec,
    expansion: Expansion,
    options: LaunchOptions,
    *,
    machines: Machines,
    recover: Callable[[Store], Sequence[str]],
) -> Iterator[Prepared]:
    """Opens the store, recovers from earlier launches, plans, and forms the packs. Closes the store at the end.

    The launcher calls `Prepared.stage` itself. On Slurm a question to the user and a check of a node come first, and
    a launch that ends there must leave no sweep behind. A crash before staging changes nothing. A crash after it
    leaves STAGED runs, which the next launch trains. Two launches at once may plan the same runs, but each claim goes
    to only one of them.

    Args:
        spec: the spec with its overrides.
        expansion: its cells and runs, or some of them.
        options: how to train.
        machines: what the runs train on, which sets the default pack size.
        recover: brings the store up to date, and returns lines for the user.

    Raises:
        ConfigError: see `plan_launch`; there are more slots than runs of a pack; or packs of one run cannot be padded.
        StoreError: see `open_store`; or the folder beside the store cannot be written.
    """
    _pack_size(expansion, machines, options)
    Files(locate(options.db).folder).check_writable()
    with closing(open_store(options.db, create=True)) as store:
        Files(store.folder).take(store.uuid)
        files = Files(store.folder)
        assets.provide(assets.find(spec, files), files)
        notes = recover(store)
        plan = plan_launch(spec, expansion, store, machines=machines, options=options)
        notes = [*notes, *(f"{spec.name}: {line}" for line in lines(plan.blocked))]
        packs, expected = form_packs(expansion, plan, store, machines=machines, options=options)
        yield Prepared(
            store=store,
            spec=spec,
            expansion=expansion,
            plan=plan,
            packs=packs,
            expected=expected,
            limit=options.limit,
            notes=notes,
        )


def plan_launch(
    spec: Spec,
    expansion: Expansion,
    store: Store,
    *,
    machines: Machines,
    options: LaunchOptions,
    dead: Collection[str] = (),
) -> Plan:
    """What a launch with these options trains on these machines. Writes nothing. See `dead_runs` for `dead`.

    Raises:
        ConfigError: a file that runs need is missing or another one or does not fit, or a run that runs to be trained
            need is nowhere or of another experiment.
    """
    found = assets.find(spec, Files(store.folder))
    assets.check(expansion, found)
    queued = {one.attempt.run_id for one in store.open_attempts() if one.job_id}
    plan = make_plan(
        expansion,
        store,
        dead=dead,
        retry_failed=options.retry_failed,
        waits_for=queued if machines.on_slurm else (),
    )
    left = {run.run_id for run in plan.to_submit} | plan.blocked.keys()
    to_train = [run for run in expansion.runs if run.run_id in left]
    check_needs(to_train, store)
    assets.check_kept(to_train, store, but=found)
    return plan


def form_packs(
    expansion: Expansion, plan: Plan, store: Store, *, machines: Machines, options: LaunchOptions
) -> tuple[list[Pack], Expected]:
    """The packs that a launch with these options trains on these machines, and how long that takes."""
    asked = ways.asked() if machines.gpus else ""
    calibrations = calibrations_of(store, machines) if machines.gpus else []
    if asked is not None:
        calibrations = [one for one in calibrations if one.ways == asked]
    widths: defaultdict[str, set[str]] = defaultdict(set)  # by what is equal in a padded pack
    for run in expansion.runs if options.pad and calibrations else ():
        widths[shape(run.config, padded=True)].add(shape(run.config))

    knee_of = cache(partial(knee, calibrations))

    def most_at_once(run: PlannedRun) -> int | None:
        if not calibrations or options.pack_size or options.slots:
            return None
        mixes = options.pad and len(widths[shape(run.config, padded=True)]) > 1
        return None if mixes else knee_of(shape(run.config))

    @cache
    def fastest(like: str, at_once: int) -> str:
        paces = [(one.ways, one.pace(like, at_once=at_once)) for one in calibrations]
        step_s = {chosen: sum(pace.step_s) for chosen, pace in paces if pace}
        return min(step_s, key=lambda chosen: step_s[chosen], default=asked or "")

    def chosen(pack: Pack) -> Pack:
        slots, runs = options.slots, pack.part_size(machines.per_job)
        if most := most_at_once(pack.runs[0]):
            slots = -(-runs // -(-runs // most))  # so that none is left to train almost alone
        pack = replace(pack, slots=slots, padded=pack.is_mixed, ways=asked or "")
        if not calibrations or pack.is_mixed:  # a calibration tells of one shape
            return pack
        return replace(pack, ways=fastest(shape(pack.runs[0].config), pack.at_once(parts=machines.per_job)))

    runs = len(first_runs(expansion, options.limit).runs)
    usual = _pack_size(expansion, machines, options)

    def size(run: PlannedRun) -> int:
        at_once = most_at_once(run)
        if not at_once:
            return usual
        share = -(-runs // machines.workers)  # no worker shall have all of the runs
        # A job's GPU is paid for and shall be full; a GPU of this machine that has no runs is lost.
        least = at_once if machines.on_slurm else 1
        return max(least, min(share, REFILLS * at_once)) * machines.per_job

    packs = open_packs(
        expansion,
        plan,
        store,
        size=size,
        limit=options.limit,
        declared=options.pack_size is None,
        padded=options.pad,
    )
    packs = [chosen(pack) for pack in packs]
    return packs, expect(expansion, packs, store, machines=machines)


def all_packs(expansion: Expansion, *, machines: Machines, options: LaunchOptions) -> list[Pack]:
    """The packs of all runs on these machines, whether the store has them or not."""
    return group(
        in_breadth_first_order(expansion),
        size=_pack_size(expansion, machines, options),
        declared=options.pack_size is None,
        padded=options.pad,
    )


def _pack_size(expansion: Expansion, machines: Machines, options: LaunchOptions) -> int:
    """Most runs of a pack, if its experiment declares none: so many for each worker that trains a part of it.

    Raises:
        ConfigError: no pack has so many slots, or all have one run and are to be padded.
    """
    size = options.pack_size or (USUAL if machines.gpus else 1)
    names = {str(cell.template["experiment"]) for cell in expansion.cells} if not options.pack_size else ()
    largest = max([size, *(registry.declaration(name).pack for name in names)])
    if options.slots and options.slots > largest:
        raise ConfigError(
            f"--slots: {options.slots} is more than the {largest} of --pack-size; give a larger --pack-size"
        )
    if options.pad and largest == 1:
        raise ConfigError("--pad: a pack has 1 run here, so no widths share one; give a larger --pack-size")
    return size * machines.per_job


def open_packs(
    expansion: Expansion,
    plan: Plan,
    store: Store,
    *,
    size: int | Callable[[PlannedRun], int],
    limit: int | None,
    declared: bool = False,
    padded: bool = False,
) -> list[Pack]:
    """The packs of the runs to train among the first `limit` runs (None: all), in breadth-first order.

    Packs are formed from all runs by `jobs.pack.group`, and then lose the runs that are not to be trained. So an
    interrupted run resumes in the same pack if `size`, `limit` and `padded` are the same. The size may change with a
    new calibration, the number of workers and `limit`. The result of an interrupted run is that of an uninterrupted
    one; within rounding if its pack is another, if others of the pack have ended, or if the parts of a job with several
    GPUs get other runs. A run whose job or process ran out of memory trains alone, because any run of its pack may have
    caused that.
    """
    open_ids = {run.run_id for run in plan.to_submit}
    alone = {one.attempt.run_id for one in store.ended_attempts({State.OUT_OF_MEMORY})}
    packs = []
    runs = in_breadth_first_order(first_runs(expansion, limit))
    for pack in group(runs, size=size, declared=declared, padded=padded):
        left = [run for run in pack.runs if run.run_id in open_ids]
        together = tuple(run for run in left if run.run_id not in alone)
        packs += [Pack(together, padded=padded)] if together else []
        packs += [Pack((run,)) for run in left if run.run_id in alone]
    return packs
