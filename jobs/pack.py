"""Packs: runs that train together, with equal tensor shapes or padded ones, and the task of one. Torch-free."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from imagination import registry
from imagination.schema import ConfigError, Scalar, added, pack_keys, pack_values
from jobs.identity import canonical_json, run_id
from results_db.contract import Attempt, PlannedRun
from results_db.text import short


@dataclass(frozen=True)
class Pack:
    """Runs that one worker trains. Their experiment and tensor shapes are equal, but for widths in a padded pack.

    Attributes:
        runs: the runs.
        slots: how many of them train at once; None: all. The next run begins where one has ended.
        ways: how they train on a GPU, by its calibration; see `imagination.training.gpu`.
        padded: whether widths may differ: each run has zeros where its network has no channels, but the widest has.
    """

    runs: tuple[PlannedRun, ...]
    slots: int | None = None
    ways: str = ""
    padded: bool = False

    @property
    def is_mixed(self) -> bool:
        """Whether widths differ."""
        return self.padded and len({shape(run.config) for run in self.runs}) > 1

    def at_once(self, *, parts: int) -> int:
        """How many of its runs a worker trains at once, if the pack is divided into so many parts."""
        runs = self.part_size(parts)
        return min(self.slots or runs, runs)

    def part_size(self, parts: int) -> int:
        """The runs of the largest of so many parts."""
        return -(-len(self.runs) // parts)

    @property
    def pack_id(self) -> str:
        """The first 16 characters of the SHA-256 of the run ids, in their order."""
        text = " ".join(run.run_id for run in self.runs)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """What a worker does: it trains the runs of a pack for which it has a claimed attempt.

    It holds the runs' configs, so that a worker does not need the store to read them.
    """

    pack: Pack
    attempts: tuple[Attempt, ...]

    def restarted(self, restart: int) -> "Task":
        """The same task at another start of its job."""
        return replace(self, attempts=tuple(replace(one, restart=restart) for one in self.attempts))

    def part(self, index: int, *, of: int) -> "Task":
        """One of several parts, each with every so manieth run."""
        runs = self.pack.runs[index::of]
        mine = {run.run_id for run in runs}
        return Task(replace(self.pack, runs=runs), tuple(one for one in self.attempts if one.run_id in mine))

    def encode(self) -> str:
        """The task as one line, for a file or a pipe."""
        runs, attempts = map(asdict, self.pack.runs), map(asdict, self.attempts)
        pack = {"slots": self.pack.slots, "ways": self.pack.ways, "padded": self.pack.padded}
        return json.dumps({"runs": list(runs), **pack, "attempts": list(attempts)})

    @classmethod
    def decode(cls, text: str) -> "Task":
        """The task that `encode` wrote.

        Raises:
            ValueError: the text is damaged, a config is not that of its run, or the runs' shapes differ.
        """
        try:
            data = json.loads(text)
            if "attempts" not in data:  # versions before 0.3
                numbers = data["numbers"].items()
                data["attempts"] = [{"run_id": run_id, "number": number} for run_id, number in numbers]
            runs = tuple(PlannedRun(**run) for run in data["runs"])
            for run in runs:
                _check(run)
            pack = Pack(runs, data.get("slots"), data.get("ways", ""), data.get("padded", False))
            _check_shapes(pack)
            return cls(pack, tuple(Attempt(**attempt) for attempt in data["attempts"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no task: {error}") from error


def _check(run: PlannedRun) -> None:
    """Check that this is the config that the run's id was made of.

    Raises:
        ValueError: it was changed.
    """
    with suppress(ConfigError):  # the experiment is not installed here, which the worker reports
        if run_id(run.config) != run.run_id:
            raise ValueError(f"the config of run {short(run.run_id)} is not the one that its id was made of")


def _check_shapes(pack: Pack) -> None:
    """Check that these runs can train together.

    Raises:
        ValueError: they cannot. The first one's shape would be taken for all.
    """
    with suppress(ConfigError):
        named = {shape(run.config, padded=pack.padded): short(run.run_id) for run in pack.runs}
        if len(named) > 1:
            raise ValueError(
                f"runs {', '.join(named.values())} have different tensor shapes and cannot share a pack"
            )


def shape(config: Mapping[str, Scalar], *, padded: bool = False) -> str:
    """The config keys that are equal in all runs of a pack, as text. A younger key has the value from before it."""
    kind = registry.config_type(str(config["experiment"]))
    values = pack_values(kind, {**added(kind), **config}, padded=padded)
    return canonical_json(dict(zip(pack_keys(kind), values, strict=True)))


def group(
    runs: Iterable[PlannedRun],
    *,
    size: int | Callable[[PlannedRun], int],
    declared: bool = False,
    padded: bool = False,
) -> list[Pack]:
    """Packs of at most `size` runs, in the order of their first runs. The size may depend on a run's shape.

    No run shares a pack with one that it needs. With `declared`, the packs of an experiment that declares larger ones
    are as large as it says. With `padded`, widths may differ in a pack.
    """
    packs: list[list[PlannedRun]] = []
    filling: dict[tuple[object, ...], list[PlannedRun]] = defaultdict(list)
    planned = list(runs)
    depths = depths_of(planned)
    for run in planned:
        experiment = registry.declaration(str(run.config["experiment"]))
        most = size(run) if callable(size) else size
        most = max(most, experiment.pack) if declared else most
        key = (depths[run.run_id], *pack_values(experiment.config, run.config, padded=padded))
        if not filling[key] or len(filling[key]) >= most:
            filling[key] = []
            packs.append(filling[key])
        filling[key].append(run)
    return [Pack(tuple(members), padded=padded) for members in packs]


def depths_of(runs: Iterable[PlannedRun]) -> dict[str, int]:
    """Run id to the number of these runs that must be trained before it, one after the other."""
    planned_runs = {run.run_id: run for run in runs}
    found: dict[str, int] = {}

    def depth(run: PlannedRun) -> int:
        if run.run_id not in found:
            before = (planned_runs[needed] for needed in run.needs.values() if needed in planned_runs)
            found[run.run_id] = 1 + max(map(depth, before), default=-1)
        return found[run.run_id]

    for run in planned_runs.values():
        depth(run)
    return found
