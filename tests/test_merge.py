"""Merging stores: runs trained elsewhere join, and nothing of two different results is lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import call, output
from store_helpers import OTHER, RUN, THIRD, WHO, bare, files, start, started
from user_helpers import NOBODY, need_root

from results_db.contract import (
    Artifact,
    Attempt,
    Ending,
    NewSweep,
    PlannedRun,
    Reply,
    RunRecord,
    State,
    StoreError,
)
from results_db.files import Files
from results_db.store.labels import note, tag
from results_db.store.merge import merge
from results_db.store.sql import SqlStore, open_store, open_to_read

Capsys = pytest.CaptureFixture[str]

TRACES = {"state2": ([0, 50], [0.5, 1.0])}


def record(run_id: str = RUN, metric: float = 0.5) -> RunRecord:
    return RunRecord(run_id, "reached", 1.5, {"metric": metric, "steps": 50.0}, TRACES, {"plain": b"npz"})


def stored(store: SqlStore, run_id: str = RUN, metric: float = 0.5) -> Attempt:
    """A run with its weights, whose next attempt ended with this metric."""
    attempt = started(store, run_id)
    write(Files(store.folder).weights(attempt), f"{store.uuid} {metric}")
    assert store.finish(attempt, record(run_id, metric))
    return attempt


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def content(store: SqlStore) -> list[Any]:
    """All of a store but its id and the numbers of its rows."""
    runs = store.runs()
    return [
        runs.to_json(),
        store.launches(),
        *(
            [store.run(one), store.attempts(one), store.traces(one), store.samples(one)]
            for one in runs["run_id"]
        ),
        *(store.discarded(one) for one in runs["run_id"]),
        files(store),
    ]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store on another machine."""
    with open_store(str(tmp_path / "elsewhere" / "other.db"), create=True) as store:
        yield store


def test_everything_of_a_run_joins(store: SqlStore, other: SqlStore) -> None:
    other.stage([PlannedRun(RUN, {"gol": 3, "seed": 7})], sweep=NewSweep("table1", "spec", ("lr",), "c"))
    (lost,) = other.claim([RUN], launcher="local")
    other.begin(lost, WHO)
    other.end(lost, Ending(State.LOST, "gone"))
    write(other.folder / "logs" / "a.log", "said")
    attempt = start(other, RUN, replace(WHO, log="logs/a.log"))
    write(Files(other.folder).weights(attempt), "w")
    other.finish(attempt, record())
    tag(other, [RUN], "final")
    note(other, RUN, "odd")

    found = merge(store, other)
    assert (found.joined, found.same, found.launches) == ([RUN], [], 1)
    ours, theirs = store.run(RUN), other.run(RUN)
    assert ours == theirs
    assert ours["config"] == {"gol": 3, "seed": 7}
    assert (store.traces(RUN), store.samples(RUN)) == (TRACES, {"plain": b"npz"})
    log = str(other.folder / "logs" / "a.log")  # it stays where it is
    first, second = other.attempts(RUN)
    assert store.attempts(RUN) == [first, {**second, "log": log}]
    assert Files(store.folder).weights(attempt).read_text() == "w"
    assert store.launches() == other.launches()
    assert store.members(["table1"], overridden=["lr"]) == {RUN}

    before = content(store)
    assert merge(store, other).joined == []
    assert content(store) == before
    assert store.finish(attempt, record()) is Reply.ACCEPTED  # as if it had been trained here


def test_artifacts_needs_and_what_is_known_of_the_experiment_join(store: SqlStore, other: SqlStore) -> None:
    other.stage([PlannedRun(RUN, {"experiment": "life_state", "seed": 1}, {"base": OTHER})])
    attempt = start(other, RUN, WHO)
    artifact = Artifact(5, "ab" * 32)
    write(Files(other.folder).artifact(attempt, "a.txt", artifact.sha256), "found")
    write(Files(other.folder).artifact(attempt, "b.txt", artifact.sha256).with_suffix(".tmp"), "half")
    other.finish(attempt, replace(record(), artifacts={"a.txt": artifact}))
    merge(store, other)
    assert (store.artifacts(RUN), store.needs(RUN)) == ({"a.txt": artifact}, {"base": OTHER})
    assert store.experiments() == other.experiments()
    assert "life_state" in store.experiments()
    (brought,) = Files(store.folder).artifacts(attempt)
    assert brought.read_text() == "found"
    stored(other, THIRD)
    other.discard([RUN], why="wrong data")
    with open_store(str(other.folder.parent / "third.db"), create=True) as third:
        merge(third, other)
        assert (Files(third.folder).discarded / brought.name).read_text() == "found"


