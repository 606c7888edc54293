"""The spool's records and heartbeats come into the store: once, in order, and in spite of damaged files."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from store_helpers import OTHER, RUN, THIRD, WHO, at_once, claimed, files, staged, states
from sweep_helpers import RESULTS, run

from results_db.contract import Artifact, Attempt, Ending, PlannedRun, RunRecord, State, StoreError
from results_db.files import Files, file_name
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled, encode
from results_db.store.sql import SqlStore, open_store


def result(attempt: Attempt, metric: float = 0.5) -> Spooled:
    samples = {"boards": b"\x00\xff"}
    record = RunRecord(attempt.run_id, "reached", 1.0, {"metric": metric}, {"t": ([0], [0.5])}, samples)
    return Spooled(attempt, record, WHO, 60.0)


def weights(attempt: Attempt) -> str:
    return f"weights/{file_name(attempt, '.safetensors')}"


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")


@pytest.fixture
def spool(store: SqlStore) -> Spool:
    """The store's spool."""
    return Spool(store.folder)


def test_a_result_in_the_spool_comes_into_the_store(store: SqlStore, spool: Spool) -> None:
    """The store knows nothing of the attempt since its claim."""
    attempt = claimed(store)
    path = spool.write(result(attempt))
    written = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    os.utime(path, (written.timestamp(), written.timestamp()))
    kept = Files(store.folder)
    for file in (kept.weights(attempt), kept.weights(Attempt(RUN, 7)), kept.checkpoint(attempt)):
        put(file)

    found = ingest(store)

    assert (found.stored, found.refused, found.damaged, found.left) == ([attempt], [], [], [])
    (told,) = store.attempts(RUN)
    assert (told["state"], told["host"], told["job_id"]) == ("COMPLETED", "n1", "12_3")
    # It ended when its file was written, and had lasted a minute.
    assert (told["ended_at"], told["started_at"]) == (written, written - timedelta(minutes=1))
    assert store.traces(RUN) == {"t": ([0], [0.5])}
    assert store.samples(RUN) == {"boards": b"\x00\xff"}
    assert files(store) == {weights(attempt)}  # of this attempt; the rest is of no use


def test_an_empty_spool_is_no_error(store: SqlStore) -> None:
    assert ingest(store).describe() == "spool: empty"
    assert not store.folder.exists()


def test_a_second_time_changes_nothing(store: SqlStore, spool: Spool) -> None:
    attempt = claimed(store)
    spool.write(result(attempt))
    ingest(store)
    before = store.attempts(RUN), store.run(RUN)
    spool.write(result(attempt))  # as if killed after the commit, before the file was removed
    put(Files(store.folder).weights(attempt))
    assert ingest(store).stored == [attempt]
    assert (store.attempts(RUN), store.run(RUN)) == before
    assert files(store) == {weights(attempt)}


def test_weights_of_a_stored_result_survive_new_metrics(store: SqlStore, spool: Spool) -> None:
    """After `jobs.evaluate --write` the same record differs from the stored one; its weights are still the run's."""
    attempt = claimed(store)
    spool.write(result(attempt))
    ingest(store)
    store.replace_metrics(RUN, {"metric": 0.75})
    spool.write(result(attempt))
    put(Files(store.folder).weights(attempt))
    assert ingest(store).refused == [attempt]
    assert store.run(RUN)["metrics"] == {"metric": 0.75}
    assert files(store) == {weights(attempt)}


def test_a_failure_comes_in_with_all_its_details(store: SqlStore, spool: Spool) -> None:
    attempt = claimed(store)
    spool.write(Spooled(attempt, Ending(State.FAILED, "Traceback", 3, "the log"), WHO, 1.0))
    assert ingest(store).stored == [attempt]
    (ended,) = store.ended_attempts()
    assert (ended.error, ended.exit_code, ended.log_tail, ended.host) == ("Traceback", 3, "the log", "n1")
    assert files(store) == set()


def test_the_history_of_a_requeued_job_comes_in_in_order(store: SqlStore, spool: Spool) -> None:
    first = claimed(store)
    second, third = replace(first, restart=2), replace(first, restart=10)
    spool.write(result(third))
    spool.write(Spooled(second, Ending(State.TIMEOUT), WHO, 1.0))
    spool.write(Spooled(first, Ending(State.PREEMPTED), WHO, 1.0))
    assert ingest(store).stored == [first, second, third]
    assert states(store) == [(1, 0, "PREEMPTED"), (1, 2, "TIMEOUT"), (1, 10, "COMPLETED")]


