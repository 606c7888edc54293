"""The Debian packages that a testbed needs."""

import os
import shutil
import subprocess
from pathlib import Path

from slurm.testbed.settings import TestbedError

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "munge",
    "slurmdbd", "mariadb-server-core", "mariadb-client-core",
    "libfaketime",
)  # fmt: skip
HOW_TO_INSTALL = "install it with: python -m slurm.testbed install (Debian or Ubuntu; root or sudo)"
_COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "setsid")
_ACCOUNTING_COMMANDS = ("slurmdbd", "mariadbd", "mariadb-install-db")


def search_path() -> str:
    """PATH and the folders of daemons, which a user's PATH often lacks."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def missing(*, accounting: bool = True) -> list[str]:
    """The commands that a testbed needs and that are not installed here."""
    wanted = _COMMANDS + (_ACCOUNTING_COMMANDS if accounting else ())
    return [command for command in wanted if shutil.which(command, path=search_path()) is None]


def faketime() -> Path | None:
    """The library that gives a process its own clock; None if it is not installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def install() -> bool:
    """Install the missing packages without asking. Returns whether any were missing.

    Raises:
        TestbedError: there is no apt-get, no way to become root, or apt-get failed.
    """
    gone = missing() + ([] if faketime() else ["libfaketime"])
    if not gone:
        return False
    if shutil.which("apt-get") is None:
        raise TestbedError(
            f"{', '.join(gone)} missing, and there is no apt-get; install Slurm, munge and MariaDB by hand"
        )
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        _apt_get(*arguments)
    return True


def _apt_get(*arguments: str) -> None:
    root = [] if os.getuid() == 0 else ["sudo", "--non-interactive"]
    if root and shutil.which("sudo") is None:
        raise TestbedError(
            f"only root can install packages; run as root: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
    command = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise TestbedError(f"'{' '.join(command)}' failed ({done.returncode}): {said}")