def test_no_file_is_merged_that_another_user_may_have_put_there(store: SqlStore, other: SqlStore) -> None:
    need_root()
    other.stage([PlannedRun(RUN, {"seed": 1})])
    attempt = start(other, RUN, WHO)
    there, artifact = Files(other.folder), Artifact(3, "ab" * 32)
    path = write(there.artifact(attempt, "a.txt", artifact.sha256), "theirs")
    write(there.weights(attempt), "ours")
    os.chown(path, NOBODY, NOBODY)
    other.finish(attempt, replace(record(), artifacts={"a.txt": artifact}))
    assert merge(store, other, dry_run=True).without_files == [RUN]
    assert merge(store, other).without_files == [RUN]
    left = [path.read_text() for path in store.folder.rglob("*") if path.is_file() and path.name != "store"]
    assert left == ["ours"]


def test_files_that_a_run_builds_on_join(store: SqlStore, other: SqlStore) -> None:
    other.stage([PlannedRun(RUN, {"seed": 1, "source": f"sha256:{'cd' * 32}"})])
    for name in ("cd", "ef"):
        write(Files(other.folder).asset(name * 32), name)
    merge(store, other)
    assert Files(store.folder).asset("cd" * 32).read_text() == "cd"
    assert not Files(store.folder).asset("ef" * 32).exists()  # nothing that joined builds on it


def test_a_result_on_which_others_build_is_not_replaced(store: SqlStore, other: SqlStore) -> None:
    stored(store)
    store.stage([PlannedRun(OTHER, {"seed": 1}, {"base": RUN})])
    store.finish(start(store, OTHER, WHO), record(OTHER))
    stored(other, metric=0.75)
    Files(store.folder).take(store.uuid)
    before = content(store)
    with pytest.raises(
        StoreError, match="is needed by stored runs such as cdcdcdcdcd; discard these as well"
    ):
        merge(store, other, prefer="theirs")
    assert content(store) == before


def test_drawn_values_join(store: SqlStore, other: SqlStore) -> None:
    """Values that few runs share stay with their runs, apart from the rest of the config."""
    configs = {f"{seed:064x}": {"gol": 3, "lr": 0.1 + seed / 1000, "seed": seed} for seed in range(40)}
    other.stage([PlannedRun(run_id, config) for run_id, config in configs.items()])
    merge(store, other)
    assert {run_id: store.run(run_id)["config"] for run_id in configs} == configs
    assert store.runs()["lr"].tolist() == [config["lr"] for config in configs.values()]


def test_what_builds_on_a_result_that_does_not_join_is_left_out(store: SqlStore, other: SqlStore) -> None:
    """Else a run that was trained on their weights would stand here as if it built on ours."""
    stored(store, RUN, 0.5)
    stored(other, RUN, 0.6)
    other.stage(
        [PlannedRun(OTHER, {"seed": 1}, {"base": RUN}), PlannedRun(THIRD, {"seed": 2}, {"base": OTHER})]
    )
    for run_id in (OTHER, THIRD):
        assert other.finish(start(other, run_id, WHO), record(run_id))
    found = merge(store, other, prefer="ours")
    assert (found.kept, found.unfit, found.joined) == ([RUN], [OTHER, THIRD], [])
    assert OTHER not in store.states([OTHER])
    found = merge(store, other, prefer="theirs")  # then all of the chain is theirs
    assert (found.replaced, found.unfit, found.joined) == ([RUN], [], [OTHER, THIRD])


