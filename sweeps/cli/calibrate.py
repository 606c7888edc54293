"""`imagine-sweep calibrate`: how fast this machine trains the runs of a spec."""

import math
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.text import counted
from sweeps.cli import options
from sweeps.launch.options import LaunchOptions, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imagination.pace import Pace
    from jobs.calibration import Device
    from jobs.pack import Pack
    from sweeps.spec.expand import Cell

_LIMIT_S, _MOST_S = 45.0, 5.0


@click.command()
@options.spec_arguments
@options.where_option
@click.option(
    "--pack-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure packs of N runs, all training at once. [default: 1; on a GPU 1, 2, 4, ... while larger packs save a "
    "tenth per run]",
)
@console.db_option
@console.json_option
def calibrate(
    *,
    spec: str,
    overrides: tuple[str, ...],
    where: str | None,
    pack_size: int | None,
    db: str | None,
    as_json: bool,
) -> None:
    """Measure how fast this machine trains the runs of SPEC.

    `plan` and `launch` can then estimate times before any run has ended on such a device. On a GPU, `launch` also uses
    the number of runs at once and the way to train that were best. For the GPUs of a cluster, run it in a job:
    srun --gpus=1 imagine-sweep calibrate table3.

    Example: imagine-sweep calibrate table1
    """
    from imagination import ways
    from jobs.calibration import Device, shapes
    from jobs.pack import shape
    from results_db.files import Files
    from results_db.store.address import locate
    from results_db.store.sql import open_to_read
    from slurm.submit.launchers import choose
    from sweeps.launch.machines import local_resources, on_this_machine
    from sweeps.launch.prepare import all_packs
    from sweeps.spec.choose import matching
    from sweeps.spec.stored import find_spec
    from sweeps.status.cell import describe

    with closing(open_to_read(db)) as store:
        ((loaded, expansion),) = matching([find_spec(store, spec, overrides, report=say)], where)
    machines = on_this_machine(local_resources(choose(loaded.launcher)))
    Files(locate(db).folder).check_writable()
    usual = Device(threads=machines.cores)
    walks = usual.is_gpu and pack_size is None
    how = LaunchOptions(db=db, pack_size=1 if walks else pack_size)
    wanted = shapes(all_packs(expansion, machines=machines, options=how))
    runs = Counter(shape(run.config) for run in expansion.runs)
    devices = [Device(threads=machines.cores, ways=each) for each in usual.choices]
    asked = ways.asked()
    started = time.monotonic()
    rows: list[dict[str, object]] = []
    done: set[str] = set()
    failures: dict[str, None] = {}
    begun = 0
    for pack, within_s in _in_time(wanted, ways=len(devices)):
        begun += 1
        like = shape(pack.runs[0].config)
        cell = next(cell for cell in expansion.cells if pack.runs[0] in cell.runs)
        measured = _measured(devices, pack, within_s=within_s, most=runs[like] if walks else None)
        if measured is None:
            named = f"{describe(cell.columns)}: " * bool(cell.columns)
            failures[f"{named}too little memory for {counted(len(pack.runs), 'run')}"] = None
            continue
        if any(measured.values()):
            done.add(like)
        else:
            by = f" with {asked}" if asked else ""
            failures[f"{cell.template['experiment']} cannot be measured{by}"] = None
        _keep(db, measured, like, anew=walks, all_ways=usual.is_gpu and asked is None)
        rows += [_row(cell, device, *each) for device, found in measured.items() for each in found]
    for failure in failures:
        say(f"{loaded.name}: {failure}")
    options.print_rows(rows, as_json=as_json)
    left = len({shape(pack.runs[0].config) for pack in wanted[begun:]})
    more = f"; {counted(left, 'shape')} left, choose fewer with --where" if left else ""
    took = f"{time.monotonic() - started:.0f} s"
    say(f"{loaded.name}: {counted(len(done), 'shape')} measured on {usual.name} in {took}{more}")


def _in_time(packs: "Sequence[Pack]", *, ways: int) -> "Iterator[tuple[Pack, float]]":
    """The packs that can be begun in time, and the seconds to measure each way."""
    started = time.monotonic()
    for number, pack in enumerate(packs):
        left_s = started + _LIMIT_S - time.monotonic()
        if left_s <= 0:
            return
        yield pack, min(_MOST_S, left_s / (len(packs) - number) / ways)


def _measured(
    devices: "Sequence[Device]", pack: "Pack", *, within_s: float, most: int | None
) -> "dict[Device, list[tuple[Pack, Pace]]] | None":
    """What each device measured of this pack; None: it fits into the memory of none. See `Device.measured`."""
    from imagination.training.memory import is_out_of_memory

    found: dict[Device, list[tuple[Pack, Pace]]] = {}
    for device in devices:
        try:
            found[device] = device.measured(pack, within_s=within_s, most=most)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
    return {device: found.get(device, []) for device in devices} if found else None


def _keep(
    db: str | None,
    measured: "Mapping[Device, list[tuple[Pack, Pace]]]",
    like: str,
    *,
    anew: bool,
    all_ways: bool,
) -> None:
    """Keeps what was measured of a shape, `anew` or beside earlier packs; after `all_ways`, no other way keeps it."""
    from jobs.calibration import forget, keep
    from results_db.files import Files
    from results_db.store.sql import open_store

    with closing(open_store(db, create=True)) as store:
        Files(store.folder).take(store.uuid)
        for device, found in measured.items():
            keep(store.folder, device, found, anew=[like] if anew or not found else [])
        if all_ways:
            forget(store.folder, next(iter(measured)), like, but=[device.kernels for device in measured])


def _row(cell: "Cell", device: "Device", pack: "Pack", pace: "Pace") -> dict[str, object]:
    """What was measured: milliseconds of a run's step in either stage, and seconds of its evaluation.

    None: there is no such stage, or the memory does not hold the pack.
    """
    ms = [round(1000 * seconds, 2) if math.isfinite(seconds) else None for seconds in pace.step_s]
    step_ms, adversary_ms = [*ms, None][:2]
    return {
        **cell.columns,
        "kernels": device.kernels,
        "pack": len(pack.runs),
        "step_ms": step_ms,
        "adversary_ms": adversary_ms,
        "evaluation_s": round(pace.end_s, 2),
    }
