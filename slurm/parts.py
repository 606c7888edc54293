"""The processes of a job that has several GPUs: each trains a part of the job's pack, on a GPU of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from results_db.contract import State
from slurm.signals import Signals

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Part:
    """Which runs of a pack a process trains: those with these places, `index`, `index + of`, ...

    Attributes:
        index: from 0.
        of: the number of parts.
        restart: the start of the job, counted from 0.
    """

    index: int
    of: int
    restart: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}/{self.restart}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part of which `text` is the `str`."""
        return cls(*map(int, text.split("/")))


def train(
    folder: str, gpus: Sequence[str], *, threads: int, restart: int, signals: Signals
) -> tuple[dict[str, State], dict[int, int]]:
    """Trains each part in a process of its own, with its share of the job's `threads`, and passes signals on.

    Returns:
        By run id, the states in which the attempts ended; and by part, the exit codes of processes that died.
    """
    parts = [Part(index, len(gpus), restart) for index in range(len(gpus))]
    states: dict[str, State] = {}
    died: dict[int, int] = {}
    own = str(max(threads // len(gpus), 1))
    with ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in parts]
        processes = [
            _start(folder, part, gpu=gpu, threads=own, out=out)
            for part, gpu, out in zip(parts, gpus, said, strict=True)
        ]
        _wait(processes, signals)
        for part, process, out in zip(parts, processes, said, strict=True):
            if process.returncode:
                died[part.index] = process.returncode
            else:
                out.seek(0)
                states |= {run_id: State(state) for run_id, state in json.load(out).items()}
    return states, died


def _start(folder: str, part: Part, *, gpu: str, threads: str, out: IO[bytes]) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "slurm.start", folder, str(part)]
    counts = dict.fromkeys(("IMAGINE_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return subprocess.Popen(words, stdout=out, env={**os.environ, **counts, "CUDA_VISIBLE_DEVICES": gpu})


def _wait(processes: Sequence["subprocess.Popen[bytes]"], signals: Signals) -> None:
    """Waits until all have ended. After a signal they save."""
    told = False
    while any(process.poll() is None for process in processes):
        if signals.told and not told:
            told = True
            for process in processes:
                process.terminate()
        time.sleep(_LOOK_EVERY_S)
