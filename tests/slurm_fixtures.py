"""A real Slurm to test with: one testbed for each test process, and others on demand."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from submitit.slurm.slurm import SlurmJob

from slurm.testbed import packages, ports
from slurm.testbed.daemons import SLURMS_OWN
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed

_NUMBERS = itertools.count()


@contextmanager
def slurm_on(made_of: Settings) -> Iterator[Testbed]:
    """A testbed of our own, in a folder of its own, which is gone afterwards."""
    if missing := packages.missing(accounting=made_of.accounting):
        # CI sets it: there, nothing may be skipped.
        give_up = pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip
        give_up(f"Slurm is not all here ({', '.join(missing)} missing); {packages.HOW_TO_INSTALL}")
    # Not below pytest's own folders: the paths of sockets must be short.
    testbed = Testbed(Path(tempfile.gettempdir()) / f"slurm-test-{os.getpid()}-{next(_NUMBERS)}")
    try:
        testbed.up(made_of)
        yield testbed
    finally:
        testbed.wipe()


def wipe_orphans() -> None:
    """Takes down what test processes left that were killed."""
    with ports.held():  # another test process may be at it, too
        for folder in Path(tempfile.gettempdir()).glob("slurm-test-*-*"):
            owner = folder.name.split("-")[2]
            if folder.stat().st_uid == os.getuid() and owner.isdigit() and not psutil.pid_exists(int(owner)):
                Testbed(folder).wipe()


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Testbed]:
    """The testbed that this process's tests share: 4 nodes with 2 GPUs each, accounting. Tests take `slurm`."""
    wipe_orphans()
    with slurm_on(Settings()) as testbed:
        yield testbed


@pytest.fixture
def slurm(slurm_cluster: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A real Slurm that is all up and has no jobs; SLURM_CONF points at it. What the test breaks is mended after it."""
    use(slurm_cluster, monkeypatch)
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.fixture
def slurm_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Testbed]]:
    """Makes testbeds with other settings, for this test alone; SLURM_CONF points at the last one."""
    with ExitStack() as stack:

        def make(**options: Any) -> Testbed:
            testbed = stack.enter_context(slurm_on(Settings(**options)))
            use(testbed, monkeypatch)
            return testbed

        yield make


def use(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and what it starts, talks to that testbed and to no cluster around it."""
    for name in [name for name in os.environ if name.startswith(SLURMS_OWN)]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "IMAGINE_DEVICE"):
        monkeypatch.setenv(name, testbed.environment[name])
    SlurmJob.watcher.clear()  # submitit keeps what it saw by job id, and every testbed counts from 1