def test_equal_results_are_skipped_and_different_ones_refused(store: SqlStore, other: SqlStore) -> None:
    for run_id in (RUN, OTHER):
        stored(store, run_id)
    stored(other, RUN)
    stored(other, OTHER, 0.75)
    stored(other, THIRD)
    before = content(store)
    found = merge(store, other)
    assert (found.same, found.joined) == ([RUN], [THIRD])
    (conflict,) = found.conflicts
    assert (conflict.run_id, conflict.metric, conflict.ours, conflict.theirs) == (OTHER, "metric", 0.5, 0.75)
    assert content(store) == before  # not even the third one joined

    found = merge(store, other, prefer="ours")
    assert (found.kept, found.joined, found.conflicts) == ([OTHER], [THIRD], [])
    assert store.run(OTHER)["metrics"]["metric"] == 0.5


def test_a_replaced_result_is_discarded_and_kept(store: SqlStore, other: SqlStore) -> None:
    ours, theirs = stored(store), stored(other, metric=0.75)
    found = merge(store, other, prefer="theirs")
    assert found.replaced == [RUN]
    assert (store.run(RUN)["metrics"]["metric"], store.traces(RUN)) == (0.75, TRACES)
    (discarded,) = store.discarded(RUN)
    assert (discarded["metrics"]["metric"], discarded["why"]) == (
        0.5,
        f"replaced by the result in {other.display_url}",
    )
    own = Files(store.folder)
    joined = replace(theirs, number=2)  # it follows ours
    assert own.weights(joined).read_text() == f"{other.uuid} 0.75"
    assert (own.discarded / own.weights(ours).name).read_text() == f"{store.uuid} 0.5"
    assert not own.weights(ours).exists()
    before = content(store)
    assert merge(store, other, prefer="theirs").same == [RUN]
    assert content(store) == before


def test_a_discarded_result_does_not_come_back(store: SqlStore, other: SqlStore) -> None:
    stored(store)
    stored(other)
    store.discard([RUN], why="wrong data")
    assert merge(store, other).joined == []
    assert store.states([RUN]) == {RUN: State.DISCARDED}
    other.discard([RUN], why="wrong data")
    stored(other, metric=0.9)  # trained again, elsewhere
    assert merge(store, other).joined == [RUN]
    assert store.run(RUN)["metrics"]["metric"] == 0.9
    assert [one["why"] for one in store.discarded(RUN)] == ["wrong data"] * 2


def test_what_is_discarded_elsewhere_joins_with_its_weights(store: SqlStore, other: SqlStore) -> None:
    attempt = stored(other)
    other.discard([RUN], why="wrong data")
    assert merge(store, other).joined == [RUN]
    assert [one["why"] for one in store.discarded(RUN)] == ["wrong data"]
    own = Files(store.folder)
    assert (own.discarded / own.weights(attempt).name).exists()
    assert bare(start(store, RUN, WHO)) == Attempt(RUN, 2)


def test_a_result_joins_a_run_that_failed_here(store: SqlStore, other: SqlStore) -> None:
    attempt = started(store)
    store.end(attempt, Ending(State.FAILED, "disk full"))
    write(Files(store.folder).checkpoint(attempt), "c")
    theirs = stored(other)
    merge(store, other)
    assert [(one["number"], str(one["state"])) for one in store.attempts(RUN)] == [
        (1, "FAILED"),
        (2, "COMPLETED"),
    ]
    assert Files(store.folder).weights(replace(theirs, number=2)).exists()
    assert Files(store.folder).checkpoints(RUN) == []  # as after any stored result


def test_an_interrupted_run_joins_with_its_checkpoint(store: SqlStore, other: SqlStore) -> None:
    attempt = started(other)
    other.end(attempt, Ending(State.PREEMPTED))
    write(Files(other.folder).checkpoint(attempt), "c")
    merge(store, other)
    assert store.states([RUN]) == {RUN: State.PREEMPTED}
    assert [path.read_text() for path in Files(store.folder).checkpoints(RUN)] == ["c"]
    assert bare(start(store, RUN, WHO)) == Attempt(RUN, 2)


