"""What `export` writes is what the store has."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli_helpers import call, output
from compare_helpers import config, store_run

import results_db
from results_db.store.sql import SqlStore, open_store

Capsys = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def db() -> SqlStore:
    store = open_store(None, create=True)
    store_run(store, config(seed=0), metric=0.25, traces={"state2": ([10, 20], [0.5, 0.75])})
    store_run(store, config(seed=1, ae=False), metric=0.5)
    return store


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_hold_what_the_store_has(capsys: Capsys, db: SqlStore, kind: str) -> None:
    said = output(capsys, "export", "out/deep", "--format", kind)
    assert said == "out/deep: 2 runs, 2 traced values, 0 samples\n"
    read = pd.read_csv if kind == "csv" else pd.read_parquet
    runs, traces = (read(f"out/deep/{name}.{kind}") for name in ("runs", "traces"))
    stored = db.runs()
    assert list(runs["run_id"]) == list(stored["run_id"])
    assert list(runs["metric"]) == [0.25, 0.5]
    assert [bool(value) for value in runs["ae"]] == [True, False]
    assert traces.to_dict("list") == {
        "run_id": [stored["run_id"][0]] * 2,
        "name": ["state2"] * 2,
        "step": [10, 20],
        "value": [0.5, 0.75],
    }


def test_samples_are_files(capsys: Capsys, example: Path) -> None:
    """Both decoders of a run."""
    run_id = str(results_db.open(str(example)).runs()["run_id"][0])
    output(capsys, "export", "out", "--db", str(example), "--where", f"run_id={run_id}")
    files = sorted(Path("out/samples").iterdir())
    assert [path.name.split(".")[1] for path in files] == ["adversarial", "plain"]
    with np.load(io.BytesIO(files[0].read_bytes())) as arrays:
        assert arrays["truth"].shape[1:] == (4, 20, 20)


def test_existing_files_stay_without_force(capsys: Capsys, db: SqlStore) -> None:
    output(capsys, "export", "out")
    before = Path("out/runs.csv").read_bytes()
    code, out, err = call(capsys, "export", "out", "--where", "ae=true")
    assert (code, out) == (2, "")
    assert "out/runs.csv, out/traces.csv: exists" in err
    assert Path("out/runs.csv").read_bytes() == before
    Path("out/samples").mkdir()
    Path("out/samples/old.npz").touch()
    output(capsys, "export", "out", "--where", "ae=true", "--force")
    assert len(pd.read_csv("out/runs.csv")) == 1
    assert not Path("out/samples").exists()  # no file of an earlier export is left


def test_no_run_is_no_file(capsys: Capsys, db: SqlStore) -> None:
    code, out, err = call(capsys, "export", "out", "--where", "gol=9")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no run with --where 'gol=9' to export" in err
    assert not Path("out").exists()
