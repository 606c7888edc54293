"""Launches on this machine whose store goes away, is locked, or is replaced. Workers train on, and nothing is lost."""

import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from slurm_helpers import planned
from sweep_helpers import RESULTS, SWEEP, Watched, attempt_states, opened, run, write_spec

from results_db.store import open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load

pytestmark = [pytest.mark.slow, pytest.mark.fault]

LAUNCH = (SWEEP, "launch", "s.yaml")
LONG = {"max_steps": 3000, "trace_every": 10}


def started(folder: Path, *options: str, times: int, **more: Any) -> Watched:
    """A launch in which so many runs have started."""
    launch = Watched(*LAUNCH, *options, folder=folder, **more)
    launch.wait_for("started at step", times=times)
    return launch


def history(folder: Path, db: str) -> list[list[str]]:
    with closing(open_store(db, create=False)) as store:
        return [attempt_states(store, run.run_id) for run in expand(load(folder / "s.yaml")).runs]


def left(files: Path) -> list[str]:
    """What should be gone when all runs are stored."""
    return [str(path) for name in ("spool", "checkpoints") for path in (files / name).rglob("*.*")]


def test_a_server_that_is_away_for_25_s_delays_only_the_next_packs(server, tmp_path) -> None:
    write_spec(tmp_path, runs=12, **LONG)
    files = tmp_path / "files"
    env = {**os.environ, "IMAGINE_FILES": str(files), "IMAGINE_DB": server.get_uri()}
    launch = started(tmp_path, "--workers", "4", times=4, env=env)
    server.stop()
    time.sleep(25)
    server.start()
    assert launch.end(timeout=400) == 0, launch.said
    assert launch.said.splitlines()[-1] == "s: 12 of 12 runs stored"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IMAGINE_FILES", str(files))
        assert history(tmp_path, server.get_uri()) == [["COMPLETED"]] * 12
    assert left(files) == []


@pytest.mark.parametrize("kills", [False, True])
def test_a_store_that_is_write_locked_for_100_s_fails_no_run(tmp_path, kills) -> None:
    write_spec(tmp_path, runs=4, **LONG)
    launch = started(tmp_path, "--db", "a.db", "--workers", "2", times=2)
    (one, *_) = opened(tmp_path).open_attempts()
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        if kills:
            assert one.process is not None
            os.kill(int(one.process.partition(":")[0]), signal.SIGKILL)
        time.sleep(100)
        other.execute("ROLLBACK")
    assert launch.end(timeout=400) == 0, launch.said
    assert launch.said.count("database is locked; waiting for the store") >= 1
    tries = dict(zip(planned(tmp_path), history(tmp_path, str(tmp_path / "a.db")), strict=True))
    assert {states[-1] for states in tries.values()} == {"COMPLETED"}
    assert sum(map(len, tries.values())) == 4 + kills
    assert left(tmp_path / "a.files") == []


def back_up(folder: Path) -> None:
    with (
        closing(sqlite3.connect(folder / "a.db")) as source,
        closing(sqlite3.connect(folder / "b.db")) as copy,
    ):
        source.backup(copy)


def restore(folder: Path) -> None:
    """As `mv b.db a.db`; SQLite would apply the old file's log to the new one."""
    for name in ("a.db-wal", "a.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "b.db").replace(folder / "a.db")


def test_a_store_that_is_replaced_by_its_backup_gets_the_results(tmp_path) -> None:
    write_spec(tmp_path, runs=2, **LONG)
    launch = started(tmp_path, "--db", "a.db", times=2)
    back_up(tmp_path)
    restore(tmp_path)
    assert launch.end(timeout=400) == 0, launch.said
    assert history(tmp_path, str(tmp_path / "a.db")) == [["COMPLETED"]] * 2
    assert left(tmp_path / "a.files") == []


def test_a_store_in_the_place_of_the_launchs_own_ends_the_launch_at_once(tmp_path) -> None:
    write_spec(tmp_path, runs=2, max_steps=600, trace_every=10)
    with closing(open_store(str(tmp_path / "b.db"), create=True)) as store:
        store.stage(expand(load(tmp_path / "s.yaml")).runs)
    launch = started(tmp_path, "--db", "a.db", times=2)
    restore(tmp_path)
    assert launch.end(timeout=30) == 2, launch.said  # a store that is only away is waited for, for 10 minutes
    assert "a.files belongs to another store than a.db" in launch.said.splitlines()[-1]


def test_a_backup_that_does_not_know_the_claims_adopts_the_results(tmp_path) -> None:
    write_spec(tmp_path, runs=2, **LONG)
    with closing(open_store(str(tmp_path / "a.db"), create=True)) as store:
        store.stage(expand(load(tmp_path / "s.yaml")).runs)
    back_up(tmp_path)
    launch = started(tmp_path, "--db", "a.db", times=2)
    restore(tmp_path)
    assert launch.end(timeout=400) == 1, launch.said
    assert launch.said.count("imagine-results ingest --adopt") >= 2
    assert "2 results wait in the spool" in launch.said.splitlines()[-1]
    assert history(tmp_path, str(tmp_path / "a.db")) == [[], []]
    told = run(RESULTS, "ingest", "--db", "a.db", folder=tmp_path)
    assert (told.returncode, told.stdout) == (1, "spool: 2 left in the spool\n")
    adopted = run(RESULTS, "ingest", "--adopt", "--json", "--db", "a.db", folder=tmp_path)
    assert (adopted.returncode, len(json.loads(adopted.stdout)["stored"])) == (0, 2)
    assert history(tmp_path, str(tmp_path / "a.db")) == [["COMPLETED"]] * 2
    evaluated = run(sys.executable, "-m", "jobs.evaluate", "--db", "a.db", "--json", folder=tmp_path)
    assert len(json.loads(evaluated.stdout)) == 2  # their weights are there
    assert left(tmp_path / "a.files") == []
