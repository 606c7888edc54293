"""A checkpoint on disk: a run's training state, traces and artifacts so far, sealed against damage and mix-ups.

The file is a safetensors file. Its metadata name the run (whose id is the hash of its config) and the attempt that
wrote it. They hold the traces, and the digests of the artifacts, which are files of their own. The seal is the SHA-256
of all of this and of every tensor, the step among them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from imagination.recorder import Arrays
from results_db.contract import Attempt, Traces
from results_db.files import file_name, write_atomically
from results_db.spool import plain


class DamagedError(Exception):
    """A checkpoint from which its run cannot continue. The message is the reason."""


@dataclass(frozen=True)
class Saved:
    """What a run had when it was saved.

    Attributes:
        state: the training state.
        traces: as in `RunRecord`.
        artifacts: the SHA-256 of each artifact, by name.
    """

    state: Arrays
    traces: Traces
    artifacts: Mapping[str, str]


def write(path: Path, saved: Saved, *, attempt: Attempt) -> None:
    """Replaces the checkpoint of an attempt.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old checkpoint remains.
    """
    state = in_order(saved.state)
    about = {
        "run": attempt.run_id,
        "attempt": file_name(attempt, ""),
        "traces": json.dumps(saved.traces),
        "artifacts": json.dumps(saved.artifacts),
    }
    write_atomically(path, save(state, metadata={**about, "seal": _seal(state, about)}))


def read(data: bytes, *, run_id: str) -> Saved:
    """What a checkpoint with this content saved.

    Raises:
        DamagedError: it is damaged, of another run, or without a seal.
    """
    try:
        state = load(data)
        about = _metadata(data)
        traces = plain.read(Traces, json.loads(about.get("traces", "{}")))
        artifacts = plain.read(Mapping[str, str], json.loads(about.get("artifacts", "{}")))
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(str(error)) from error
    if "seal" not in about:
        raise DamagedError("it has no seal, as if a version before 0.3 wrote it")
    if about.pop("seal") != _seal(state, about):
        raise DamagedError("its seal does not fit its contents")
    if about.get("run") != run_id:
        raise DamagedError(f"it belongs to run {about.get('run')}")
    if any(len(steps) != len(values) for steps, values in traces.values()):
        raise DamagedError("a trace has more steps than values, or fewer")
    return Saved(state, traces, artifacts)


def in_order(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays, and numbers as arrays, in the order of C: safetensors writes their memory as it lies."""
    return {name: np.asarray(value, order="C") for name, value in arrays.items()}


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which begins with the length of its head, in 8 bytes, and the head as JSON.

    The library gives them only for a file that it opens itself.
    """
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__") or {})


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint, so that nothing reads it again; returns its new path."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def _seal(state: Arrays, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"\n{name} {state[name].dtype.str} {state[name].shape}\n".encode())
        digest.update(state[name].tobytes())
    return digest.hexdigest()
