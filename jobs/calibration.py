"""How fast a device trains runs of a shape, measured there and kept beside the store. Torch-free.

`jobs.worker` is loaded by name, because it imports torch.
"""

import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imagination import registry
from imagination.pace import Pace
from imagination.training.memory import is_out_of_memory
from jobs.pack import Pack, shape
from jobs.provenance import slurm_job
from results_db.contract import PlannedRun
from results_db.files import write_atomically

GAIN = 0.1
"""The share of a step's time that a pack twice as large must save per run, or it is not worth its memory."""

_MOST = 256  # runs that are measured at once


@dataclass(frozen=True)
class Calibration:
    """What was measured on one device.

    Attributes:
        device: the device's name, as attempts record it.
        is_gpu: whether it is a GPU.
        threads: the threads of a process on a CPU.
        on_slurm: whether a Slurm job measured it.
        ways: how a GPU trained; see `imagination.training.gpu`.
        paces: by the runs that trained at once and their `shape`.
    """

    device: str
    is_gpu: bool
    threads: int
    on_slurm: bool
    ways: str
    paces: dict[tuple[int, str], Pace]

    def tells(self, *, threads: int) -> bool:
        """Whether processes with so many threads are as fast."""
        return self.is_gpu or self.threads == threads

    def pace(self, run: PlannedRun, *, at_once: int) -> Pace | None:
        """How fast runs of this run's shape train on the device, `at_once` together; None: not measured."""
        return self.paces.get((at_once, shape(run.config)))

    def knee(self, like: str) -> int | None:
        """How many runs of this `shape` should train at once on the device; None: packs were not compared.

        It is the smallest number beside which no larger one saves `GAIN` of a run's step.
        """
        step_s = self._steps(like)
        enough = [runs for runs in step_s if step_s[runs] * (1 - GAIN) <= min(step_s.values())]
        return enough[0] if len(step_s) > 1 else None

    def step_s(self, like: str) -> float:
        """Seconds of a step of a run of this `shape`, as its share, in the best pack; infinite: not measured."""
        return min(self._steps(like).values(), default=math.inf)

    def _steps(self, like: str) -> dict[int, float]:
        """By the runs that trained at once, the smallest number first."""
        return {runs: sum(pace.step_s) for (runs, key), pace in sorted(self.paces.items()) if key == like}


class Device:
    """The device of this process, which it may measure.

    Args:
        threads: threads on a CPU.
        ways: how a GPU trains; see `imagination.training.gpu`.

    Raises:
        ConfigError: `IMAGINE_DEVICE` names no device of this machine.
    """

    def __init__(self, *, threads: int, ways: str = "") -> None:
        self._worker: Any = importlib.import_module("jobs.worker")
        self._device = self._worker.choose_device(os.environ.get("IMAGINE_DEVICE", "auto"), threads=threads)
        self.name: str = self._worker.device_name(self._device)
        self.is_gpu: bool = self._device.type == "cuda"
        self.threads = threads
        self.ways = ways
        self.kernels = self._kernels(ways)
        self._end_s: dict[str, float] = {}  # by shape

    @property
    def choices(self) -> list[str]:
        """The ways that a calibration compares here: each has kernels of its own, or `IMAGINE_GPU` asks for it."""
        gpu = self._worker.gpu
        if not self.is_gpu:
            return [""]
        by_kernels: dict[str, str] = {}
        for ways in [gpu.asked()] if gpu.VARIABLE in os.environ else gpu.CHOICES:
            by_kernels.setdefault(self._kernels(ways), ways)
        return list(by_kernels.values())

    def _kernels(self, ways: str) -> str:
        with self._worker.gpu.chosen(ways):
            return str(self._worker.kernels_name(self._device))

    def pace(self, pack: Pack, *, within_s: float) -> Pace | None:
        """How fast the runs of this pack train together; None: their runner cannot say, or these ways go wrong.

        The evaluation is measured once for each shape.
        """
        experiment, like = str(pack.runs[0].config["experiment"]), shape(pack.runs[0].config)
        configs = [registry.rebuilt(run.config) for run in pack.runs]
        with self._worker.gpu.chosen(self.ways):
            found: Pace | None = self._worker.runner(experiment).pace(
                configs, device=self._device, within_s=within_s, end_s=self._end_s.get(like)
            )
        if found is not None:
            self._end_s[like] = found.end_s
        return found


