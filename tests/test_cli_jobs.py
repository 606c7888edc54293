"""`cancel` and `reconcile` as a person reads them, where no Slurm answers; what they do is tested on the testbed."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_helpers import start
from sweep_helpers import ME, answer, begun, hold, small, staged, write_spec

from jobs.provenance import process_name
from results_db.contract import NewSweep
from results_db.store.sql import SqlStore, open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load

DB = ("--db", "a.db")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """A store; there is no squeue."""
    monkeypatch.setenv("PATH", str(tmp_path))
    store = open_store(str(tmp_path / "a.db"), create=True)
    yield store
    store.close()


def submitted(store: SqlStore, *, name: str) -> None:
    """A run waits in a job of this name."""
    staged(store, small())
    (attempt,) = store.claim([small().run_id], job_name=name, launcher="slurm")
    store.note_jobs({attempt: "7_0"})


def test_a_dry_cancel_says_what_it_would_do(own, tmp_path) -> None:
    for seed in (0, 1):
        begun(own, small(seed=seed))
    said = answer("cancel", "--where", "seed=1", "--dry-run", *DB, folder=tmp_path)
    assert said.code == 0
    assert "would cancel 1 run and 0 jobs" in said.out.splitlines()
    said = answer("cancel", "--state", "running", "--dry-run", *DB, folder=tmp_path)
    assert "would cancel 2 runs and 0 jobs" in said.out.splitlines()
    assert len(own.open_attempts()) == 2


def test_a_dry_cancel_lists_the_runs(own, tmp_path) -> None:
    """A run of a sweep, one of its top-up, and one that no sweep wants."""
    spec = load(write_spec(tmp_path, runs=2, cells="[{gol: 1}, {gol: 2}]"))
    own.stage(expand(spec).runs, sweep=NewSweep("s", spec.composed))
    runs = [small(gol=1, seed=1), small(gol=2, seed=2), small(batch=5)]
    for run in runs:
        begun(own, run)
    said = answer("cancel", "--state", "running", "--dry-run", *DB, folder=tmp_path)
    head, _, *rows = (line.split() for line in said.out.strip().splitlines())
    assert head == ["run_id", "sweep", "gol", "seed", "status", "job"]
    listed = [["s", "1", "1", "running"], ["s", "2", "2", "running"], ["running"]]
    assert rows[:3] == [[run.run_id[:10], *rest] for run, rest in zip(runs, listed, strict=True)]
    said = answer("cancel", "s", "--where", "gol=2", "--dry-run", *DB, folder=tmp_path)
    assert said.out.splitlines()[2].split() == rows[1]
    assert len(own.open_attempts()) == 3


def test_a_dry_cancel_changes_nothing(own, tmp_path) -> None:
    """The worker of one run is gone; to record that is left to others."""
    for seed, process in ((0, "999999999:1"), (1, process_name(os.getpid()))):
        staged(own, small(seed=seed))
        start(own, small(seed=seed).run_id, replace(ME, host=os.uname().nodename, process=process))
    said = answer("cancel", "--state", "running", "--dry-run", *DB, folder=tmp_path)
    assert "would cancel 1 run and 0 jobs" in said.out.splitlines()
    assert said.err.startswith("would change: run ")
    assert len(own.open_attempts()) == 2


def test_reconcile_says_what_is_held(own, tmp_path) -> None:
    submitted(own, name="s-1")
    hold(own, "s-1")
    said = answer("reconcile", *DB, folder=tmp_path)
    (line,) = said.out.splitlines()
    assert line.startswith("s-1 is held")
    assert "no driver" in line
    assert "reconcile --release" in line
    assert answer("reconcile", "--json", *DB, folder=tmp_path).json["held"] == [
        {"job_name": "s-1", "cause": "no driver"}
    ]


def test_without_an_answer_of_squeue_nothing_is_said_of_changes(own, tmp_path) -> None:
    submitted(own, name="s-1")
    said = answer("reconcile", *DB, folder=tmp_path)
    assert (said.code, said.out) == (1, "")
    assert "squeue" in said.err


def test_where_nothing_is_open_there_is_nothing_to_change(own, tmp_path) -> None:
    said = answer("reconcile", *DB, folder=tmp_path)
    assert (said.code, said.out, said.err) == (0, "nothing to change\n", "")
