"""How long a launch is expected to take.

Past runs on its device, in packs of the same size, tell it; else what `imagine-sweep calibrate` measured there. Seconds
of another device tell nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.calibration import Calibration, stored
from jobs.pack import Pack, shape
from jobs.progress import Where
from results_db.contract import PlannedRun, Store
from sweeps.spec.expand import Expansion
from sweeps.status.estimate import Estimate, total_steps
from sweeps.status.past import PastRun, device_of_jobs, past_runs


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What a launch trains on.

    Attributes:
        workers: the number of workers that may train at once.
        gpus: GPUs of each worker; 0: it trains on its cores.
        cores: its cores.
        device: the device of a local launch; None: unknown.
        on_slurm: whether jobs train, whose device is known once one has run.
        per_job: the workers of a job, which divide its pack among themselves.
    """

    workers: int
    gpus: int
    cores: int
    device: str | None = None
    on_slurm: bool = False
    per_job: int = 1

    @property
    def unit(self) -> str:
        """The unit of `hours`."""
        return "GPU-hours" if self.gpus else "core-hours"

    def hours(self, seconds: float) -> float:
        """The GPU-hours of these seconds of a worker's time; core-hours if it has no GPU."""
        return seconds * (self.gpus or self.cores) / 3600


@dataclass(frozen=True)
class Expected:
    """The expected time of a launch.

    Attributes:
        device: the device; None: unknown.
        workers: the number of workers.
        by_run: run id to its share of the workers' time in seconds, with what a job's workers idle; None: unknown.
        most_steps: the step limits of the runs whose time is unknown, added up.
        longest: seconds of the longest pack whose time is known.
        calibrated: the number of runs whose time the device's calibration tells; none like them has ended there.
        is_limit: whether some of these times are for the step limit, because nothing else is known of the steps.
        estimate: for the time left, once the launch trains.
    """

    device: str | None = None
    workers: int = 1
    by_run: dict[str, float | None] = field(default_factory=dict, repr=False)
    most_steps: int = 0
    longest: float = 0.0
    calibrated: int = 0
    is_limit: bool = False
    estimate: Estimate = field(default_factory=lambda: Estimate([]), repr=False)

    @property
    def unknown(self) -> int:
        """The number of runs whose time is unknown."""
        return sum(seconds is None for seconds in self.by_run.values())

    @property
    def known_seconds(self) -> float:
        """The workers' time of the other runs, one after the other."""
        return sum(seconds for seconds in self.by_run.values() if seconds is not None)

    @property
    def finished_in(self) -> float:
        """Seconds until the workers have trained the runs whose time is known."""
        return max(self.known_seconds / self.workers, self.longest)

    def seconds(self, runs: Collection[PlannedRun]) -> float | None:
        """The workers' time of the runs among these that the launch trains; None if that of any is unknown."""
        times = [self.by_run[run.run_id] for run in runs if run.run_id in self.by_run]
        return None if None in times else sum(time for time in times if time is not None)

    def as_dict(self, machines: Machines) -> dict[str, Any]:
        """The values for `--json`. `expected_seconds` and `hours` are null if any run's time is unknown."""
        known = not self.unknown
        return {
            "expected_seconds": self.known_seconds if known else None,
            "finished_in_seconds": self.finished_in if known else None,
            "at_most_steps": self.most_steps,
            "hours": machines.hours(self.known_seconds) if known else None,
            "unit": machines.unit,
            "device": self.device,
            "calibrated": self.calibrated,
            "workers": self.workers,
        }


def expect(expansion: Expansion, packs: Sequence[Pack], store: Store, *, machines: Machines) -> Expected:
    """How long these packs of the expansion's runs take."""
    if not packs:  # reading all runs takes time
        return Expected()
    frame = store.runs()
    past = past_runs(store, frame)
    estimate = Estimate(expansion.cells, frame, past)
    device, calibrations = _calibrated(store, machines, past)
    by_run: dict[str, float | None] = {}
    longest, calibrated, is_limit = 0.0, 0, False
    for pack in packs:
        together = pack.part_size(machines.per_job)
        where = None if device is None else Where(device, together)
        times = {run.run_id: estimate.seconds(run.run_id, where) for run in pack.runs}
        unseen = [run_id for run_id, seconds in times.items() if seconds is None]
        # One shape is measured at a time, so nothing is known of a pack of several.
        known = calibrations if unseen and not pack.is_mixed else []
        alike = next((one for one in known if one.ways == pack.ways), None)
        at_once = pack.at_once(parts=machines.per_job)
        pace = alike.pace(shape(pack.runs[0].config), at_once=at_once) if alike else None
        for run_id in unseen if pace else ():
            assert pace is not None
            times[run_id], at_limit = estimate.paced(run_id, pace)
            calibrated, is_limit = calibrated + 1, is_limit or at_limit
        idle = (
            together * machines.per_job / len(pack.runs)
        )  # above 1 if some of a job's workers have less to do
        times = {run_id: None if time is None else time * idle for run_id, time in times.items()}
        longest = max(longest, sum(time or 0.0 for time in times.values()) / machines.per_job)
        by_run |= times
    unknown = [run for pack in packs for run in pack.runs if by_run[run.run_id] is None]
    return Expected(
        device=device,
        workers=min(machines.workers, len(packs) * machines.per_job),
        by_run=by_run,
        most_steps=sum(total_steps(run.config) for run in unknown),
        longest=longest,
        calibrated=calibrated,
        is_limit=is_limit,
        estimate=estimate,
    )


def calibrations_of(store: Store, machines: Machines) -> list[Calibration]:
    """What was measured on the device of these machines, the newest first; nothing if the device is unknown."""
    if not stored(store.folder):  # reading all runs takes time
        return []
    past = past_runs(store, store.runs()) if machines.on_slurm else {}
    return _calibrated(store, machines, past)[1]


def _calibrated(
    store: Store, machines: Machines, past: Mapping[str, PastRun]
) -> tuple[str | None, list[Calibration]]:
    """The device of these machines, by past runs on Slurm, and what was measured on it."""
    calibrations = [one for one in stored(store.folder) if one.tells(threads=machines.cores)]
    device = machines.device
    if machines.on_slurm:
        device = device_of_jobs(past, store, gpus=machines.gpus) or _calibrated_by_job(calibrations, machines)
    # The newest first, because it had the kernels of now.
    return device, [one for one in reversed(calibrations) if one.device == device]


def _calibrated_by_job(calibrations: Sequence[Calibration], machines: Machines) -> str | None:
    """The device of the newest calibration that a job of this kind made; None: there is none."""
    found = [one.device for one in calibrations if one.on_slurm and one.is_gpu == bool(machines.gpus)]
    return found[-1] if found else None
