"""What a launch trains on, and in words how long it is expected to take there."""

from collections import Counter
from collections.abc import Sequence

from jobs.pack import Pack
from jobs.progress import duration
from results_db.text import counted
from slurm.local import Resources as LocalResources
from slurm.local import device_name, resources
from slurm.submit.launchers import LOCAL, Launcher, Resources
from sweeps.status.expected import Expected, Machines


def machines_of(launcher: Launcher, *, workers: int | None = None) -> Machines:
    """What this launcher trains on.

    Raises:
        ConfigError: a setting is wrong.
    """
    if launcher.kind == LOCAL:
        return on_this_machine(local_resources(launcher, workers=workers))
    return on_slurm(Resources.of(launcher))


def local_resources(launcher: Launcher, *, workers: int | None = None) -> LocalResources:
    """The workers of this machine, as the launcher's settings ask for them."""
    cpus = launcher.settings.get("cpus_per_task")
    return resources(cpus_per_task=int(str(cpus)) if cpus else None, workers=workers)


def on_this_machine(own: LocalResources) -> Machines:
    """The machines of a local launch."""
    return Machines(
        workers=own.workers, gpus=int(bool(own.gpus)), cores=own.threads, device=device_name(own.gpus)
    )


def on_slurm(asked: Resources) -> Machines:
    """The machines of a launch on Slurm; their device is known once a job has run."""
    per_job = max(asked.gpus, 1)  # a job trains a part of its pack on each of its GPUs
    return Machines(
        workers=int(asked.values["array_parallelism"]) * per_job,
        gpus=min(asked.gpus, 1),
        cores=max(asked.cpus // per_job, 1),
        on_slurm=True,
        per_job=per_job,
    )


def packs_as_rows(packs: Sequence[Pack], machines: Machines) -> list[dict[str, object]]:
    """How the packs train, for `--json`: for packs that are alike a row, with the number of them."""
    alike = Counter((len(pack.runs), pack.at_once(parts=machines.per_job), pack.ways) for pack in packs)
    return [
        {"packs": count, "runs": runs, "at_once": at_once, "ways": ways}
        for (runs, at_once, ways), count in alike.items()
    ]


def packs_in_words(packs: Sequence[Pack], machines: Machines) -> str:
    """The same in a short line; empty if all runs of a pack train at once and in the usual way."""
    if not any(pack.slots or pack.ways for pack in packs):
        return ""
    sizes = [len(pack.runs) for pack in packs]
    at_once = sorted(pack.at_once(parts=machines.per_job) for pack in packs)
    few = "" if at_once[0] == at_once[-1] else f"{at_once[0]} to "
    ways = sorted({pack.ways for pack in packs} - {""})
    by = f" with {' or '.join(ways)}" if ways else ""
    return f"{counted(len(packs), 'pack')} of at most {counted(max(sizes), 'run')}, {few}{at_once[-1]} at once{by}"


def in_words(expected: Expected, machines: Machines) -> str:
    """How long the launch takes, in a short line."""
    unknown, runs = expected.unknown, len(expected.by_run)
    if unknown == runs:
        what = f"{machines.unit} are unknown" if machines.on_slurm else "the time is unknown"
        steps = f"at most {expected.most_steps:,} steps; " if expected.most_steps else ""
        return f"{steps}{what} until the first run ends"
    about = "at most" if expected.is_limit else "about"
    about, more = (
        ("at least", f" (unknown for {unknown} of {counted(runs, 'run')})") if unknown else (about, "")
    )
    if machines.on_slurm:
        return f"{about} {spent(expected.known_seconds, machines)} by {_sources(expected)} on {expected.device}{more}"
    workers = counted(expected.workers, "worker")
    by = f" by {_sources(expected)}" if expected.calibrated else ""
    return f"finished in {about} {duration(expected.finished_in)} on {workers}{by}{more}"


def _sources(expected: Expected) -> str:
    """What told these times."""
    known = len(expected.by_run) - expected.unknown
    names = ["past runs"] * (known > expected.calibrated) + ["calibration"] * (expected.calibrated > 0)
    return " and ".join(names)


def spent(seconds: float, machines: Machines) -> str:
    """These seconds of a worker's time as `160 GPU-hours`, or as `9 s of core time` if that is less than an hour."""
    hours = machines.hours(seconds)
    if hours < 1:
        return f"{duration(3600 * hours)} of {machines.unit.removesuffix('-hours')} time"
    return f"{hours:,.0f} {machines.unit}" if hours >= 100 else f"{hours:.3g} {machines.unit}"
