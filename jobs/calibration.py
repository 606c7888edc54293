"""How fast a device trains runs of a shape, measured there and kept beside the store. Torch-free.

`jobs.worker` is loaded by name, because it imports torch.
"""

import hashlib
import importlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from imagination import registry, ways
from imagination.pace import Pace
from imagination.training.memory import is_out_of_memory
from jobs.pack import Pack, shape
from jobs.provenance import slurm_job
from results_db.contract import PlannedRun
from results_db.files import write_atomically

GAIN = 0.1
"""The share of a step's time that larger packs must save per run, or they are not worth their memory."""

USUAL = 16
"""Most runs of a pack on a GPU of which too little was measured, by default."""

_PACKS = 6  # that a walk usually measures
_MOST = 256  # runs that are measured at once
_WALK_S = 10.0  # until a walk begins no larger pack


@dataclass(frozen=True)
class Calibration:
    """What was measured on one device with the same kernels.

    Attributes:
        device: the device's name, as attempts record it.
        is_gpu: whether it is a GPU.
        threads: the threads of a process on a CPU.
        kernels: as attempts record them.
        ways: how a GPU trained; see `imagination.training.gpu`.
        on_slurm: whether a Slurm job measured it.
        paces: by `shape`, and by the runs that trained at once. A step that the memory does not hold is infinite.
    """

    device: str
    is_gpu: bool
    threads: int
    kernels: str
    ways: str
    on_slurm: bool
    paces: Mapping[str, Mapping[int, Pace]]

    def tells(self, *, threads: int) -> bool:
        """Whether processes with so many threads are as fast."""
        return self.is_gpu or self.threads == threads

    def pace(self, like: str, *, at_once: int) -> Pace | None:
        """How fast so many runs of this `shape` train together; None: unknown, or the memory does not hold them.

        Between two measured packs, the time of the whole pack's step grows evenly. A smaller pack than any takes as
        long as the smallest, and a larger one takes longer in proportion.
        """
        paces = self.paces.get(like)
        if not paces:
            return None
        # With graphs, a pack has rows for the next power of two, of which some stay free.
        rows = 1 << (at_once - 1).bit_length() if ways.GRAPHS in self.ways else at_once
        runs = min(rows, max(paces))
        high = min(each for each in paces if each >= runs)
        low = max((each for each in paces if each <= runs), default=high)
        part = (runs - low) / (high - low) if high > low else 0.0
        both = zip(paces[low].step_s, paces[high].step_s, strict=False)
        whole = (((1 - part) * low * less + part * high * more) * rows / runs for less, more in both)
        step_s = tuple(seconds / at_once for seconds in whole)
        return Pace(step_s, paces[low].end_s) if math.isfinite(sum(step_s)) else None


def knee(calibrations: Sequence[Calibration], like: str) -> int | None:
    """How many runs of this `shape` should train at once; None: too little was measured.

    It is the smallest number beside which no larger one saves `GAIN` of a run's step, each in its fastest way. If it is
    the largest that was measured, it counts only from `USUAL` on, because the sweep may have had no more runs.
    """
    step_s: dict[int, float] = {}
    for one in calibrations:
        for runs, pace in one.paces.get(like, {}).items():
            step_s[runs] = min(sum(pace.step_s), step_s.get(runs, math.inf))
    if len(step_s) < 2:
        return None
    found = min(runs for runs in step_s if step_s[runs] * (1 - GAIN) <= min(step_s.values()))
    return found if found < max(step_s) or found >= USUAL else None


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
        if not self.is_gpu:
            return [""]
        by_kernels: dict[str, str] = {}
        asked = ways.asked()
        for each in ways.CHOICES if asked is None else [asked]:
            by_kernels.setdefault(self._kernels(each), each)
        return list(by_kernels.values())

    def _kernels(self, chosen: str) -> str:
        with self._worker.gpu.chosen(chosen):
            return str(self._worker.kernels_name(self._device))

    def measured(self, pack: Pack, *, within_s: float, most: int | None = None) -> list[tuple[Pack, Pace]]:
        """This pack and how fast its runs train, or if `most` is given, the packs of a `walk` up to so many runs.

        Nothing: their runner cannot say, or these ways go wrong.

        Raises:
            MemoryError, RuntimeError: the pack does not fit into the memory; see `is_out_of_memory`.
        """
        if most is not None:
            pace = partial(self.pace, within_s=within_s / _PACKS)
            return walk(pack.runs[0], pace, runs=most, agrees=self.agrees)
        found = self.pace(pack, within_s=within_s) if self.agrees(pack) else None
        return [] if found is None else [(pack, found)]

    def agrees(self, pack: Pack) -> bool:
        """Whether the runs of this pack have the gradients of PyTorch's own operations in these ways."""
        runner, configs = self._of(pack)
        with self._worker.gpu.chosen(self.ways):
            return bool(runner.agrees(configs, device=self._device))

    def pace(self, pack: Pack, *, within_s: float) -> Pace | None:
        """How fast the runs of this pack train together; None: their runner cannot say, or these ways go wrong.

        The evaluation is measured once for each shape.
        """
        like = shape(pack.runs[0].config)
        runner, configs = self._of(pack)
        with self._worker.gpu.chosen(self.ways):
            found: Pace | None = runner.pace(
                configs, device=self._device, within_s=within_s, end_s=self._end_s.get(like)
            )
        if found is not None:
            self._end_s[like] = found.end_s
        return found

    def _of(self, pack: Pack) -> tuple[Any, list[Any]]:
        """What trains a pack, and its configs."""
        runner = self._worker.runner(str(pack.runs[0].config["experiment"]))
        return runner, [registry.rebuilt(run.config) for run in pack.runs]


