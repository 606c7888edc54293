"""Discarding stored runs: kept and shown, counted nowhere, trained again."""

import json
from pathlib import Path

import pytest
from cli_helpers import call, output
from compare_helpers import complete
from store_helpers import OTHER, RUN, every_way, staged, started

from results_db.contract import NewSweep, PlannedRun, RunRecord, State, Store, StoreError
from results_db.store.sql import SqlStore, open_store
from sweeps.status.cell import status_of

Capsys = pytest.CaptureFixture[str]

METRICS = {"metric": 0.5, "metric_adv": None, "train_accuracy": 1.0}
RECORD = RunRecord(RUN, "reached", 1.5, METRICS, {"t": ([0, 50], [0.1, 0.2])}, {"boards": b"npz"})


@every_way
def test_a_discarded_run_is_kept_and_trained_again(store: Store) -> None:
    attempt = started(store)
    assert store.finish(attempt, RECORD)
    store.discard([RUN], why="wrong data")
    assert store.states([RUN]) == {RUN: State.DISCARDED}
    assert status_of(State.DISCARDED) == "new"  # so that every listing counts it as to submit
    assert (store.run(RUN)["metrics"], store.traces(RUN), store.samples(RUN)) == ({}, {}, {})
    assert not store.finish(attempt, RECORD)  # a late delivery does not bring it back

    (again,) = store.claim([RUN], job_name="j", launcher="slurm")
    assert again.number == 2
    store.withdraw([again])
    assert store.states([RUN]) == {RUN: State.DISCARDED}  # not COMPLETED, though its attempt was
    assert store.finish(started(store), RunRecord(RUN, "reached", 2.5, {"metric": 1.0}))
    assert store.run(RUN)["metrics"] == {"metric": 1.0}

    (kept,) = store.discarded(RUN)
    assert (kept["number"], kept["why"], kept["outcome"], kept["seconds"]) == (
        1,
        "wrong data",
        "reached",
        1.5,
    )
    assert (kept["metrics"], kept["traces"]) == (METRICS, {"t": [[0, 50], [0.1, 0.2]]})
    assert kept["samples"] == {"boards": b"npz"}


def test_all_or_none(store: SqlStore) -> None:
    store.finish(started(store), RECORD)
    staged(store, OTHER)
    with pytest.raises(StoreError, match="is STAGED; only a COMPLETED run"):
        store.discard([RUN, OTHER], why="x")
    assert store.states([RUN]) == {RUN: State.COMPLETED}
    assert store.discarded(RUN) == []


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStore:
    """Two stored runs, with weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGINE_DB", raising=False)
    store = open_store(None, create=True)
    for number, run_id in enumerate((RUN, OTHER)):
        config = {"experiment": "life_state", "gol": 2 + number, "model_t": 2, "seed": 0}
        store.stage([PlannedRun(run_id, config)], sweep=NewSweep("quick", ""))
        complete(store, RunRecord(run_id, "reached", 1.5, METRICS))
        weights = store.folder / "weights" / f"{run_id}.1.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"w")
    return store


def test_the_command(capsys: Capsys, two: SqlStore) -> None:
    chosen = ["discard", "--where", "gol=2", "--why", "the disk was full"]
    assert output(capsys, *chosen, "--dry-run") == "would discard 1 run: ababababab\n"
    assert two.states([RUN]) == {RUN: State.COMPLETED}
    code, _, err = call(capsys, *chosen)
    assert (code, "give -y" in err) == (2, True)
    assert output(capsys, *chosen, "-y") == "discarded 1 run: ababababab\n"

    (row,) = json.loads(output(capsys, "table", "--group", "gol", "--json"))
    assert (row["gol"], row["run"]) == (3, 1)
    (row,) = json.loads(output(capsys, "runs", "--state", "discarded", "--json"))
    assert (row["run_id"], row["cause"], row["metric"]) == (RUN, "discarded: the disk was full", None)
    shown = json.loads(output(capsys, "show", "abab", "--json"))
    assert shown["discarded"][0]["metrics"]["metric"] == 0.5
    assert shown["files"] == [str(two.folder / "discarded" / f"{RUN}.1.safetensors")]
    assert "the disk was full" in output(capsys, "show", "abab")
    assert json.loads(output(capsys, *chosen, "-y", "--json"))["runs"] == []


def test_a_discard_needs_a_reason(capsys: Capsys, two: SqlStore) -> None:
    assert "--why is empty" in call(capsys, "discard", "--where", "gol=2", "--why", " ", "-y")[2]
