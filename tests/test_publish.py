"""`db publish`: all results of a store, and the files of a few runs."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from cli_helpers import call, output
from compare_helpers import config
from store_helpers import started

from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.files import Files
from results_db.store.sql import open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def runs() -> dict[str, list[str]]:
    """The store x.db: per `ae`, the ids of its runs, sorted. The first lost its weights, the last missed the gate."""
    found: dict[str, list[str]] = {}
    with open_store("x.db", create=True) as store:
        for ae in (True, False):
            configs = {run_id(each): each for each in (config(ae=ae, seed=seed) for seed in range(6))}
            found[str(ae)] = sorted(configs)
            for place, (one, each) in enumerate(sorted(configs.items())):
                store.stage([PlannedRun(one, each)], sweep=NewSweep("table1", ""))
                attempt = started(store, one)
                metrics = {"metric": 0.5, "train_accuracy": 0.9 if place == 5 else 0.995}
                files = Files(store.folder)
                for path in (files.weights(attempt), files.artifact(attempt, "a", "ab" * 32)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(one)
                if place == 0:
                    files.weights(attempt).unlink()
                record = RunRecord(
                    one, "reached", 1.0, metrics, {"t": ([0], [0.5])}, {"plain": b"npz" * 99999}
                )
                assert store.finish(attempt, record)
    return found


def published(capsys: Capsys, *options: str) -> tuple[set[str], set[str]]:
    """The runs of a new copy that have samples, and those that have weights."""
    output(capsys, "db", "publish", "y.db", "--db", "x.db", *options)
    with open_store("y.db", create=False) as copy, open_store("x.db", create=False) as store:
        ids = copy.runs()["run_id"]
        assert copy.runs().to_json() == store.runs().to_json()
        assert set(copy.traces_of(ids)) == set(ids)
        weights = list(copy.folder.glob("weights/*"))
        assert all(path.read_text() == path.name.partition(".")[0] for path in weights)
        return {one for one in ids if copy.samples(one)}, {path.name.partition(".")[0] for path in weights}


def test_a_few_runs_of_each_group_keep_their_files(capsys: Capsys, runs: dict[str, list[str]]) -> None:
    """Those with the smallest ids that have weights and passed the gate: places 1 and 2 of 0 to 5."""
    kept = {*runs["True"][1:3], *runs["False"][1:3]}
    assert published(capsys, "--group", "ae") == (kept, kept)
    artifacts = Path("y.files/artifacts")
    assert {path.name.partition(".")[0] for path in artifacts.iterdir()} == kept
    assert Path("y.db").stat().st_size < Path("x.db").stat().st_size / 2
    assert not list(Path().glob("y.db-*"))


def test_the_options_choose_groups_and_number(capsys: Capsys, runs: dict[str, list[str]]) -> None:
    first = min(one for each in runs.values() for one in each[1:5])
    assert published(capsys, "--group", "gol", "--files-of", "1") == ({first}, {first})


def test_a_copy_may_have_no_files(capsys: Capsys, runs: dict[str, list[str]]) -> None:
    assert published(capsys, "--files-of", "0") == (set(), set())
    assert not Path("y.files").exists()


def test_a_copy_is_a_store(capsys: Capsys, runs: dict[str, list[str]]) -> None:
    """It can be read, merged and published again, where it is and elsewhere."""
    published(capsys, "--group", "ae")
    Path("there").mkdir()
    for name in ("y.db", "y.files"):
        shutil.move(name, "there")
    said = json.loads(output(capsys, "merge", "there/y.db", "--db", "x.db", "--json"))
    assert sorted(said["same"]) == sorted([*runs["True"], *runs["False"]])
    output(capsys, "db", "publish", "z.db", "--db", "there/y.db", "--group", "ae")
    assert len(list(Path("z.files/weights").iterdir())) == 4


def test_a_copy_may_have_some_runs_only(capsys: Capsys, runs: dict[str, list[str]]) -> None:
    """Of the other six, each of a launch of its own, nothing is left."""
    output(capsys, "db", "publish", "y.db", "--db", "x.db", "--where", "ae=true", "--group", "ae")
    with open_store("y.db", create=False) as copy:
        assert sorted(copy.runs()["run_id"]) == sorted(runs["True"])
    with sqlite3.connect("y.db") as found:
        (launches,) = found.execute("SELECT count(*) FROM sweep").fetchone()
        (attempts,) = found.execute("SELECT count(*) FROM attempt").fetchone()
    assert (launches, attempts) == (6, 6)
    assert {path.name.partition(".")[0] for path in Path("y.files/weights").iterdir()} == set(
        runs["True"][1:3]
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("there.db", "--db", "x.db"), "there.db exists; name another file"),
        (("y.db", "--db", "x.db", "--group", "aee"), "aee"),
        (("y", "--db", "x.db"), "neither a URL nor a path that ends in .db"),
        (("mine.db", "--db", "x.db"), "mine.files belongs to another store than mine.db"),
        (("y.db", "--db", "x.db", "--files-of", "-1"), "--files-of"),
    ],
)
def test_what_is_refused(
    capsys: Capsys, runs: dict[str, list[str]], args: tuple[str, ...], says: str
) -> None:
    Path("there.db").write_text("mine")
    Path("mine.files").mkdir()
    Path("mine.files/store").write_text("another\n")
    before = sorted(Path().rglob("*"))
    code, _, err = call(capsys, "db", "publish", *args)
    assert (code, says in err) == (2, True), err
    assert sorted(Path().rglob("*")) == before
    assert Path("there.db").read_text() == "mine"
