"""The options of a launch, and the question before a large launch."""

from dataclasses import dataclass

from results_db import console
from slurm.follow.hold import HOLD_AFTER


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How a launch trains.

    Attributes:
        db: the store; see `results_db.store.address`.
        retry_failed: also train failed runs again.
        limit: the number of runs from the start of the spec to consider; None: all.
        workers: number of local processes; None: one per GPU, or one per `launcher.cpus_per_task` cores.
        pack_size: most runs of a pack; None: by the GPU's calibration, else 16 on a GPU, 1 on a CPU, or more if the
            experiment says so.
        slots: most runs of a pack that train at once; None: by the GPU's calibration, else all.
        pad: runs of different widths may share a pack.
        check: on Slurm, check a node before submitting.
        hold_after: on Slurm, hold the launch if its first so many runs all fail with the same error; 0: never.
        ask_above: on Slurm, expected GPU-hours above which the launch asks first.
        snapshot: on Slurm, the jobs take a copy of the code as it is now.
        yes: ask nothing.
    """

    db: str | None
    retry_failed: bool = False
    limit: int | None = None
    workers: int | None = None
    pack_size: int | None = None
    slots: int | None = None
    pad: bool = False
    check: bool = True
    hold_after: int = HOLD_AFTER
    ask_above: float = 100.0
    snapshot: bool = False
    yes: bool = False


def say(line: str) -> None:
    """Prints a line on standard error."""
    console.say(line, err=True)
