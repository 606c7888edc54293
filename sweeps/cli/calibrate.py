"""`imagine-sweep calibrate`: how fast this machine trains the runs of a spec."""

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.text import counted
from sweeps.cli import options
from sweeps.launch.options import LaunchOptions, say

if TYPE_CHECKING:
    from imagination.pace import Pace
    from jobs.calibration import Device
    from jobs.pack import Pack
    from sweeps.spec.expand import Expansion

_LIMIT_S, _MOST_S = 45.0, 5.0
_PACKS = 6  # that a walk usually measures


@click.command()
@options.spec_arguments
@options.where_option
@click.option(
    "--pack-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure packs of N runs, all training at once. [default: 1; on a GPU 1, 2, 4, ... until a pack twice as "
    "large saves less than a tenth per run]",
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
    """Measure how fast this machine trains the runs of SPEC, in about a minute.

    `plan` and `launch` can then estimate times before any run has ended on such a device. On a GPU, `launch` also uses
    the number of runs at once and the way to train that were best. For the GPUs of a cluster, run it in a job:
    srun --gpus=1 imagine-sweep calibrate table3.

    Example: imagine-sweep calibrate table1
    """
    from jobs.calibration import Device, keep, shapes, walk
    from jobs.pack import shape
    from results_db.files import Files
    from results_db.store.address import locate
    from results_db.store.sql import open_store, open_to_read
    from slurm.submit.launchers import choose
    from sweeps.launch.machines import local_resources, on_this_machine
    from sweeps.launch.prepare import all_packs
    from sweeps.spec.choose import matching
    from sweeps.spec.stored import find_spec

    with closing(open_to_read(db)) as store:
        ((loaded, expansion),) = matching([find_spec(store, spec, overrides, report=say)], where)
    machines = on_this_machine(local_resources(choose(loaded.launcher)))
    Files(locate(db).folder).check_writable()
    usual = Device(threads=machines.cores)
    compares = usual.is_gpu and pack_size is None
    how = LaunchOptions(db=db, pack_size=1 if compares else pack_size)
    wanted = shapes(all_packs(expansion, machines=machines, options=how))
    devices = [Device(threads=machines.cores, ways=ways) for ways in usual.choices]
    started = time.monotonic()
    measured: dict[Device, list[tuple[Pack, Pace]]] = {device: [] for device in devices}
    anew: dict[Device, set[str]] = {device: set() for device in devices}
    tasks = [(pack, device) for pack in wanted for device in devices]
    for number, (pack, device) in enumerate(tasks):
        left_s = started + _LIMIT_S - time.monotonic()
        if left_s > 0:
            within_s = min(_MOST_S, left_s / (len(tasks) - number))
            if compares:
                found = walk(pack.runs[0], partial(device.pace, within_s=within_s / _PACKS))
            else:
                pace = device.pace(pack, within_s=within_s)
                found = [(pack, pace)] if pace else []
            measured[device] += found
            if compares or not found:  # what was measured before no longer holds
                anew[device].add(shape(pack.runs[0].config))
    with closing(open_store(db, create=True)) as store:
        Files(store.folder).take(store.uuid)
        for device in devices:
            keep(store.folder, device, measured[device], anew=anew[device])
    rows = [_row(expansion, device, *each) for device in devices for each in measured[device]]
    options.print_rows(rows, as_json=as_json)
    done = {shape(pack.runs[0].config) for pack, _ in measured[devices[0]]}
    left = len({shape(pack.runs[0].config) for pack in wanted} - done)
    more = f"; {counted(left, 'shape')} not measured, choose fewer with --where" if left else ""
    took = f"{time.monotonic() - started:.0f} s"
    say(f"{loaded.name}: {counted(len(done), 'shape')} measured on {usual.name} in {took}{more}")


def _row(expansion: "Expansion", device: "Device", pack: "Pack", pace: "Pace") -> dict[str, object]:
    """What was measured: milliseconds of a run's step in either stage, and seconds of its evaluation."""
    cell = next(cell for cell in expansion.cells if pack.runs[0] in cell.runs)
    step_ms, adversary_ms = [*(round(1000 * seconds, 2) for seconds in pace.step_s), None][:2]
    return {
        **cell.columns,
        "kernels": device.kernels,
        "pack": len(pack.runs),
        "step_ms": step_ms,
        "adversary_ms": adversary_ms,
        "evaluation_s": round(pace.end_s, 2),
    }
