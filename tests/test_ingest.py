"""What workers left beside the store comes into it: once, in order, whatever is damaged."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sweep_helpers import RESULTS, run

from results_db.contract import Attempt, PlannedRun, Provenance, RunRecord, Sample, State, StoreError
from results_db.files import Files
from results_db.spool.heartbeats import Heartbeat, HeartbeatFiles
from results_db.spool.ingest import ingest
from results_db.spool.records import Spool, Spooled
from results_db.store.sql import SqlStore, open_store

RUN, OTHER = "ab" * 32, "cd" * 32
WHO = Provenance("slurm", "n1", "7:1", "gpu", None, None, {}, "12_3")


def granted(store: SqlStore, run_id: str = RUN) -> Attempt:
    store.stage([PlannedRun(run_id, {})])
    (attempt,) = store.claim([run_id], job_name="j", launcher="slurm")
    return attempt


def result(attempt: Attempt, metric: float = 0.5) -> Spooled:
    samples = {"boards": Sample(b"\x00\xff")}
    record = RunRecord(attempt.run_id, "reached", 1.0, {"metric": metric}, {"t": ([0], [0.5])}, samples)
    return Spooled(attempt, State.COMPLETED, WHO, 60.0, record)


def files(store: SqlStore) -> set[str]:
    return {str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()}


def put(store: SqlStore, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.write_bytes(b"weights")


def history(store: SqlStore) -> list[tuple[int, int, str]]:
    return [(one["number"], one["restart"], str(one["state"])) for one in store.attempts(RUN)]


def test_a_result_that_was_left_behind_comes_in(store: SqlStore) -> None:
    """The store never heard of the attempt since its dispatch."""
    attempt = granted(store)
    path = Spool(store.folder).write(result(attempt))
    written = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    os.utime(path, (written.timestamp(), written.timestamp()))
    kept = Files(store.folder)
    for file in (kept.weights(attempt), kept.weights(Attempt(RUN, 7)), kept.checkpoint(RUN)):
        put(store, file)

    found = ingest(store)

    assert (found.stored, found.refused, found.damaged, found.left) == ([attempt], [], [], [])
    (told,) = store.attempts(RUN)
    assert (told["state"], told["host"], told["job_id"]) == ("COMPLETED", "n1", "12_3")
    # It ended when its file was written, and had lasted a minute.
    assert (told["ended_at"], told["started_at"]) == (written, written - timedelta(minutes=1))
    assert store.traces(RUN) == {"t": ([0], [0.5])}
    assert store.samples(RUN) == {"boards": Sample(b"\x00\xff")}
    assert files(store) == {f"weights/{RUN}.1.safetensors"}  # of this attempt; the rest is of no use


def test_an_empty_spool_is_no_error(store: SqlStore) -> None:
    assert ingest(store).describe() == "spool: empty"
    assert not store.folder.exists()


def test_a_second_time_changes_nothing(store: SqlStore) -> None:
    attempt = granted(store)
    Spool(store.folder).write(result(attempt))
    ingest(store)
    before = store.attempts(RUN), store.run(RUN)
    Spool(store.folder).write(result(attempt))  # as if killed after the commit, before the file was removed
    put(store, Files(store.folder).weights(attempt))
    assert ingest(store).stored == [attempt]
    assert (store.attempts(RUN), store.run(RUN)) == before
    assert files(store) == {f"weights/{RUN}.1.safetensors"}


def test_weights_of_a_stored_result_survive_new_metrics(store: SqlStore) -> None:
    """The same record does not fit any more after `jobs.evaluate --write`; its weights are still the run's."""
    attempt = granted(store)
    Spool(store.folder).write(result(attempt))
    ingest(store)
    store.replace_metrics(RUN, {"metric": 0.75})
    Spool(store.folder).write(result(attempt))
    put(store, Files(store.folder).weights(attempt))
    assert ingest(store).refused == [attempt]
    assert store.run(RUN)["metrics"] == {"metric": 0.75}
    assert files(store) == {f"weights/{RUN}.1.safetensors"}