@pytest.mark.parametrize("active_here", [True, False])
def test_active_runs_are_left_out_until_they_ended(
    store: SqlStore, other: SqlStore, active_here: bool
) -> None:
    mine, its = (store, other) if active_here else (other, store)
    its.stage([PlannedRun(OTHER, {"gol": 3})], sweep=NewSweep("quick", "", ()))
    if active_here:
        stored(other)
    running = started(mine)
    other.stage([PlannedRun(RUN, {"gol": 3, "lr": 5e-4})], sweep=NewSweep("quick", "2", ()))
    found = merge(store, other)
    assert found.active == [RUN]
    assert store.states([RUN]) == ({RUN: State.RUNNING} if active_here else {})
    mine.end(running, Ending(State.LOST, "gone"))
    found = merge(store, other)
    assert (found.joined, found.active) == ([RUN], [])
    assert RUN in store.members(["quick"], overridden=[])


def test_a_run_that_is_active_there_and_stored_here_is_no_matter(store: SqlStore, other: SqlStore) -> None:
    stored(store)
    started(other)
    assert merge(store, other).active == []


def test_an_older_launch_that_joins_is_not_the_newest(store: SqlStore, other: SqlStore) -> None:
    """Only runs of the last launch of a changed spec count, and the last is not the one that was merged last."""
    other.stage([PlannedRun(RUN, {"gol": 2})], sweep=NewSweep("s", "old", (), "old"))
    store.stage([PlannedRun(OTHER, {"gol": 3})], sweep=NewSweep("s", "new", (), "new"))
    merge(store, other)
    assert [launch.spec for launch in store.launches()] == ["old", "new"]
    assert store.members(["s"], overridden=[]) == {OTHER}


def test_an_older_copy_of_the_store_and_its_continuation(tmp_path: Path, capsys: Capsys) -> None:
    """The attempt that was open when the copy was made is not doubled."""
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        attempt = started(store)
        output(capsys, "db", "backup", str(tmp_path / "b.db"), "--db", store.url)
        store.finish(attempt, record())
        with open_store(str(tmp_path / "b.db"), create=False) as copy:
            copy.end(attempt, Ending(State.LOST, "gone"))
            assert merge(store, copy).joined == []
            merge(copy, store)
            assert [str(one["state"]) for one in copy.attempts(RUN)] == ["LOST", "COMPLETED"]
            assert copy.run(RUN)["metrics"] == store.run(RUN)["metrics"]


def test_from_a_server(postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from one server to another, whose folders `--files` and IMAGINE_FILES tell apart."""
    with open_store(postgres(), create=True, files=tmp_path / "far.files") as other:
        attempt = stored(other)
        url = other.url
    monkeypatch.setenv("IMAGINE_FILES", str(tmp_path / "own.files"))
    for store in (open_store(postgres(), create=True), open_store(str(tmp_path / "x.db"), create=True)):
        with open_to_read(url, files=tmp_path / "far.files") as other:
            assert merge(store, other).joined == [RUN]
        assert Files(store.folder).weights(attempt).exists()
        assert store.traces(RUN) == TRACES
        store.close()


KILLED = """
import os, signal, sys
from results_db.store import merge as merging
from results_db.store.sql import open_store, open_to_read
real = merging._join
left = [int(sys.argv[3])]
def join(*arguments, **options):
    real(*arguments, **options)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
merging._join = join
with open_store(sys.argv[1], create=True) as store, open_to_read(sys.argv[2]) as other:
    merging.merge(store, other)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3])
