"""The configuration files of a testbed, from the templates beside this file."""

import os
import socket
from dataclasses import asdict
from pathlib import Path
from string import Template

from slurm.testbed.settings import Place, Record, user

_TEMPLATES = Path(__file__).parent / "templates"
_FOLDERS = ("etc", "run", "log", "state", "spool", "dev")


def write_configuration(place: Place, record: Record) -> None:
    """Write the configuration files, and create the folders and fake GPUs that they name."""
    for name in (*_FOLDERS, *(f"{above}/{node}" for above in ("log", "spool") for node in record.nodes)):
        (place.folder / name).mkdir(parents=True, exist_ok=True)
    # Slurm needs device files, and takes CUDA_VISIBLE_DEVICES from the number at the end of the name.
    for number in range(record.settings.gpus):
        device = place.folder / "dev" / f"nvidia{number}"
        if not device.is_symlink():
            device.symlink_to(os.devnull)
    values = _values(place, record)
    values["accounting"] = _render("accounting.conf", values) if record.settings.accounting else ""
    names = ["slurm.conf", "cgroup.conf", "slurmdbd.conf"] + ["gres.conf"] * bool(record.settings.gpus)
    (place.conf.parent / "gres.conf").unlink(missing_ok=True)
    for name in names:
        path = place.conf.parent / name
        path.touch(mode=0o600)  # slurmdbd refuses a configuration that others may read
        path.write_text(_render(name, values))


def _values(place: Place, record: Record) -> dict[str, str]:
    settings = record.settings
    node_ports = list(record.nodes.values())
    return {name: str(value) for name, value in asdict(settings).items()} | {
        "folder": str(place.folder),
        "munge_socket": str(place.munge_socket),
        "user": user(),
        "host": socket.gethostname().split(".")[0],
        "controller_port": str(record.port),
        "dbd_port": str(record.dbd_port),
        "node_ports": "-".join(str(port) for port in sorted({node_ports[0], node_ports[-1]})),
        "nodes": _range("n", 1, settings.nodes),
        "memory_per_cpu_mb": str(max(settings.memory_mb // settings.cpus, 1)),
        "gpu_files": _range("nvidia", 0, settings.gpus - 1),
        "gres": f"Gres=gpu:{settings.gpus}" if settings.gpus else "",
        "gather": "JobAcctGatherParams=OverMemoryKill" if settings.kill_over_memory else "",
        "preempt": "SlurmctldParameters=preempt_send_user_signal" if settings.preempt_signal else "",
        "private": "PrivateData=jobs" if settings.private_jobs else "",
        "cred_expire_s": str(settings.requeue_wait_s - 1),  # Slurm waits until old credentials have expired
    }


def _range(prefix: str, first: int, last: int) -> str:
    """`n[1-4]`, as in Slurm's files, which refuse brackets around a single number."""
    return f"{prefix}{first}" if first == last else f"{prefix}[{first}-{last}]"


def _render(name: str, values: dict[str, str]) -> str:
    return Template((_TEMPLATES / name).read_text()).substitute(values)
