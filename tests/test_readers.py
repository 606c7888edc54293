"""Two Unix users: a colleague reads a store, leaves nothing behind, and never locks the owner out."""

import grp
import json
import os
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from store_helpers import RUN, WHO, staged
from sweep_helpers import ME, RESULTS, SWEEP, complete, write_spec
from user_helpers import DAEMON, NOBODY, USERS, need_root, run_as

from results_db.cli.root import results
from results_db.contract import Attempt, NewSweep, RunRecord, StoreError
from results_db.files import Files
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store import readers
from results_db.store.share import share
from results_db.store.sql import SqlStore, open_store, open_to_read
from sweeps.cli.root import cli as sweep
from sweeps.spec.expand import expand
from sweeps.spec.load import load

pytestmark = pytest.mark.slow

OWNER, COLLEAGUE, GROUP = DAEMON, NOBODY, USERS


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the colleague can reach, unlike pytest's own."""
    need_root()
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


def called(user: int, *command: str, folder: Path) -> tuple[int, str]:
    """The exit code and the output of a command of this user with the store x.db."""
    done = run_as(user, *command, "--db", "x.db", folder=folder, umask="022")
    return done.returncode, done.stdout + done.stderr


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
def test_a_colleague_reads_an_idle_store_and_leaves_nothing(folder: Path, mode: int) -> None:
    store_of_the_owner(folder, mode=mode)
    before = names(folder)
    code, said = called(COLLEAGUE, RESULTS, "runs", "--json", folder=folder)
    assert (code, RUN in said) == (0, True), said
    assert names(folder) == before


def test_a_colleague_reads_while_the_owner_writes_and_does_not_lock_the_owner_out(folder: Path) -> None:
    store_of_the_owner(folder, mode=0o775)
    (folder / "x.db").chmod(0o664)  # the colleague may even write it
    with acting_as(OWNER), open_store(str(folder / "x.db"), create=False) as store:
        staged(store, "cd" * 32)  # now in the log
        os.seteuid(0)
        code, said = called(COLLEAGUE, RESULTS, "runs", "--json", folder=folder)
        assert (code, RUN in said, "cd" * 32 in said) == (0, True, True), said
        os.seteuid(OWNER)
        staged(store, "ef" * 32)
    assert called(COLLEAGUE, RESULTS, "runs", "--json", folder=folder)[0] == 0
    assert not [path for path in folder.iterdir() if path.stat().st_uid == COLLEAGUE]
    with acting_as(OWNER), open_store(str(folder / "x.db"), create=False) as store:
        staged(store, "aa" * 32)
        assert len(store.frame()) == 4


SPEC = ("s.yaml",)
DRY = ("s.yaml", "--dry-run")

READ: dict[tuple[str, ...], tuple[str, ...]] = {
    (RESULTS, "runs"): (),
    (RESULTS, "show"): ("RUN",),
    (RESULTS, "table"): ("--group", "gol"),
    (RESULTS, "compare"): ("table1",),
    (RESULTS, "effect"): ("gol", "--metric", "train_accuracy"),
    (RESULTS, "export"): ("HOME/out",),
    (RESULTS, "figure"): ("steps", "-o", "HOME/a.png"),
    (RESULTS, "report"): ("-o", "HOME/a.html"),
    (RESULTS, "trace"): ("-o", "HOME/b.png"),
    (RESULTS, "chess-layers"): (),
    (RESULTS, "gc"): ("--dry-run",),
    (RESULTS, "discard"): ("--where", "gol=2", "--why", "x", "--dry-run"),
    (RESULTS, "db", "backup"): ("HOME/copy.db",),
    (RESULTS, "db", "publish"): ("HOME/small.db",),
    (SWEEP, "plan"): (*SPEC, "--where", "gol=2"),
    (SWEEP, "launch"): DRY,
    (SWEEP, "coverage"): SPEC,
    (SWEEP, "top-up"): DRY,
    (SWEEP, "retry"): DRY,
    (SWEEP, "status"): SPEC,
    (SWEEP, "watch"): (*SPEC, "--once"),
    (SWEEP, "logs"): ("RUN",),
    (SWEEP, "reconcile"): DRY,
    (SWEEP, "cancel"): DRY,
    (sys.executable, "-m", "jobs.evaluate"): (),
}
"""The commands that read, and arguments for each."""

WRITE = {"ingest", "merge", "note", "tag", "calibrate", "list"}
"""Those that write, and `list`, which opens no store."""


def test_the_list_of_reading_commands_is_complete() -> None:
    commands = [name for group in (results, sweep) for name in group.list_commands(click.Context(group))]
    assert {words[1] for words in READ} | WRITE == {*commands, "-m"}