def walk(
    run: PlannedRun,
    pace: Callable[[Pack], Pace | None],
    *,
    runs: int = _MOST,
    agrees: Callable[[Pack], bool] = lambda pack: True,
) -> list[tuple[Pack, Pace]]:
    """Measures packs of 1, 2, 4, ... runs.

    It ends when two doublings together save less than `GAIN`, when a pack holds all runs or does not fit into the
    memory, or when the time is over.

    Args:
        run: the others in its packs differ in the seed. A step's time depends on the shape only.
        pace: measures a pack; None: it cannot.
        runs: how many runs of the shape there are.
        agrees: whether a pack has the right gradients. The first and the largest are checked. If one has others,
            nothing counts as measured.

    Raises:
        MemoryError, RuntimeError: not even one run fits into the memory; see `is_out_of_memory`.
    """
    found: list[tuple[Pack, Pace]] = []
    too_large: list[tuple[Pack, Pace]] = []
    began = math.inf
    for power in range((min(runs, _MOST) - 1).bit_length() + 1):
        others = (replace(run, config={**run.config, "seed": seed}) for seed in range(1, 2**power))
        pack = Pack((run, *others))
        try:
            measured = pace(pack) if found or agrees(pack) else None
        except (MemoryError, RuntimeError) as error:
            if not found or not is_out_of_memory(error):
                raise
            first = found[0][1]
            too_large.append((pack, Pace((math.inf,) * len(first.step_s), first.end_s)))
            break
        if measured is None:
            break
        found.append((pack, measured))
        began = min(began, time.monotonic())  # the first pack takes longest: kernels are built
        step_s = [sum(each.step_s) for _, each in found]
        saves = len(found) < 3 or min(step_s[-2:]) <= (1 - GAIN) * min(step_s[:-2])
        if not saves or time.monotonic() > began + _WALK_S:
            break
    try:
        if len(found) > 1 and not agrees(found[-1][0]):
            return []
    except (MemoryError, RuntimeError) as error:  # the check needs more memory than the training
        if not is_out_of_memory(error):
            raise
    return found + too_large


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
    kept = before.paces if before else {}
    paces = {like: dict(found) for like, found in kept.items() if like not in anew}
    for pack, pace in measured:
        paces.setdefault(shape(pack.runs[0].config), {})[len(pack.runs)] = pace
    about = (device.name, device.is_gpu, device.threads, device.kernels, device.ways, slurm_job() is not None)
    _write(path, Calibration(*about, paces))


def forget(folder: Path, device: Device, like: str, *, but: Collection[str]) -> None:
    """Drops a shape from the calibrations of this device with other kernels than these.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in _folder(folder).glob("*.json"):
        one = _read(path)
        if one and one.device == device.name and one.kernels not in but and like in one.paces:
            _write(path, replace(one, paces={key: found for key, found in one.paces.items() if key != like}))


def _folder(folder: Path) -> Path:
    return folder / "calibrations"


def _write(path: Path, one: Calibration) -> None:
    about = {field.name: getattr(one, field.name) for field in fields(one)}
    about["paces"] = [
        {"runs": runs, "shape": like, **asdict(pace)}
        for like, found in one.paces.items()
        for runs, pace in found.items()
    ]
    write_atomically(path, json.dumps(about, indent=1).encode())


def _read(path: Path) -> Calibration | None:
    """None: there is none, or it is damaged, so the next one replaces it."""
    try:
        found = json.loads(path.read_text())
        paces: dict[str, dict[int, Pace]] = {}
        for row in found["paces"]:
            pace = Pace(tuple(map(float, row["step_s"])), float(row["end_s"]))
            paces.setdefault(str(row["shape"]), {})[int(row["runs"])] = pace
        kernels = str(found["kernels"])
        return Calibration(
            device=str(found["device"]),
            is_gpu=bool(found["is_gpu"]),
            threads=int(found["threads"]),
            kernels=kernels,
            ways=str(found.get("ways", ways.one_of_choices(kernels.split("+")))),  # older ones have none
            on_slurm=bool(found["on_slurm"]),
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
