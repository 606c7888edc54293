"""A checkpoint on disk: a run's training state and its traces so far, sealed against damage and mix-ups.

The file is a safetensors file. Its metadata name the run (whose id is the hash of its config) and the attempt that
wrote it, and hold the traces. Their seal is the SHA-256 of all of this and of every tensor, the step among them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

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
    about = {
        "run": attempt.run_id,
        "attempt": file_name(attempt, ""),
        "traces": json.dumps(traces),
    }
    write_atomically(path, save(dict(state), metadata={**about, "seal": _seal(state, about)}))


def read(path: Path, *, run_id: str) -> tuple[Arrays, Traces]:
    """The training state and the traces of a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is damaged, of another run, or without a seal.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = dict(file.metadata() or {})
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedError(str(error)) from error
    if "seal" not in about:
        raise DamagedError("it has no seal, as if a version before 0.3 wrote it")
    if about.pop("seal") != _seal(state, about):
        raise DamagedError("its seal does not fit its contents")
    if about["run"] != run_id:
        raise DamagedError(f"it belongs to run {about['run']}")
    return state, json.loads(about["traces"])


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint, so that nothing reads it again; returns its new path."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def _seal(state: Arrays, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"\n{name} {state[name].dtype.str} {state[name].shape}\n".encode())
        digest.update(state[name].tobytes())
    return digest.hexdigest()