READER = """
import json, os, sys
from pathlib import Path
from click.testing import CliRunner
from results_db.cli.root import results
from sweeps.cli.root import cli as sweep
from jobs.evaluate import cli as evaluate
from results_db import console
from imagination.schema import ConfigError
from results_db.contract import StoreError

given, run_id = json.loads(sys.argv[1]), sys.argv[2]
found = []
for words, arguments in given:
    own = [word.replace("HOME", os.environ["HOME"]).replace("RUN", run_id) for word in arguments]
    named = Path(words[0]).name
    command = {"imagine-results": results, "imagine-sweep": sweep}.get(named, evaluate)
    before = os.stat(".").st_mtime_ns
    try:
        console.run(command, args=[*(words[1:] if command is not evaluate else ()), *own, "--db", "x.db"],
                    errors=(StoreError, ConfigError))
    except SystemExit as done:
        code = done.code
    found.append([words[1:], code, os.stat(".").st_mtime_ns == before])
print("found", json.dumps(found))
"""


def test_no_reading_command_touches_the_folder_of_another_user(folder: Path) -> None:
    """This user may even write the file. A connection that could do so would make the files -wal and -shm there."""
    with open_store(str(folder / "x.db"), create=True) as store:
        runs = expand(load(write_spec(folder, runs=2, cells="[{gol: 2}, {gol: 1}]"))).runs
        complete(store, runs[0], by=replace(ME, log=str(folder / "s.yaml")))
        complete(store, runs[2], accuracy=0.995)
        store.stage(runs, sweep=NewSweep("s", ""))
        store.claim([runs[3].run_id], launcher="slurm", job_name="j")
    for path in (*folder.iterdir(), folder):
        os.chown(path, OWNER, GROUP)
        path.chmod(0o775)
    script = (sys.executable, "-c", READER, json.dumps(list(READ.items())), runs[0].run_id)
    done = run_as(COLLEAGUE, *script, folder=folder)
    found = json.loads(done.stdout.rpartition("found ")[2])
    assert len(found) == len(READ)
    assert [words for words, _, untouched in found if not untouched] == []
    assert [words for words, code, _ in found if code not in (0, 1)] == [], done.stderr


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
        kept = path.rename(store.folder / "kept")
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
            (folder / "x.files" / "weights" / "new").mkdir()
    finally:
        os.umask(before)
    for path, mode in (("x.db", 0o664), (".", 0o2775), ("x.files", 0o3775), ("x.files/weights/new", 0o2775)):
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


def test_all_of_the_folder_is_shared_but_what_jobs_execute_and_log(folder: Path) -> None:
    files = folder / "x.files"
    with open_store(str(folder / "x.db"), create=True) as store:
        modes = {
            ".": 0o3775,
            "jobs": 0o3775,
            "jobs/j": 0o700,
            "logs": 0o3775,
            "logs/j": 0o755,
            "artifacts": 0o2775,
            "assets": 0o2775,
            "calibrations": 0o2775,
        }
        for name, mode in modes.items():
            (files / name).mkdir(parents=True, exist_ok=True)
            (files / name).chmod(mode & ~0o7070 | 0o050 if mode > 0o777 else mode)
        (files / "assets" / "a").touch(mode=0o600)
        share(store, grp.getgrgid(GROUP).gr_name)
    assert {name: stat.S_IMODE((files / name).stat().st_mode) for name in modes} == modes
    assert (files / "assets" / "a").stat().st_gid == GROUP
    assert (
        stat.S_IMODE((files / "assets" / "a").stat().st_mode) == 0o640
    )  # a file is replaced, not written in place


def test_what_a_member_put_in_the_way_of_sharing_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """The owner shares the store again, to bring in files from elsewhere."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "key").touch(mode=0o600)
    with open_store(str(folder / "x.db"), create=True) as store:
        (store.folder / "weights").mkdir(parents=True)
        (store.folder / "weights" / "a").symlink_to(private / "key")
        (store.folder / "assets").symlink_to(private)
        os.mkfifo(store.folder / "pipe", 0o600)
        share(store, grp.getgrgid(GROUP).gr_name)
        assert (store.folder / "pipe").stat().st_gid == GROUP
    for path in (private, private / "key"):
        assert path.stat().st_gid != GROUP


def test_a_folder_that_cannot_be_read_is_one_line(folder: Path) -> None:
    store_of_the_owner(folder, mode=0o755)
    (folder / "x.files").mkdir()
    (folder / "x.files" / "store").touch(mode=0o600)
    os.chown(folder / "x.files", OWNER, GROUP)
    code, said = called(COLLEAGUE, RESULTS, "runs", folder=folder)
    assert (code, said) == (
        2,
        f"imagine-results: error: cannot read {folder}/x.files/store: Permission denied; ask the owner of x.db\n",
    )


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
def test_a_launch_into_another_users_store_is_refused_in_one_line(folder: Path, mode: int, says: str) -> None:
    store_of_the_owner(folder, mode=mode)
    spec = folder / "s.yaml"
    spec.write_text("name: s\nexperiment: life_state\nbase: {gol: 2, model_t: 2}\nruns: 12\n")
    code, said = called(COLLEAGUE, SWEEP, "launch", "s.yaml", folder=folder)
    assert (code, said.count("error: "), says in said) == (2, 1, True), said
    assert "worker" not in said.replace("on 2 workers", "")  # none was started


def test_the_journal_is_a_log(tmp_path: Path) -> None:
    open_store(str(tmp_path / "x.db"), create=True).close()
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    with pytest.raises(StoreError, match=r"a\.db cannot be read: Is a directory"):
        readers.has_log(tmp_path / "a.db")
