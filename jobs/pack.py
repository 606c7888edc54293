"""Packs: runs with equal tensor shapes that train together, and the task of training one. Torch-free."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from imagination import registry
from imagination.schema import Scalar, pack_keys
from jobs.identity import canonical_json
from results_db.contract import Attempt, PlannedRun


@dataclass(frozen=True)
class Pack:
    """Runs that one worker trains. Their experiment and tensor shapes are equal.

    Attributes:
        runs: the runs.
        slots: how many of them train at once; None: all. The next run begins where one has ended.
    """

    runs: tuple[PlannedRun, ...]
    slots: int | None = None

    @property
    def pack_id(self) -> str:
        """The first 16 characters of the SHA-256 of the run ids, in their order."""
        text = " ".join(run.run_id for run in self.runs)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """What a worker does: it trains the runs of a pack for which it has a claimed attempt.

    Its file holds the runs' configs, so that a worker does not need the store to read them.
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
        """The content of the task's file."""
        runs, attempts = map(asdict, self.pack.runs), map(asdict, self.attempts)
        return json.dumps({"runs": list(runs), "slots": self.pack.slots, "attempts": list(attempts)})

    @classmethod
    def decode(cls, text: str) -> "Task":
        """The task, from the content of its file.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            data = json.loads(text)
            if "attempts" not in data:  # versions before 0.3
                numbers = data["numbers"].items()
                data["attempts"] = [{"run_id": run_id, "number": number} for run_id, number in numbers]
            runs = tuple(PlannedRun(**run) for run in data["runs"])
            return cls(
                Pack(runs, data.get("slots")), tuple(Attempt(**attempt) for attempt in data["attempts"])
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no task: {error}") from error


def shape(config: Mapping[str, Scalar]) -> str:
    """The config keys that are equal in all runs of a pack, as text."""
    keys = pack_keys(registry.config_type(str(config["experiment"])))
    return canonical_json({key: config[key] for key in keys})


def group(runs: Iterable[PlannedRun], *, size: int, declared: bool = False) -> list[Pack]:
    """Packs of at most `size` runs, in the order of their first runs.

    With `declared`, the packs of an experiment that declares larger ones are as large as it says.
    """
    packs: list[list[PlannedRun]] = []
    filling: dict[tuple[object, ...], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        experiment = registry.declaration(str(run.config["experiment"]))
        keys = pack_keys(experiment.config)
        most = max(size, experiment.pack) if declared else size
        key = tuple(run.config[name] for name in keys)
        if len(filling[key]) % most == 0:
            filling[key] = []
            packs.append(filling[key])
        filling[key].append(run)
    return [Pack(tuple(members)) for members in packs]