def test_an_older_attempt_is_refused_and_its_weights_go(store: SqlStore, spool: Spool) -> None:
    old = claimed(store)
    store.end(old, Ending(State.LOST))
    new = claimed(store)
    store.begin(new, WHO)
    for attempt in (old, new):
        put(Files(store.folder).weights(attempt))
    spool.write(result(old))
    assert ingest(store).refused == [old]
    assert store.states([RUN]) == {RUN: State.RUNNING}
    assert files(store) == {weights(new)}


def test_of_two_copies_that_both_left_a_result_the_newer_counts(store: SqlStore, spool: Spool) -> None:
    old = claimed(store)
    new = replace(old, restart=1)
    spool.write(result(old, metric=0.25))
    spool.write(result(new, metric=0.75))
    found = ingest(store)
    assert (found.stored, found.refused) == ([new], [old])
    assert store.run(RUN)["metrics"] == {"metric": 0.75}
    assert states(store)[-1] == (1, 1, "COMPLETED")


def test_of_two_results_of_which_the_newer_is_damaged_the_older_counts(store: SqlStore, spool: Spool) -> None:
    old = claimed(store)
    spool.write(result(old))
    spool.write(result(replace(old, restart=1))).write_bytes(b"")
    assert ingest(store).stored == [old]
    assert store.states([RUN]) == {RUN: State.COMPLETED}


def test_damage_is_set_aside_with_a_line_and_stops_nothing(store: SqlStore, spool: Spool) -> None:
    bad, good = claimed(store), claimed(store, OTHER)
    path = spool.write(result(bad))
    path.write_bytes(path.read_bytes()[:-20])
    spool.write(result(good))
    found = ingest(store)
    assert found.stored == [good]
    (line,) = found.damaged
    assert "\n" not in line
    assert "damaged" in line
    assert "checksum" in line
    assert path.name in line
    assert files(store) == {f"spool/damaged/{path.name}"}
    assert store.states([RUN]) == {RUN: State.PENDING}
    assert ingest(store).damaged == []  # told once


def test_what_no_database_holds_is_set_aside(store: SqlStore, spool: Spool) -> None:
    attempt, good = claimed(store), claimed(store, OTHER)
    entry = result(attempt)
    assert isinstance(entry.ending, RunRecord)
    broken = replace(entry.ending, traces={"t": ([0], [float("nan")])})
    spool.write(replace(entry, ending=broken))
    spool.write(result(good))
    found = ingest(store)
    assert found.stored == [good]
    assert len(found.damaged) == 1
    assert store.runs()["metric"].isna().tolist() == [True, False]


def test_files_of_another_stores_run_and_of_a_newer_version_stay(store: SqlStore, spool: Spool) -> None:
    newer, attempt = claimed(store), claimed(store, OTHER)
    path = spool.write(result(newer))
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 9', 1))
    spool.write(result(attempt))
    spool.write(result(Attempt(THIRD, 1)))
    found = ingest(store)
    assert (found.stored, found.damaged) == ([attempt], [])
    assert "version 9" in found.left[0]
    assert "this store did not claim its attempt" in found.left[1]
    assert files(store) == {f"spool/{path.name}", f"spool/{THIRD}.1.0.json"}
    assert "no run efef" in ingest(store, adopt=True).left[1]