def test_a_merge_that_is_killed_leaves_the_database_as_it_was(
    store: SqlStore, other: SqlStore, after: int
) -> None:
    for run_id in (RUN, OTHER, THIRD):
        stored(other, run_id)
    done = subprocess.run([sys.executable, "-c", KILLED, store.url, other.url, str(after)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (len(store.runs()), store.launches()) == (0, [])
    assert len(merge(store, other).joined) == 3
    assert files(store) == {
        *(f"weights/{Files(other.folder).weights(one).name}" for one in attempts(other)),
        "store",
    }


def attempts(store: SqlStore) -> list[Attempt]:
    return [one.attempt for one in store.begun_attempts()]


def test_a_merge_that_fails_leaves_no_file(
    store: SqlStore, other: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(other)
    monkeypatch.setattr("results_db.store.merge._add_launches", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge(store, other)
    assert (files(store), len(store.runs())) == ({"store"}, 0)


@pytest.fixture
def two(in_tmp_path: None) -> tuple[SqlStore, SqlStore]:
    """This store and b.db, with one equal run and one different run."""
    stores = open_store("a.db", create=True), open_store("b.db", create=True)
    for store, metric in zip(stores, (0.5, 0.75), strict=True):
        stored(store, RUN)
        stored(store, OTHER, metric)
    return stores


def test_the_command(capsys: Capsys, two: tuple[SqlStore, SqlStore]) -> None:
    code, out, err = call(capsys, "merge", "b.db", "--db", "a.db")
    assert (code, err) == (
        2,
        "imagine-results: error: 1 run of b.db with other results than here; nothing was merged; give --prefer ours "
        "or --prefer theirs\n",
    )
    assert out.splitlines()[2].split() == ["cdcdcdcdcd", "metric", "0.5", "0.75"]
    code, out, _ = call(capsys, "merge", "b.db", "--db", "a.db", "--json")
    assert (code, json.loads(out)["conflicts"][0]["run_id"]) == (2, OTHER)
    chosen = ("merge", "b.db", "--db", "a.db", "--prefer", "theirs")
    assert (
        output(capsys, *chosen, "--dry-run") == "b.db (dry run): 1 run replaced, 1 run with equal results\n"
    )
    assert two[0].run(OTHER)["metrics"]["metric"] == 0.5
    assert output(capsys, *chosen) == "b.db: 1 run replaced, 1 run with equal results\n"
    assert output(capsys, "merge", "b.db", "--db", "a.db") == "b.db: 2 runs with equal results\n"
    started(two[1], THIRD)
    code, out, _ = call(capsys, "merge", "b.db", "--db", "a.db")
    assert (code, out.splitlines()[1]) == (
        1,
        "left out, because active: 1 run: efefefefef; merge again when they have ended",
    )


def test_a_store_is_made_by_a_merge_but_not_by_its_dry_run(
    capsys: Capsys, two: tuple[SqlStore, SqlStore]
) -> None:
    assert output(capsys, "merge", "b.db", "--db", "new.db", "--dry-run") == "b.db (dry run): 2 runs joined\n"
    assert not Path("new.db").exists()
    for path in Path("b.files/weights").iterdir():
        path.unlink()
    said = output(capsys, "merge", "b.db", "--db", "new.db").splitlines()
    assert said == ["b.db: 2 runs joined", "2 stored runs came without weights or artifacts"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("a.db",), "a.db is the store itself; name another one"),
        (("none.db",), "no store at none.db; name a store to merge from"),
        (("text.db",), "text.db is not a SQLite database"),
        (("cut.db",), "cut.db"),
        (("empty.db",), "no store at empty.db; name a store to merge from"),
        (("b.sqlite3",), "'b.sqlite3' is neither a URL nor a path that ends in .db"),
        (("mysql://h/n",), "unknown database 'mysql'"),
        (("postgresql://127.0.0.1:1/n",), "cannot open postgresql://127.0.0.1:1/n"),
        (("b.db", "--prefer", "mine"), "'mine' is not one of 'ours', 'theirs'"),
        (("b.db", "--files", "none"), "none"),
        ((), "Missing argument 'OTHER'"),
    ],
)
def test_bad_input(capsys: Capsys, two: tuple[SqlStore, SqlStore], args: tuple[str, ...], says: str) -> None:
    Path("text.db").write_text("no database, but long enough to be read as one" * 20)
    with closing(sqlite3.connect("b.db")) as connection:
        connection.execute("VACUUM INTO 'whole.db'")
    Path("cut.db").write_bytes(Path("whole.db").read_bytes()[:5000])
    Path("empty.db").touch()
    code, out, err = call(capsys, "merge", *args, "--db", "a.db")
    assert (code, out, err.count("\n"), says in err) == (2, "", 1, True), err


def test_a_store_of_an_older_version_says_how_to_upgrade_it(capsys: Capsys, in_tmp_path: None) -> None:
    from alembic import command
    from test_store_schema import alembic_config

    from results_db.store.address import locate
    from results_db.store.engine import make_engine

    with make_engine(locate("old.db").url).begin() as connection:
        command.upgrade(alembic_config(connection), "0003")
    code, _, err = call(capsys, "merge", "old.db", "--db", "a.db")
    assert (code, "run: imagine-results db upgrade --db old.db" in err) == (2, True), err
    with pytest.raises(StoreError):
        open_to_read("old.db")
