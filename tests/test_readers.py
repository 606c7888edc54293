"""Two Unix users: a colleague reads a store, leaves nothing behind, and never locks the owner out."""

import grp
import os
import sqlite3
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from store_helpers import RUN, WHO, staged

from imagination.schema import ConfigError
from results_db import console
from results_db.cli.root import results
from results_db.contract import Attempt, RunRecord, StoreError
from results_db.files import Files
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store.share import share
from results_db.store.sql import SqlStore, open_store, open_to_read
from sweeps.cli.root import cli as sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users"),
]

ERRORS = (StoreError, ConfigError)
OWNER, COLLEAGUE, GROUP = 20_001, 20_002, 20_003


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the colleague can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="two-users-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """In this process, as another user of the group."""
    os.setegid(GROUP)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def called(
    user: int, command: click.Command, *args: str, folder: Path, warm: Path, dry: tuple[str, ...] = ()
) -> tuple[int, str]:
    """The exit code and the output of a command of this user, in a process of its own with umask 022.

    Before, root gives the same command with the store `warm` and the options `dry`, which imports what it needs:
    other users cannot read Python's folder in /root.
    """
    out = warm.parent / "out"
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.umask(0o022)
        os.environ["HOME"] = str(folder)
        for name, uid, more in ((warm, 0, dry), (folder / "x.db", user, ())):
            os.dup2(os.open(out, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600), 1)
            os.dup2(1, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            os.setgroups([])
            os.setresgid(*[GROUP if uid else 0] * 3)
            os.setresuid(uid, uid, uid)
            code = 99
            try:
                console.run(command, args=[*args, "--db", str(name), *more], errors=ERRORS)
            except SystemExit as done:
                code = int(done.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), out.read_text()


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """A store of root."""
    with open_store(str(tmp_path / "warm.db"), create=True) as store:
        staged(store)
    return tmp_path / "warm.db"


def store_of_the_owner(folder: Path, *, mode: int) -> None:
    """A store with one run in a folder of the owner and of the group, idle."""
    with open_store(str(folder / "x.db"), create=True) as store:
        staged(store)
    for path in (folder / "x.db", folder):
        os.chown(path, OWNER, GROUP)
    folder.chmod(mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o555, 0o755, 0o775])
def test_a_colleague_reads_an_idle_store_and_leaves_nothing(folder: Path, warm: Path, mode: int) -> None:
    store_of_the_owner(folder, mode=mode)
    before = names(folder)
    code, said = called(COLLEAGUE, results, "runs", "--json", folder=folder, warm=warm)
    assert (code, RUN in said) == (0, True), said
    assert names(folder) == before


def test_a_colleague_reads_while_the_owner_writes_and_does_not_lock_the_owner_out(
    folder: Path, warm: Path
) -> None:
    store_of_the_owner(folder, mode=0o775)
    (folder / "x.db").chmod(0o664)  # the colleague may even write it
    with acting_as(OWNER), open_store(str(folder / "x.db"), create=False) as store:
        staged(store, "cd" * 32)  # now in the log
        os.seteuid(0)
        code, said = called(COLLEAGUE, results, "runs", "--json", folder=folder, warm=warm)
        assert (code, RUN in said, "cd" * 32 in said) == (0, True, True), said
        os.seteuid(OWNER)
        staged(store, "ef" * 32)
    assert called(COLLEAGUE, results, "runs", "--json", folder=folder, warm=warm)[0] == 0
    assert not [path for path in folder.iterdir() if path.stat().st_uid == COLLEAGUE]
    with acting_as(OWNER), open_store(str(folder / "x.db"), create=False) as store:
        staged(store, "aa" * 32)
        assert len(store.frame()) == 4


def test_a_colleague_reads_while_the_log_is_folded_into_the_file(folder: Path) -> None:
    """Whoever reads the file as one that nobody writes either sees all of it, or is told to try again."""
    store_of_the_owner(folder, mode=0o755)
    with acting_as(COLLEAGUE), open_to_read(str(folder / "x.db")) as store:
        reading = store._reading()
        reading.__enter__()
        os.seteuid(0)
        os.seteuid(OWNER)
        with open_store(str(folder / "x.db"), create=False) as owners:
            staged(owners, "cd" * 32)
        os.seteuid(0)
        os.seteuid(COLLEAGUE)
        with pytest.raises(StoreError, match="was written while it was read; try again"):
            reading.__exit__(None, None, None)
        assert len(store.frame()) == 2


def test_the_mode_of_the_database_is_what_the_umask_asks_for(folder: Path) -> None:
    for umask, mode in ((0o002, 0o664), (0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            open_store(str(folder / f"{mode:o}.db"), create=True).close()
        finally:
            os.umask(before)
        assert stat.S_IMODE((folder / f"{mode:o}.db").stat().st_mode) == mode


def spooled(user: int, store: SqlStore, attempt: Attempt, *, group: int = -1) -> Path:
    """A record of this attempt in the spool, written by this user, by default with the group of the folder."""
    record = RunRecord(attempt.run_id, "reached", 1.0, {"metric": 0.9999})
    path = Spool(store.folder).write(Spooled(attempt, record, WHO, 0.0))
    os.chown(path, user, group)
    os.chown(store.folder, OWNER, -1)
    return path


def test_a_record_of_another_user_counts_only_in_a_shared_store(folder: Path) -> None:
    store_of_the_owner(folder, mode=0o755)
    with open_store(str(folder / "x.db"), create=False) as store:
        (attempt,) = store.claim([RUN], job_name="j", launcher="slurm")
        spooled(COLLEAGUE, store, attempt)
        (line,) = ingest(store).left
        assert f"is not believed: user {COLLEAGUE} wrote it" in line
        assert "db share GROUP" in line
        path = spooled(OWNER, store, attempt)
        kept = path.rename(folder / "kept")
        path.symlink_to(kept)
        (line,) = ingest(store).left
        assert "is not believed: it is a link" in line
        path.unlink()
        spooled(OWNER, store, attempt)
        assert ingest(store).stored == [attempt]

        store.discard([RUN], why="again")
        (attempt,) = store.claim([RUN], job_name="j", launcher="slurm")
        group = grp.getgrgid(os.getegid()).gr_name
        share(store, group)
    before = os.umask(0o022)
    try:
        with open_store(str(folder / "x.db"), create=False) as store:
            spooled(COLLEAGUE, store, attempt, group=GROUP)  # who is no member of this group
            assert "is not believed" in ingest(store).left[0]
            spooled(COLLEAGUE, store, attempt)
            assert ingest(store).stored == [attempt]
            (folder / "x.files" / "weights").mkdir()
    finally:
        os.umask(before)
    for path, mode in (("x.db", 0o664), (".", 0o2775), ("x.files", 0o3775), ("x.files/weights", 0o2775)):
        assert stat.S_IMODE((folder / path).stat().st_mode) == mode, path


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_of_a_store_on_a_server_the_folder_is_shared(store: SqlStore) -> None:
    staged(store)
    (attempt,) = store.claim([RUN], job_name="j", launcher="slurm")
    spooled(COLLEAGUE, store, attempt)
    assert "is not believed" in ingest(store).left[0]
    share(store, grp.getgrgid(os.getegid()).gr_name)
    assert ingest(store).stored == [attempt]


def test_a_job_writes_no_logs_below_a_folder_of_another_user(folder: Path) -> None:
    (folder / "x.files" / "logs").mkdir(parents=True)
    os.chown(folder / "x.files" / "logs", COLLEAGUE, GROUP)
    with pytest.raises(OSError, match=r"x\.files/logs belongs to another user; move it away"):
        Files(folder / "x.files").make_folder("logs", "s-1", mode=0o755)


def test_a_folder_that_another_user_put_beside_a_store_is_refused(folder: Path) -> None:
    """Else its owner would be taken for the store's."""
    store_of_the_owner(folder, mode=0o755)
    (folder / "x.files").mkdir()
    os.chown(folder / "x.files", COLLEAGUE, GROUP)
    with (
        acting_as(OWNER),
        pytest.raises(StoreError, match=r"x\.files belongs to another user than .*; move the"),
    ):
        open_store(str(folder / "x.db"), create=False)


def test_sharing_with_no_group_is_refused(folder: Path) -> None:
    with (
        open_store(str(folder / "x.db"), create=True) as store,
        pytest.raises(StoreError, match="no group 'x!'"),
    ):
        share(store, "x!")


@pytest.mark.parametrize(
    ("mode", "says"),
    [(0o755, "cannot write to"), (0o775, "this user may only read it; name another with --db")],
)
def test_a_launch_into_another_users_store_is_refused_in_one_line(
    folder: Path, warm: Path, mode: int, says: str
) -> None:
    store_of_the_owner(folder, mode=mode)
    spec = folder / "s.yaml"
    spec.write_text("name: s\nexperiment: life_state\nbase: {gol: 2, model_t: 2}\nruns: 12\n")
    launch = ("launch", str(spec))
    code, said = called(COLLEAGUE, sweep, *launch, folder=folder, warm=warm, dry=("--dry-run",))
    assert (code, said.count("error: "), says in said) == (2, 1, True), said
    assert "worker" not in said.replace("on 2 workers", "")  # none was started


def test_the_journal_is_a_log(tmp_path: Path) -> None:
    open_store(str(tmp_path / "x.db"), create=True).close()
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