def test_a_failure_comes_in_with_all_its_witnesses(store: SqlStore) -> None:
    attempt = granted(store)
    Spool(store.folder).write(Spooled(attempt, State.FAILED, WHO, 1.0, None, "Traceback", 3, "the log"))
    assert ingest(store).stored == [attempt]
    (ended,) = store.ended_attempts()
    assert (ended.error, ended.exit_code, ended.log_tail, ended.host) == ("Traceback", 3, "the log", "n1")
    assert files(store) == set()


def test_the_history_of_a_requeued_job_comes_in_in_order(store: SqlStore) -> None:
    first = granted(store)
    second, third = replace(first, restart=2), replace(first, restart=10)
    spool = Spool(store.folder)
    spool.write(result(third))
    spool.write(Spooled(second, State.TIMEOUT, WHO, 1.0))
    spool.write(Spooled(first, State.PREEMPTED, WHO, 1.0))
    assert ingest(store).stored == [first, second, third]
    assert history(store) == [(1, 0, "PREEMPTED"), (1, 2, "TIMEOUT"), (1, 10, "COMPLETED")]


def test_an_older_attempt_is_refused_and_its_weights_go(store: SqlStore) -> None:
    old = granted(store)
    store.end(old, State.LOST)
    new = granted(store)
    store.begin(new, WHO)
    for attempt in (old, new):
        put(store, Files(store.folder).weights(attempt))
    Spool(store.folder).write(result(old))
    assert ingest(store).refused == [old]
    assert store.states([RUN]) == {RUN: State.RUNNING}
    assert files(store) == {f"weights/{RUN}.2.safetensors"}


def test_of_two_copies_that_both_left_a_result_the_newer_counts(store: SqlStore) -> None:
    old = granted(store)
    new = replace(old, restart=1)
    Spool(store.folder).write(result(old, metric=0.25))
    Spool(store.folder).write(result(new, metric=0.75))
    found = ingest(store)
    assert (found.stored, found.refused) == ([new], [old])
    assert store.run(RUN)["metrics"] == {"metric": 0.75}
    assert history(store)[-1] == (1, 1, "COMPLETED")


def test_of_two_results_of_which_the_newer_is_damaged_the_older_counts(store: SqlStore) -> None:
    old = granted(store)
    spool = Spool(store.folder)
    spool.write(result(old))
    spool.write(result(replace(old, restart=1))).write_bytes(b"")
    assert ingest(store).stored == [old]
    assert store.states([RUN]) == {RUN: State.COMPLETED}


def test_damage_is_set_aside_with_a_line_and_stops_nothing(store: SqlStore) -> None:
    bad, good = granted(store), granted(store, OTHER)
    spool = Spool(store.folder)
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


def test_what_no_database_holds_is_set_aside(store: SqlStore) -> None:
    attempt, good = granted(store), granted(store, OTHER)
    entry = result(attempt)
    assert entry.record is not None
    Spool(store.folder).write(replace(entry, record=replace(entry.record, outcome="x" * 40 + "\0")))
    broken = replace(entry.record, traces={"t": ([0], [float("nan")])})
    Spool(store.folder).write(replace(entry, record=broken))
    Spool(store.folder).write(result(good))
    found = ingest(store)
    assert found.stored == [good]
    assert len(found.damaged) == 1
    assert store.runs()["metric"].isna().tolist() == [True, False]


def test_a_file_of_another_stores_run_stays(store: SqlStore) -> None:
    attempt = granted(store)
    stranger = Attempt("ef" * 32, 1)
    Spool(store.folder).write(result(stranger))
    Spool(store.folder).write(result(attempt))
    found = ingest(store)
    assert found.stored == [attempt]
    (line,) = found.left
    assert "no run efef" in line
    assert files(store) == {f"spool/{stranger.run_id}.1.0.json"}


