"""What a launch would submit to Slurm, for a dry run. It writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from imagination.schema import ConfigError
from jobs.code import this_code
from jobs.pack import Pack
from jobs.progress import duration
from results_db.contract import Store
from results_db.text import counted
from slurm.client.client import array_limit, sbatch_environment
from slurm.submit.dispatch import Part, Submission, deal
from slurm.submit.folders import check_folders
from slurm.submit.launchers import SLURM, Resources, choose
from sweeps.launch.options import LaunchOptions
from sweeps.spec.model import Spec

_MOST_ARRAYS = 20


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a launch would submit.

    Attributes:
        packs: the number of packs. Each is a task of an array.
        runs: the number of their runs.
        partition: the partition; None: the cluster's default.
        timeout_min: the time limit of each task.
        arrays: the arrays, in the order of submission; empty without Slurm.
        script: the sbatch script of the first array; empty without Slurm.
        copied: the code that the jobs take a copy of; empty: they take what they find.
        unknown: why arrays and script are unknown; empty if they are known.
    """

    packs: int
    runs: int
    partition: str | None
    timeout_min: int
    arrays: Sequence[Part]
    script: str
    copied: str
    unknown: str

    def as_dict(self) -> dict[str, object]:
        """The values for `--json`."""
        arrays = [
            {"tasks": len(part.packs), "parallelism": _at_once(part), "after": part.after}
            for part in self.arrays
        ]
        return {**vars(self), "arrays": arrays}

    def lines(self) -> list[str]:
        """The lines for the user."""
        partition = f"partition {self.partition}" if self.partition else "the default partition"
        lines = [
            f"Slurm: {counted(self.runs, 'run')} in {counted(self.packs, 'pack')}, {partition}, "
            f"time limit {duration(60 * self.timeout_min)}"
        ]
        if self.copied:
            lines.append(f"the jobs run a copy of {self.copied}")
        if self.unknown:
            return [*lines, f"arrays and script are unknown: {self.unknown}"]
        for number, part in enumerate(self.arrays[:_MOST_ARRAYS], 1):
            after = "" if part.after is None else f", after array {part.after + 1}"
            tasks = f"{counted(len(part.packs), 'task')}, {_at_once(part)} at once"
            lines.append(f"array {number}: {tasks}{after}")
        if (more := len(self.arrays) - _MOST_ARRAYS) > 0:
            lines.append(f"and {counted(more, 'more array')}")
        return [
            *lines,
            "",
            "The sbatch script of array 1; each launch gives its jobs a new name:",
            self.script,
        ]


def preview(spec: Spec, packs: Sequence[Pack], options: LaunchOptions, *, store: Store) -> Preview | None:
    """What a launch of these packs would submit; None if there are none, or if the launcher is local."""
    launcher = choose(spec.launcher)
    if launcher.kind != SLURM or not packs:
        return None
    resources = Resources.of(launcher)
    submission = Submission(
        store, resources, sweep=spec.name, hold_after=options.hold_after, snapshot=options.snapshot
    )
    arrays: Sequence[Part] = ()
    script = unknown = ""
    try:
        most = int(resources.values["array_parallelism"])
        check_folders(store.folder, resources, snapshot=options.snapshot)
        arrays = deal(packs, limit=array_limit(), parallelism=most)
        script = submission.script(arrays[0])
    except ConfigError as error:
        unknown = str(error)
    return Preview(
        packs=len(packs),
        runs=sum(len(pack.runs) for pack in packs),
        partition=_partition(resources),
        timeout_min=int(resources.values["timeout_min"]),
        arrays=arrays,
        script=script,
        copied=this_code().describe() if options.snapshot else "",
        unknown=unknown,
    )


def _partition(resources: Resources) -> str | None:
    given = resources.values["partition"] or resources.additional.get("partition")
    return given or sbatch_environment(resources.asked).get("SBATCH_PARTITION")


def _at_once(part: Part) -> int:
    return min(part.parallelism, len(part.packs))
