"""The store is deleted, or restored from a dump, while jobs wait or train: nothing is lost, and nothing doubled."""

import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from slurm_helpers import attempts, launch, states, try_launch, wait_for_no_jobs, wait_for_states
from sweep_helpers import RESULTS, SWEEP, Watched, attempt_states, run, write_spec

from results_db.contract import State
from results_db.store.sql import open_store
from slurm.testbed.testbed import Testbed
from sweeps.spec.expand import expand
from sweeps.spec.load import load

pytestmark = pytest.mark.slow

WAITS = "launcher.additional_parameters={begin: now+1hour}"


def start_now(slurm: Testbed, job: str) -> None:
    """Start a job that was submitted with `WAITS`, and wait until no job is left."""
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for_no_jobs(slurm)


def move(names: list[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in names:
        path.rename(folder / path.name)


def weights(folder: Path) -> list[Path]:
    return list((folder / "a.files" / "weights").iterdir())


def test_a_launch_after_the_store_was_deleted_is_refused_and_waiting_jobs_keep_their_results(
    slurm: Testbed, tmp_path: Path
) -> None:
    write_spec(tmp_path, runs=1)
    (job,) = launch(tmp_path, WAITS).json["jobs"]
    move(list(tmp_path.glob("a.db*")), tmp_path / "deleted")
    said = try_launch(tmp_path)
    assert said.code == 2
    assert said.err == (
        f"imagine-sweep: error: {tmp_path}/a.files belongs to another store than a.db, such as one that was there "
        "before; move the folder away, or name another store with --db\n"
    )
    assert list(tmp_path.glob("a.db*")) == []
    start_now(slurm, job)
    move(list((tmp_path / "deleted").iterdir()), tmp_path)  # as from a backup
    assert set(states(tmp_path).values()) == {State.PENDING}
    assert run(RESULTS, "ingest", "--db", "a.db", folder=tmp_path).stdout == "spool: 1 stored\n"
    assert [[one["state"] for one in tries] for tries in attempts(tmp_path)] == [["COMPLETED"]]
    assert len(weights(tmp_path)) == 1


def test_waiting_jobs_of_a_deleted_store_do_not_touch_the_one_that_is_launched_in_its_place(
    slurm: Testbed, tmp_path: Path
) -> None:
    write_spec(tmp_path, runs=1)
    (job,) = launch(tmp_path, WAITS).json["jobs"]
    move([*tmp_path.glob("a.db*"), tmp_path / "a.files"], tmp_path / "deleted")
    launch(tmp_path)
    wait_for_states(tmp_path, State.COMPLETED)
    before = attempts(tmp_path), weights(tmp_path)
    start_now(slurm, job)
    assert (attempts(tmp_path), weights(tmp_path)) == before
    assert run(RESULTS, "ingest", "--db", "a.db", folder=tmp_path).stdout == "spool: empty\n"


class Database:
    """A database of a real PostgreSQL that can be dumped and restored, as an administrator would do it."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server, self._dump = server, folder / "dump"
        self.url = str(server.get_uri(database="sweeps"))
        self._create()

    def dump(self) -> None:
        self._tool("pg_dump", "--format=custom", f"--file={self._dump}", f"--dbname={self.url}")

    def restore(self) -> None:
        self._server.psql("DROP DATABASE sweeps WITH (FORCE);")
        self._create()
        self._tool("pg_restore", f"--dbname={self.url}", str(self._dump))

    def _create(self) -> None:
        self._server.psql("CREATE DATABASE sweeps;")

    def _tool(self, name: str, *options: str) -> None:
        subprocess.run([self._server.bin_path / name, *options], check=True, capture_output=True)


@pytest.mark.fault
@pytest.mark.parametrize("knows", [True, False])
def test_a_database_that_is_restored_from_a_dump_while_workers_train(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """A dump that knows the claims gets the results; for an older one they wait, until they are adopted."""
    database = Database(server, tmp_path)
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "files"))
    monkeypatch.setenv("IMAGINE_DB", database.url)
    write_spec(tmp_path, runs=2, max_steps=3000, trace_every=10)
    runs = expand(load(tmp_path / "s.yaml")).runs
    with closing(open_store(create=True)) as store:
        store.stage(runs)
    if not knows:
        database.dump()
    watched = Watched(SWEEP, "launch", "s.yaml", "--workers", "2", folder=tmp_path, env=dict(os.environ))
    watched.wait_for("started at step", times=2)
    if knows:
        database.dump()
    database.restore()
    assert watched.end(timeout=400) == (0 if knows else 1), watched.said
    adopted = run(RESULTS, "ingest", "--adopt", folder=tmp_path)
    assert adopted.stdout == ("spool: empty\n" if knows else "spool: 2 stored\n")
    with closing(open_store(create=False)) as store:
        assert [attempt_states(store, one.run_id) for one in runs] == [["COMPLETED"]] * 2
    assert len(list((tmp_path / "files" / "weights").iterdir())) == 2
