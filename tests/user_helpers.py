"""A second Unix user, and a folder that it shares with this one. Without root the tests are skipped."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


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
    if os.geteuid():
        pytest.skip("a second user needs root")
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
