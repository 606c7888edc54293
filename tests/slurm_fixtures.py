"""A real Slurm for tests: one testbed per test process, and others on demand."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from require import give_up
from submitit.slurm.slurm import SlurmJob

from results_db.store.sql import SqlStore, open_store
from slurm.testbed import packages, ports
from slurm.testbed.daemons import SLURMS_OWN
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed

_NUMBERS = itertools.count()


@contextmanager
def slurm_on(made_of: Settings) -> Iterator[Testbed]:
    """A testbed in a folder of its own, which is deleted afterwards."""
    if missing := packages.missing(accounting=made_of.accounting):
        give_up(
            "SLURM",
            f"Slurm is not installed completely ({', '.join(missing)} missing); {packages.HOW_TO_INSTALL}",
        )
    # Not below pytest's own folders, because the paths of sockets must be short.
    testbed = Testbed(Path(tempfile.gettempdir()) / f"slurm-test-{os.getpid()}-{next(_NUMBERS)}")
    try:
        testbed.up(made_of)
        yield testbed
    finally:
        testbed.wipe()


def wipe_orphans() -> None:
    """Deletes the testbeds of test processes that were killed."""
    with ports.held():  # another test process may do the same
        for folder in Path(tempfile.gettempdir()).glob("slurm-test-*-*"):
            owner = folder.name.split("-")[2]
            if folder.stat().st_uid == os.getuid() and owner.isdigit() and not psutil.pid_exists(int(owner)):
                Testbed(folder).wipe()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store, `a.db` in the test's folder."""
    with closing(open_store(str(tmp_path / "a.db"), create=True)) as store:
        yield store


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Testbed]:
    """The testbed that this process's tests share: 4 nodes with 2 GPUs each, accounting. Tests take `slurm`."""
    wipe_orphans()
    with slurm_on(Settings()) as testbed:
        yield testbed


@pytest.fixture
def slurm(slurm_cluster: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A real Slurm without jobs, named by SLURM_CONF. After the test everything that it broke is repaired."""
    use(slurm_cluster, monkeypatch)
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.fixture
def slurm_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Testbed]]:
    """Makes testbeds with other settings, for one test; SLURM_CONF names the last one."""
    with ExitStack() as stack:

        def make(**options: Any) -> Testbed:
            testbed = stack.enter_context(slurm_on(Settings(**options)))
            use(testbed, monkeypatch)
            return testbed

        yield make


def use(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points this process and its children at that testbed, and not at a cluster around it."""
    for name in [name for name in os.environ if name.startswith(SLURMS_OWN)]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "IMAGINE_DEVICE"):
        monkeypatch.setenv(name, testbed.environment[name])
    SlurmJob.watcher.clear()  # submitit caches by job id, and every testbed counts from 1
