"""`cancel` and `reconcile` as a person reads them, where no Slurm answers; what they do is tested on the testbed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_helpers import answer, begun, hold, small, staged

from results_db.store.sql import SqlStore, open_store

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
    assert (said.code, said.out.splitlines()[0]) == (0, "would cancel 1 run and 0 jobs")
    said = answer("cancel", "--state", "running", "--dry-run", *DB, folder=tmp_path)
    assert said.out.splitlines()[0] == "would cancel 2 runs and 0 jobs"
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
