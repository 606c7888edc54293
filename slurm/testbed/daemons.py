"""Starts the daemons of a testbed. Each function returns when its daemon answers."""

import os
import secrets
import socket
import subprocess
from functools import partial
from pathlib import Path

from slurm.client.client import Slurm, SlurmError
from slurm.testbed.packages import search_path
from slurm.testbed.processes import wait_for
from slurm.testbed.settings import Place, TestbedError, user

SLURMS_OWN = ("SLURM", "SBATCH_", "SRUN_")
"""Prefixes of the variables that Slurm sets in a job, or that change the behaviour of its commands."""

_WITHIN_S = 60.0

# A test's database may be small and need not survive a power cut.
_SQL_FORMAT = ("--innodb-log-file-size=16M", "--innodb-flush-method=nosync", "--debug-no-sync")
_SQL_OPTIONS = (
    "--skip-networking",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-lock-wait-timeout=900",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--performance-schema=OFF",
)


def environment(place: Place) -> dict[str, str]:
    """The environment in which Slurm's commands talk to the testbed, and not to a cluster around it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SLURMS_OWN)}
    # MYSQL_UNIX_PORT: slurmdbd has no option for the path of MariaDB's socket; its client library reads this.
    return kept | {
        "SLURM_CONF": str(place.conf),
        "MYSQL_UNIX_PORT": str(place.sql_socket),
        "PATH": search_path(),
        "IMAGINE_DEVICE": "cpu",
    }


def start_munged(place: Place) -> None:
    """The testbed's own munged, with its own key and socket."""
    key = place.folder / "etc" / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
    log = place.log("munged")
    _run(
        place,
        "munged",
        "--force",  # without it, munged refuses a socket in a private folder
        f"--key-file={key}",
        f"--socket={place.munge_socket}",
        f"--pid-file={place.folder}/run/munged.pid",
        f"--log-file={log}",
        f"--seed-file={place.folder}/run/munged.seed",
        "--num-threads=10",
    )
    wait_for("munged", partial(_accepts, place.munge_socket), within_s=_WITHIN_S, log=log)


def start_mariadb(place: Place) -> None:
    """The testbed's own MariaDB, on a socket, for this user only."""
    data = place.folder / "db"
    # The mark is written last, so an interrupted installation is repeated.
    mark = data / "installed"
    if not mark.exists():
        _run(
            place,
            "mariadb-install-db",
            "--no-defaults",
            f"--user={user()}",
            f"--datadir={data}",
            "--skip-test-db",
            f"--auth-root-socket-user={user()}",
            *_SQL_FORMAT,
        )
        mark.touch()
    first = place.folder / "etc" / "first.sql"
    first.write_text("CREATE DATABASE IF NOT EXISTS slurm_acct;\n")
    log = place.log("mariadbd")
    _run(
        place,
        *("setsid", "--fork", "mariadbd"),  # it stays in the foreground
        "--no-defaults",
        f"--user={user()}",
        f"--datadir={data}",
        f"--socket={place.sql_socket}",
        f"--pid-file={place.folder}/run/mariadbd.pid",
        f"--init-file={first}",
        f"--log-error={log}",
        *_SQL_FORMAT,
        *_SQL_OPTIONS,
    )
    wait_for("MariaDB", partial(_accepts, place.sql_socket), within_s=_WITHIN_S, log=log)


def start_slurmdbd(place: Place) -> None:
    """The accounting daemon; its configuration lies beside slurm.conf."""
    _run(place, "slurmdbd")
    ready = partial(_answers, place, "sacctmgr", "-n", "list", "cluster")
    wait_for("slurmdbd", ready, within_s=_WITHIN_S, log=place.log("slurmdbd"))


def start_slurmctld(place: Place) -> None:
    """The controller; it continues with the jobs that it knew."""
    _run(place, "slurmctld")
    ready = partial(_answers, place, "scontrol", "ping")
    wait_for("slurmctld", ready, within_s=_WITHIN_S, log=place.log("slurmctld"))


def start_slurmd(place: Place, node: str, *, port: int) -> None:
    """The daemon of one node. The controller may learn of it only later."""
    _run(place, "slurmd", "-N", node)
    wait_for(f"slurmd of {node}", partial(_accepts, port), within_s=_WITHIN_S, log=place.log("slurmd", node))


def _accepts(address: Path | int) -> bool:
    """Whether a process listens on this socket or port."""
    port = isinstance(address, int)
    with socket.socket(socket.AF_INET if port else socket.AF_UNIX) as client:
        return client.connect_ex(("127.0.0.1", address) if port else str(address)) == 0


def _answers(place: Place, *command: str) -> bool:
    try:
        return "DOWN" not in Slurm(environment(place)).run(*command)
    except SlurmError:
        return False


def _run(place: Place, *command: str) -> None:
    """Run a command that ends, or that goes into the background."""
    output = place.log(f"{command[0]}.start")
    with output.open("a") as file:
        done = subprocess.run(
            command,
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=file,  # not a pipe: a daemon would keep it open, and this call would not return
            stderr=file,
            start_new_session=True,
            check=False,
        )
    if done.returncode:
        lines = output.read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "no message"
        raise TestbedError(f"{command[0]} did not start ({done.returncode}): {said}; see {place.folder}/log")
