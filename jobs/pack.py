"""Packs: runs with equal tensor shapes that train together. Torch-free.

A pack's file holds its runs' configs, so a worker does not need the store to read them.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from imagination import registry
from imagination.schema import pack_keys
from results_db.contract import PlannedRun
from results_db.files import write_atomically


@dataclass(frozen=True)
class Pack:
    """Runs that one worker trains at once. Their experiment and tensor shapes are equal."""

    runs: tuple[PlannedRun, ...]

    @property
    def pack_id(self) -> str:
        """The first 16 characters of the SHA-256 of the run ids, in their order."""
        text = " ".join(run.run_id for run in self.runs)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Writes the pack's file, and its folder if necessary."""
        text = json.dumps({"runs": [asdict(run) for run in self.runs]})
        write_atomically(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> "Pack":
        """Reads a file that `write` wrote."""
        data = json.loads(path.read_text())
        return cls(tuple(PlannedRun(**run) for run in data["runs"]))


def group(runs: Iterable[PlannedRun], *, size: int) -> list[Pack]:
    """Packs of at most `size` runs, in the order of their first runs."""
    packs: list[list[PlannedRun]] = []
    filling: dict[tuple[object, ...], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        keys = pack_keys(registry.config_type(str(run.config["experiment"])))
        key = tuple(run.config[name] for name in keys)
        if len(filling[key]) % size == 0:
            filling[key] = []
            packs.append(filling[key])
        filling[key].append(run)
    return [Pack(tuple(members)) for members in packs]
