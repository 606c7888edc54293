"""The GPUs of this machine, counted without torch."""

import os
import subprocess

ANSWERS_WITHIN_S = 30.0
"""How long nvidia-smi may take."""


def visible_gpus() -> list[str]:
    """The GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")]
    return [str(index) for index in range(len(gpu_names()))]


def gpu_names() -> list[str]:
    """The name of each of this machine's GPUs, from lines such as `GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d2f)`.

    There is none if nvidia-smi is missing, or does not answer.
    """
    command = ["nvidia-smi", "-L"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWERS_WITHIN_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    names = [line.partition(": ")[2].partition(" (UUID")[0] for line in lines]
    return names if listed.returncode == 0 else []
