"""What a launch did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from results_db import console
from results_db.contract import State
from sweeps.launch.plan import Counts


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a launch did.

    Attributes:
        name: the sweep.
        counts: of the whole spec, after the launch.
        states: run id to the state in which it ended, of the runs that were trained here.
        interrupted: a signal stopped the launch.
        failure: why runs could not be trained; None: they could.
        submitted: how many runs were put into Slurm's queue.
        jobs: the ids of their Slurm jobs.
    """

    name: str
    counts: Counts
    states: Mapping[str, State] = field(default_factory=dict)
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
