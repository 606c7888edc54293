"""A testbed's settings, which are the options of `up`, and the places of its files."""

import dataclasses
import json
import os
import pwd
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LONGEST_FOLDER = 70  # the path of a socket below it has at most 107 characters


class TestbedError(Exception):
    """The testbed cannot do this. The message is one line that says what to do next."""

    __test__ = False  # pytest would take it for a test class by its name


def _option(default: int | bool, about: str, *, low: int | None = None, high: int | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `up`, with the help that `up --help` prints."""

    nodes: int = _option(4, "Nodes n1, n2, ...: one slurmd each.", low=1, high=60)
    gpus: int = _option(2, "Fake GPUs of a node.", low=0, high=64)
    cpus: int = _option(8, "CPUs that a node claims to have.", low=1, high=1024)
    memory_mb: int = _option(
        16_000,
        "Memory that a node claims to have; a job gets the share of its CPUs.",
        low=1024,
        high=10_000_000,
    )
    accounting: bool = _option(True, "MariaDB and slurmdbd, which sacct needs.")
    max_array: int = _option(1001, "MaxArraySize; 1001 is Slurm's default.", low=2, high=100_000)
    requeue_wait_s: int = _option(6, "Seconds before a requeued job starts again; Slurm: 121.", low=6)
    node_timeout_s: int = _option(10, "SlurmdTimeout: a node is down after this silence; Slurm: 300.", low=3)
    message_timeout_s: int = _option(5, "MessageTimeout: time to answer a message; Slurm: 10.", low=2)
    kill_wait_s: int = _option(2, "KillWait: from SIGTERM to SIGKILL; Slurm: 30.", low=1)
    grace_s: int = _option(10, "GraceTime: from a preempted job's signal to its end.", low=0)
    preempt_signal: bool = _option(True, "A preempted job gets the signal of its --signal option.")
    kill_over_memory: bool = _option(True, "Kill jobs that exceed their memory, checked every second.")
    private_jobs: bool = _option(False, "PrivateData=jobs: squeue shows users only their own jobs.")
    forget_after_s: int = _option(300, "MinJobAge: squeue lists an ended job at least this long.", low=2)


@dataclass(frozen=True)
class Place:
    """The private folder of a testbed and the names in it. A testbed writes nowhere else.

    Raises:
        TestbedError: the path is too long for the sockets below it, or has a character with a meaning in Slurm's
            configuration files.
    """

    folder: Path

    def __post_init__(self) -> None:
        text = str(self.folder)
        if len(text) > _LONGEST_FOLDER:
            raise TestbedError(
                f"the folder {text} has {len(text)} characters, and a socket's path allows {_LONGEST_FOLDER}; "
                "choose a shorter one with --folder"
            )
        if not re.fullmatch(r"[\w/.-]*", text, re.ASCII):
            raise TestbedError(
                f"the folder {text} has characters other than letters, digits, '/', '-', '_' and '.'; "
                "choose another one with --folder"
            )

    @property
    def conf(self) -> Path:
        """slurm.conf, which SLURM_CONF names; the other configuration files lie beside it."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """The socket of the testbed's own munged."""
        return self.folder / "run" / "munge.sock"

    @property
    def sql_socket(self) -> Path:
        """The socket of the testbed's own MariaDB, which listens on no port."""
        return self.folder / "run" / "sql.sock"

    @property
    def record(self) -> Path:
        """The file of the `Record`, which also marks the folder as a testbed's."""
        return self.folder / "testbed.json"

    def log(self, daemon: str, node: str | None = None) -> Path:
        """The log of a daemon. Each slurmd's log has a folder of its own; see `processes`."""
        return self.folder / "log" / (node or "") / f"{daemon}.log"


@dataclass(frozen=True)
class Record:
    """The settings that a testbed was started with, and the first of its ports."""

    settings: Settings
    port: int

    @property
    def nodes(self) -> dict[str, int]:
        """The name of each node and the port of its slurmd."""
        return {f"n{number}": self.port + 1 + number for number in range(1, self.settings.nodes + 1)}

    @property
    def dbd_port(self) -> int:
        """The port of slurmdbd; `port` itself is slurmctld's."""
        return self.port + 1

    def write(self, place: Place) -> None:
        """Write the record into the testbed's folder."""
        place.record.write_text(
            json.dumps({"settings": dataclasses.asdict(self.settings), "port": self.port})
        )

    @classmethod
    def read(cls, place: Place) -> "Record":
        """Read what `write` wrote.

        Raises:
            TestbedError: there is no testbed in this folder.
        """
        try:
            kept = json.loads(place.record.read_text())
            return cls(Settings(**kept["settings"]), kept["port"])
        except (OSError, ValueError, TypeError, KeyError):
            raise TestbedError(
                f"no testbed in {place.folder}; start one with: python -m slurm.testbed up"
            ) from None


def default_folder() -> Path:
    """The user's own folder, below the folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"slurm-testbed-{os.getuid()}"


def user() -> str:
    """The caller's account, which runs all processes of a testbed."""
    return pwd.getpwuid(os.getuid()).pw_name