def test_a_file_of_a_newer_version_stays(store: SqlStore) -> None:
    attempt = granted(store)
    path = Spool(store.folder).write(result(attempt))
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 9', 1))
    found = ingest(store)
    assert (found.stored, found.damaged) == ([], [])
    assert "version 9" in found.left[0]
    assert path.exists()


def test_while_the_store_is_away_everything_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    path = Spool(store.folder).write(result(granted(store)))
    for file in tmp_path.glob("a.db*"):
        file.unlink()
    with pytest.raises(StoreError, match="does not exist"):
        ingest(store)
    assert path.exists()


INGEST = """
import sys, time
from pathlib import Path
from results_db.spool.ingest import ingest
from results_db.store import open_store
url, go = sys.argv[1], Path(sys.argv[2])
store = open_store(url, create=False)
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
found = ingest(store)
assert not found.damaged and not found.left and not found.refused, found
print(len(found.stored))
"""


@pytest.mark.slow
def test_halves_of_files_go_when_nobody_can_be_at_them(store: SqlStore) -> None:
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


def test_two_processes_that_ingest_at_once(store: SqlStore, tmp_path: Path) -> None:
    runs = [f"{n:064x}" for n in range(60)]
    store.stage([PlannedRun(run_id, {}) for run_id in runs])
    for number, attempt in enumerate(store.claim(runs, job_name="j", launcher="slurm")):
        Spool(store.folder).write(result(attempt, metric=number))
    go = tmp_path / "go"
    command = [sys.executable, "-c", INGEST, store.url, str(go)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    counts = [int(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(counts) >= 60  # a run of which both were told that it is stored counts twice
    frame = store.runs()
    assert frame["metric"].tolist() == list(range(60))
    assert set(frame["attempts"]) == {1}
    assert files(store) == set()


def test_signs_of_life_come_in(store: SqlStore) -> None:
    attempt = granted(store)
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
    assert store.attempts(RUN) == before  # nothing new was said
    Spool(store.folder).write(result(attempt))
    ingest(store)
    assert files(store) == set()


def test_old_signs_of_life_revive_nobody(store: SqlStore) -> None:
    attempt = granted(store)
    HeartbeatFiles(store.folder).write(Heartbeat(attempt, WHO, 70, {}))
    (path,) = store.folder.rglob("*.json")
    old = time.time() - 600
    os.utime(path, (old, old))
    ingest(store)
    assert store.states([RUN]) == {RUN: State.PENDING}


def test_a_copy_that_is_alive_is_newer_than_a_result(store: SqlStore) -> None:
    old = granted(store)
    HeartbeatFiles(store.folder).write(Heartbeat(replace(old, restart=1), WHO, 1, {}))
    Spool(store.folder).write(result(old))
    assert ingest(store).refused == [old]
    assert store.states([RUN]) == {RUN: State.RUNNING}


def test_the_sign_of_a_loser_goes(store: SqlStore) -> None:
    old = granted(store)
    store.end(old, State.CANCELLED)
    HeartbeatFiles(store.folder).write(Heartbeat(old, WHO, 1, {}))
    ingest(store)
    assert store.states([RUN]) == {RUN: State.CANCELLED}
    assert files(store) == set()


def test_the_command(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    good, bad = granted(store), granted(store, OTHER)
    Spool(store.folder).write(result(good))
    path = Spool(store.folder).write(result(bad))
    path.write_text("?")
    done = run(RESULTS, "ingest", "--db", "a.db", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "spool: 1 stored, 1 damaged and set aside\n")
    assert len(done.stderr.splitlines()) == 1
    assert path.name in done.stderr
    Spool(store.folder).write(result(Attempt("ef" * 32, 1)))
    done = run(RESULTS, "ingest", "--json", "--db", "a.db", folder=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["stored"], len(told["left"])) == (1, [], 1)


def test_the_command_without_a_store(tmp_path: Path) -> None:
    done = run(RESULTS, "ingest", "--db", "none.db", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "spool: empty\n", "")
    assert list(tmp_path.iterdir()) == []