def walk(run: PlannedRun, pace: Callable[[Pack], Pace | None]) -> list[tuple[Pack, Pace]]:
    """Measures packs of 1, 2, 4, ... runs, until twice as many save less than `GAIN` or do not fit into the memory.

    Args:
        run: the others in its packs differ in the seed. A step's time depends on the shape only.
        pace: measures a pack; None: it cannot.
    """
    found: list[tuple[Pack, Pace]] = []
    for runs in (2**power for power in range(_MOST.bit_length())):
        others = (replace(run, config={**run.config, "seed": seed}) for seed in range(1, runs))
        pack = Pack((run, *others))
        try:
            measured = pace(pack)
        except (MemoryError, RuntimeError) as error:
            if not found or not is_out_of_memory(error):
                raise
            break
        if measured is None:
            break
        found.append((pack, measured))
        if len(found) > 1 and sum(measured.step_s) > (1 - GAIN) * sum(found[-2][1].step_s):
            break
    return found


def stored(folder: Path) -> list[Calibration]:
    """The calibrations beside a store, the newest last."""
    files = sorted(_folder(folder).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [one for path in files if (one := _read(path)) is not None]


def keep(
    folder: Path, device: Device, measured: Sequence[tuple[Pack, Pace]], *, anew: Collection[str] = ()
) -> None:
    """Keeps what was measured on this device, beside what was measured there before with the same kernels.

    Args:
        folder: `Store.folder`.
        device: the device.
        measured: packs, and how fast their runs train.
        anew: shapes of which everything from before is dropped.

    Raises:
        OSError: the folder cannot be written.
    """
    key = [device.name, device.kernels, *([] if device.is_gpu else [device.threads])]
    path = _folder(folder) / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    before = _read(path)
    paces = {
        **{one: pace for one, pace in (before.paces if before else {}).items() if one[1] not in anew},
        **{(len(pack.runs), shape(pack.runs[0].config)): pace for pack, pace in measured},
    }
    about = {
        "device": device.name,
        "is_gpu": device.is_gpu,
        "threads": device.threads,
        "kernels": device.kernels,
        "ways": device.ways,
        "on_slurm": slurm_job() is not None,
    }
    rows = [{"runs": runs, "shape": key, **asdict(pace)} for (runs, key), pace in paces.items()]
    write_atomically(path, json.dumps({**about, "paces": rows}, indent=1).encode())


def _folder(folder: Path) -> Path:
    return folder / "calibrations"


def _read(path: Path) -> Calibration | None:
    """None: there is none, or it is damaged, so the next one replaces it."""
    try:
        found = json.loads(path.read_text())
        paces = {
            (int(row["runs"]), str(row["shape"])): Pace(tuple(map(float, row["step_s"])), float(row["end_s"]))
            for row in found["paces"]
        }
        return Calibration(
            device=str(found["device"]),
            is_gpu=bool(found["is_gpu"]),
            threads=int(found["threads"]),
            on_slurm=bool(found["on_slurm"]),
            ways=str(found.get("ways", "")),
            paces=paces,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shapes(packs: Sequence[Pack]) -> list[Pack]:
    """One of these packs for each shape and number of runs that train at once."""
    found: dict[tuple[int, str], Pack] = {}
    for pack in packs:
        runs = pack.runs[: pack.slots]
        found.setdefault((len(runs), shape(runs[0].config)), Pack(runs))
    return list(found.values())