@pytest.mark.parametrize("kind", ["weights", "artifact"])
def test_nothing_is_adopted_from_where_a_link_leads(store: SqlStore, tmp_path: Path, kind: str) -> None:
    """In a shared store a member could have the adopting user copy a private file."""
    files, spool = Files(store.folder), Spool(store.folder)
    staged(store)
    entry = result(Attempt(RUN, 7, nonce="ab"))
    artifact = Artifact(7, hashlib.sha256(b"private").hexdigest())
    assert isinstance(entry.ending, RunRecord)
    spool.write(replace(entry, ending=replace(entry.ending, artifacts={"a.txt": artifact})))
    left = {
        "weights": files.weights(entry.attempt),
        "artifact": files.artifact(entry.attempt, "a.txt", artifact.sha256),
    }
    for name, path in left.items():
        put(path)
        if name == kind:
            (tmp_path / "private").write_bytes(b"private")
            path.unlink()
            path.symlink_to(tmp_path / "private")
    found = ingest(store, adopt=True)
    assert (found.stored, "it is a link" in found.left[0]) == ([], True)
    assert b"private" not in {
        path.read_bytes() for path in store.folder.rglob("*") if not path.is_symlink() and path.is_file()
    }
    left[kind].unlink()
    put(left[kind])
    assert ingest(store, adopt=True).stored == [entry.attempt]
    assert store.artifacts(RUN) == {"a.txt": artifact}


def test_while_the_store_is_away_everything_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    path = Spool(store.folder).write(result(claimed(store)))
    for file in tmp_path.glob("a.db*"):
        file.unlink()
    with pytest.raises(StoreError, match="does not exist"):
        ingest(store)
    assert path.exists()


def test_unfinished_files_of_dead_writers_go(store: SqlStore) -> None:
    halves = [
        store.folder / folder / f"x.json.{n}.tmp"
        for folder in ("spool", "checkpoints", "weights")
        for n in (0, 1)
    ]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.touch()
    for old in halves[::2]:
        an_hour_ago = time.time() - 3601
        os.utime(old, (an_hour_ago, an_hour_ago))
    ingest(store)
    assert [half for half in halves if half.exists()] == halves[1::2]


INGEST = """
found = ingest(open_store(args[0], create=False))
assert not found.damaged and not found.left and not found.refused, found
print(len(found.stored))
"""


@pytest.mark.slow
def test_two_processes_that_ingest_at_once(store: SqlStore, spool: Spool, tmp_path: Path) -> None:
    runs = [f"{n:064x}" for n in range(60)]
    staged(store, *runs)
    for number, attempt in enumerate(store.claim(runs, job_name="j", launcher="slurm")):
        spool.write(result(attempt, metric=number))
    # A run counts twice if both were told that it is stored.
    assert sum(map(int, at_once(INGEST, [store.url], [store.url], folder=tmp_path))) >= 60
    frame = store.runs()
    assert frame["metric"].tolist() == list(range(60))
    assert set(frame["attempts"]) == {1}
    assert files(store) == set()


def test_heartbeats_come_in(store: SqlStore, spool: Spool) -> None:
    attempt = claimed(store)
    HeartbeatFiles(store.folder).write(Heartbeat(attempt, WHO, 70, {"accuracy": 0.5}))
    ingest(store)
    (alive,) = store.open_attempts()
    assert (alive.state, alive.host, alive.step, alive.progress) == (
        State.RUNNING,
        "n1",
        70,
        {"accuracy": 0.5},
    )
    before = store.attempts(RUN)
    ingest(store)
    assert store.attempts(RUN) == before  # the heartbeat is the same
    spool.write(result(attempt))
    ingest(store)
    assert files(store) == set()


def test_old_heartbeats_revive_no_attempt(store: SqlStore) -> None:
    attempt = claimed(store)
    HeartbeatFiles(store.folder).write(Heartbeat(attempt, WHO, 70, {}))
    (path,) = store.folder.rglob("*.json")
    old = time.time() - 600
    os.utime(path, (old, old))
    ingest(store)
    assert store.states([RUN]) == {RUN: State.PENDING}


def test_a_copy_that_is_alive_is_newer_than_a_result(store: SqlStore, spool: Spool) -> None:
    old = claimed(store)
    HeartbeatFiles(store.folder).write(Heartbeat(replace(old, restart=1), WHO, 1, {}))
    spool.write(result(old))
    assert ingest(store).refused == [old]
    assert store.states([RUN]) == {RUN: State.RUNNING}


def test_a_late_result_of_a_requeued_job_keeps_its_weights(store: SqlStore, spool: Spool) -> None:
    first = claimed(store)
    assert store.begin(first, WHO)
    store.end(first, Ending(State.NODE_FAIL))
    store.requeue([first])
    spool.write(result(first))
    put(store.folder / weights(first))
    assert ingest(store).stored == [first]
    assert files(store) == {weights(first)}


