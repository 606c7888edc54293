"""A second Unix user, and a folder that it shares with this one. Without root the tests are skipped."""

import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from require import give_up

NOBODY = 65534
DAEMON = 1
USERS = 100
"""Users and a group that every Linux has; Slurm needs their names."""

_NAMES = {NOBODY: "nobody", DAEMON: "daemon"}


def need_root() -> None:
    """Skip the test without root."""
    if os.geteuid():
        give_up("ROOT", "a second user needs root")


def run_as(
    user: int, *command: str, folder: Path, umask: str = "077", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in `folder` as a user of the group `USERS`; its HOME is an empty folder.

    If Python is installed where only root may enter, the command gets a mount namespace of its own, in which Python's
    folders, and nothing else there, are open to everyone.
    """
    need_root()
    become = ["setpriv", f"--reuid={user}", f"--regid={USERS}", "--clear-groups", *command]
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        Path(home).chmod(0o777)
        opening = list(_opening(Path(home)))
        script = ["set -e", *opening, f"umask {umask}", f"exec {shlex.join(become)}"]
        kept = {
            name: os.environ[name]
            for name in ("PATH", "IMAGINE_MOUNTS", "OMP_NUM_THREADS", "SLURM_CONF")
            if name in os.environ
        }
        done = subprocess.run(
            [*(("unshare", "--mount") if opening else ()), "sh", "-c", "\n".join(script)],
            cwd=folder,
            env={**kept, "HOME": home, "USER": _NAMES[user], **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.stderr.startswith("unshare: "):
        pytest.skip(done.stderr.strip())
    return done


def _opening(place: Path) -> Iterator[str]:
    """Shell commands that open the folders of this Python; `place` is an empty folder."""
    needed = sorted({Path(name) for name in (sys.prefix, sys.base_prefix, *sys.path) if Path(name).is_dir()})
    closed = {
        next((above for above in reversed(path.parents) if not above.stat().st_mode & 1), None)
        for path in needed
    }
    for number, above in enumerate(sorted(filter(None, closed))):
        aside = place / str(number)
        yield f"mkdir {aside} && mount --rbind {above} {aside} && mount -t tmpfs -o mode=755 none {above}"
        for path in needed:
            if path.is_relative_to(above):
                yield f"mkdir -p {path} && mount --rbind {aside / path.relative_to(above)} {path}"


@contextmanager
def shared_folder() -> Iterator[Path]:
    """An empty folder that every user may write; pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    before = os.umask(0)
    try:
        folder.chmod(0o777)
        yield folder
    finally:
        os.umask(before)
        shutil.rmtree(folder, ignore_errors=True)  # a job may still write


def as_nobody(work: Callable[..., Any], *arguments: Any, before: Callable[[], object] = lambda: None) -> Any:
    """What this function returns in a child process of the user `nobody`; `before` is called there as root."""
    need_root()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_become_nobody, args=(work, arguments, before, answers))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    return answers.get()


def _become_nobody(
    work: Callable[..., Any], arguments: tuple[Any, ...], before: Callable[[], object], answers: Any
) -> None:
    before()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.environ["HOME"] = "/nonexistent"
    answers.put(work(*arguments))
