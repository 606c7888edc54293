"""A checkpoint on disk: a run's training state and its traces so far, sealed against damage and mix-ups.

The file is a safetensors file. Its metadata name the run (whose id is the hash of its config) and the attempt that
wrote it, and hold the traces. Their seal is the SHA-256 of all of this and of every tensor, the step among them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from imagination.recorder import Arrays
from results_db.contract import Attempt, Traces
from results_db.files import file_name, write_atomically


class DamagedError(Exception):
    """A checkpoint from which its run cannot continue. The message is the reason."""


def write(path: Path, state: Arrays, *, traces: Traces, attempt: Attempt) -> None:
    """Replaces the checkpoint of an attempt's run.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old checkpoint remains.
    """
    state = in_order(state)
    about = {
        "run": attempt.run_id,
        "attempt": file_name(attempt, ""),
        "traces": json.dumps(traces),
    }
    write_atomically(path, save(state, metadata={**about, "seal": _seal(state, about)}))


def read(file: BinaryIO, *, run_id: str) -> tuple[Arrays, Traces]:
    """The training state and the traces of a checkpoint; `Files.open` opens it.

    Raises:
        DamagedError: it cannot be read, is damaged, of another run, or without a seal.
    """
    try:
        data = file.read()
        state = load(data)
        about = _metadata(data)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedError(str(error)) from error
    if "seal" not in about:
        raise DamagedError("it has no seal, as if a version before 0.3 wrote it")
    if about.pop("seal") != _seal(state, about):
        raise DamagedError("its seal does not fit its contents")
    if about["run"] != run_id:
        raise DamagedError(f"it belongs to run {about['run']}")
    return state, json.loads(about["traces"])


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