def test_the_heartbeat_of_an_attempt_that_does_not_count_goes(store: SqlStore) -> None:
    old = claimed(store)
    store.end(old, Ending(State.CANCELLED))
    HeartbeatFiles(store.folder).write(Heartbeat(old, WHO, 1, {}))
    ingest(store)
    assert store.states([RUN]) == {RUN: State.CANCELLED}
    assert files(store) == set()


def test_the_command(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    good, bad = claimed(store), claimed(store, OTHER)
    Spool(store.folder).write(result(good))
    path = Spool(store.folder).write(result(bad))
    path.write_text("?")
    done = run(RESULTS, "ingest", "--db", "a.db", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "spool: 1 stored, 1 damaged and set aside\n")
    assert len(done.stderr.splitlines()) == 1
    assert path.name in done.stderr
    Spool(store.folder).write(result(Attempt(THIRD, 1)))
    done = run(RESULTS, "ingest", "--json", "--db", "a.db", folder=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["stored"], len(told["left"])) == (1, [], 1)


def test_the_command_without_a_store(tmp_path: Path) -> None:
    done = run(RESULTS, "ingest", "--db", "none.db", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "none.db does not exist; " in done.stderr
    assert list(tmp_path.iterdir()) == []


DEEP = "[" * 99_999 + "]" * 99_999
ODD = (
    None,
    True,
    -1,
    2**63,
    1e30,
    10**400,
    float("nan"),
    [],
    {},
    {"a": {}},
    "",
    "\0",
    "\ud800",
    "../../x",
    "DEEP",
)


def oddly(plain: Any) -> Iterator[Any]:
    """This JSON with each of its values in turn replaced by each odd one."""
    for key in plain if isinstance(plain, dict) else range(len(plain)):
        value = plain[key]
        for other in (*ODD, *(oddly(value) if isinstance(value, dict | list) else ())):
            changed = copy(plain)
            changed[key] = other
            yield changed


@pytest.mark.slow
def test_a_record_or_heartbeat_with_any_odd_value_costs_only_itself(store: SqlStore, spool: Spool) -> None:
    """A member of a group, or a bug, may write anything, with a checksum that fits."""
    of = Attempt("0" * 64, 1, nonce="NONCE")
    done = result(of)
    assert isinstance(done.ending, RunRecord)
    left = replace(done.ending, metrics={"steps": 40.0}, artifacts={"a.txt": Artifact(3, "ab" * 32)})
    failed = replace(done, ending=Ending(State.FAILED, "boom", 9, "last line"))
    records = [json.loads(encode(one).splitlines()[1]) for one in (replace(done, ending=left), failed)]
    heads = [odd for odd in oddly({"format": "imagine-spool", "version": 2}) if "DEEP" not in odd.values()]
    beats = [*ODD, *oddly(asdict(Heartbeat(of, WHO, 5, {"loss": 0.5})))]
    written = [records[0]] * len(heads) + [
        *ODD,
        *(odd for record in records for odd in oddly(record)),
        *beats,
    ]
    runs = [PlannedRun(f"{number:064x}", {"seed": number}) for number in range(len(written))]
    store.stage(runs)
    ids = [one.run_id for one in runs]
    for number, attempt in enumerate(store.claim(ids, job_name="j", launcher="slurm")):
        text = json.dumps(written[number]).replace(of.run_id, attempt.run_id)
        body = text.replace("NONCE", attempt.nonce).replace('"DEEP"', DEEP)
        sha256 = hashlib.sha256(body.encode()).hexdigest()
        head = heads[number] if number < len(heads) else {"format": "imagine-spool", "version": 2}
        is_record = number < len(written) - len(beats)
        path = spool.path(attempt) if is_record else HeartbeatFiles(store.folder).path(attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps({**head, 'sha256': sha256})}\n{body}\n" if is_record else body)
        if number % 7 == 0:
            os.utime(path, (number * 1e8, number * 1e8))
    good = claimed(store)
    spool.write(result(good))

    found = ingest(store)
    assert good in found.stored
    told = (found.stored, found.refused, found.damaged, found.left)
    assert sum(map(len, told)) == len(written) - len(beats) + 1
    assert len(found.damaged) > sum(map(len, told)) / 2
    assert ingest(store).stored == []
