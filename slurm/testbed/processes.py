"""Finds the processes of a testbed. It reads no pid files, because a crash leaves them behind.

These belong to the testbed: Slurm's daemons, munged and mariadbd, if the testbed's SLURM_CONF is in their environment
or they work in its folder; and the tasks that these daemons started. A user's shell with SLURM_CONF set does not.

slurmstepd and slurmscriptd overwrite their environment with a title, so their working folder identifies them. slurmd
changes to the folder of its log, and its children inherit it. So the log of each node's slurmd has its own folder.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from results_db.files import own_tail
from slurm.testbed.settings import Place, TestbedError

SLURMD = "slurmd"
STEP = "slurmstepd"
TASK = "task"
_DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", SLURMD, STEP)
_POLL_S = 0.02


@dataclass(frozen=True)
class Member:
    """A process of a testbed.

    Attributes:
        process: the process; psutil compares its start time, so a signal never reaches a later process with its id.
        kind: the daemon's name, or `task`.
        node: its node, or None.
    """

    process: psutil.Process
    kind: str
    node: str | None = None


def members(place: Place) -> list[Member]:
    """Every live process of the testbed, steps before their tasks."""
    daemons: list[Member] = []
    tasks: list[Member] = []
    for process in psutil.process_iter():
        try:
            if not is_alive(process):
                continue
            found = _daemon(process, place) or _task(process, place)
        except psutil.Error:  # gone, or another user's
            continue
        if found is not None:
            (tasks if found.kind == TASK else daemons).append(found)
    known = {member.process for member in (*daemons, *tasks)}
    return daemons + tasks + [child for child in _children(daemons) if child.process not in known]


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(processes: Iterable[psutil.Process], signal_number: signal.Signals, *, within_s: float = 15) -> None:
    """Send the signal and wait until all processes are gone. Kill those that stay too long."""
    left = list(processes)
    _send(left, signal_number)
    deadline = time.monotonic() + within_s
    while left := [process for process in left if is_alive(process)]:
        if time.monotonic() > deadline:
            _send(left, signal.SIGKILL)
        time.sleep(_POLL_S)


def wait_for(what: str, condition: Callable[[], bool], *, within_s: float, log: Path | None = None) -> None:
    """Wait until the condition holds.

    Raises:
        TestbedError: the condition does not hold in time; the message has the last line of the log.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            said = f"; the last line of {log}: {own_tail(log, 1) or 'none'}" if log else ""
            raise TestbedError(f"{what}: not ready after {within_s:.0f} s{said}")
        time.sleep(_POLL_S)


def _daemon(process: psutil.Process, place: Place) -> Member | None:
    name = process.name()
    if name not in _DAEMONS:
        return None
    folder = Path(process.cwd().removesuffix(" (deleted)"))
    if process.environ().get("SLURM_CONF") != str(place.conf) and not folder.is_relative_to(place.folder):
        return None
    if name == SLURMD:
        return Member(process, name, dict(itertools.pairwise(process.cmdline())).get("-N"))
    return Member(process, name, folder.name if name == STEP else None)


def _task(process: psutil.Process, place: Place) -> Member | None:
    environment = process.environ()
    if environment.get("SLURM_CONF") != str(place.conf) or "SLURMD_NODENAME" not in environment:
        return None
    return Member(process, TASK, environment["SLURMD_NODENAME"])


def _children(daemons: Iterable[Member]) -> Iterator[Member]:
    """Processes below the steps, which may have changed their environment."""
    for step in (daemon for daemon in daemons if daemon.kind == STEP):
        with suppress(psutil.NoSuchProcess):
            children = step.process.children(recursive=True)
            yield from (Member(child, TASK, step.node) for child in children if is_alive(child))


def _send(processes: Iterable[psutil.Process], signal_number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)
