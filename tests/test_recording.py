"""The recorder over a real store: checkpoints, the record, refusals."""

import logging
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sweep_helpers import HOPELESS, ME, begun, small

from jobs.recording import RunRecorder, is_out_of_memory
from results_db.contract import Attempt, State, UnfitError
from results_db.files import Files
from results_db.spool.ingest import ingest
from results_db.spool.worker_store import worker_store
from results_db.store.sql import SqlStore, open_store

RUN = small()
STATE = {"step": np.array(7), "parameters": np.arange(5, dtype=np.float32)}
WEIGHTS = {"step.0.weight": np.ones((2, 3), dtype=np.float32)}


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "a.db"), create=True)
    yield opened
    opened.close()


@pytest.fixture
def events() -> list[dict]:
    return []


@pytest.fixture
def record(store, events):
    """Makes the recorder of the run's next attempt."""
    return lambda: RunRecorder(begun(store, RUN), store, max_steps=40, report=events.append)


def files(store: SqlStore) -> set[str]:
    """The names of the files in the store's folder."""
    return {path.name for path in store.folder.rglob("*") if path.is_file()}


def test_a_checkpoint_brings_back_state_and_traces(store, record) -> None:
    first = record()
    assert first.checkpointed is None
    first.trace("state1", 0, 0.5)
    first.trace("state1", 5, 0.75)
    first.checkpoint(STATE)
    first.trace("state1", 10, 0.875)  # after the checkpoint: not in it
    first.interrupt()

    second = record()
    assert (second.attempt.number, set(second.checkpointed)) == (2, set(STATE))
    assert all(np.array_equal(second.checkpointed[name], STATE[name]) for name in STATE)
    second.trace("state1", 10, 0.9375)
    second.finish("step_limit", seconds=1.5, weights=WEIGHTS)
    assert store.traces(RUN.run_id) == {"state1": ([0, 5, 10], [0.5, 0.75, 0.9375])}


def test_a_later_checkpoint_replaces_the_earlier_one(store, record) -> None:
    recorder = record()
    recorder.checkpoint(STATE)
    recorder.checkpoint({**STATE, "step": np.array(9)})
    recorder.rewind()
    assert int(recorder.checkpointed["step"]) == 9
    assert files(store) == {f"{RUN.run_id}.safetensors"}


def test_rewinding_forgets_what_came_after_the_checkpoint(store, record) -> None:
    recorder = record()
    recorder.trace("state1", 0, 0.5)
    recorder.checkpoint(STATE)
    recorder.trace("state1", 5, 0.6)
    recorder.metric("metric", 0.3)
    recorder.sample("plain", {"score": np.zeros(1)})
    recorder.rewind()
    recorder.finish("step_limit", seconds=1, weights=WEIGHTS)
    assert store.traces(RUN.run_id) == {"state1": ([0], [0.5])}
    assert store.run(RUN.run_id)["metrics"] == {}
    assert store.samples(RUN.run_id) == {}


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_traces(path):
    save_file(load_file(path), path)


def with_odd_traces(path):
    save_file(load_file(path), path, metadata={"traces": "[1, 2"})


@pytest.mark.parametrize(
    "damage",
    [
        cut_in_half,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_text("not a checkpoint"),
        without_traces,
        with_odd_traces,
    ],
    ids=["half", "empty", "noise", "text", "no traces", "odd traces"],
)
def test_a_damaged_checkpoint_costs_its_steps_and_not_the_run(store, record, caplog, damage) -> None:
    first = record()
    first.trace("state1", 0, 0.5)
    first.checkpoint(STATE)
    first.interrupt()
    damage(Files(store.folder).checkpoint(RUN.run_id))
    with caplog.at_level(logging.WARNING):
        second = record()
    assert second.checkpointed is None
    (warning,) = [entry.getMessage() for entry in caplog.records]
    assert warning.startswith(f"run {RUN.run_id[:10]} starts again")
    second.trace("state1", 0, 0.25)
    second.finish("step_limit", seconds=1, weights=WEIGHTS)
    assert store.traces(RUN.run_id) == {"state1": ([0], [0.25])}


def test_finish_keeps_weights_and_record_and_removes_the_checkpoint(store, record, events) -> None:
    recorder = record()
    recorder.checkpoint(STATE)
    recorder.metric("metric", 0.25)
    recorder.metric("metric_adv", None)
    recorder.sample("plain", {"score": np.array([0.5])})
    recorder.finish("reached", seconds=2.5, weights=WEIGHTS)
    assert recorder.state is State.COMPLETED
    found = store.run(RUN.run_id)
    assert (found["state"], found["outcome"], found["seconds"]) == ("COMPLETED", "reached", 2.5)
    assert found["metrics"] == {"metric": 0.25, "metric_adv": None}
    assert list(store.samples(RUN.run_id)) == ["plain"]
    assert files(store) == {f"{RUN.run_id}.1.safetensors"}
    kept = load_file(Files(store.folder).weights(Attempt(RUN.run_id, 1)))
    assert np.array_equal(kept["step.0.weight"], WEIGHTS["step.0.weight"])
    assert events[-1] == {
        "event": "ended",
        "run_id": RUN.run_id,
        "state": "COMPLETED",
        "outcome": "reached",
        "seconds": 2.5,
        "metrics": {"metric": 0.25, "metric_adv": None},
    }


def superseded(store: SqlStore, record) -> tuple[RunRecorder, RunRecorder]:
    """An attempt that was given up for lost, and the one that goes on instead of it."""
    old = record()
    store.end(old.attempt, State.LOST)
    return old, record()


def test_a_superseded_attempt_changes_nothing(store, record, events) -> None:
    old, new = superseded(store, record)
    new.checkpoint(STATE)
    before, attempts = files(store), store.attempts(RUN.run_id)
    old.metric("metric", 0.1)
    old.finish("reached", seconds=1, weights=WEIGHTS)
    assert old.state is State.LOST
    assert events[-1]["state"] == "LOST"
    assert files(store) == before
    assert store.attempts(RUN.run_id) == attempts
    assert store.states([RUN.run_id]) == {RUN.run_id: State.RUNNING}
    old.checkpoint({**STATE, "step": np.array(1)})
    new.rewind()
    assert int(new.checkpointed["step"]) == 7


def test_a_superseded_attempt_leaves_a_stored_result_alone(store, record) -> None:
    old, new = superseded(store, record)
    new.metric("metric", 0.75)
    new.finish("reached", seconds=1, weights=WEIGHTS)
    stored = (store.run(RUN.run_id), files(store))
    old.metric("metric", 0.1)
    old.finish("step_limit", seconds=9, weights=WEIGHTS)
    assert (store.run(RUN.run_id), files(store)) == stored


@pytest.mark.parametrize("way", ["fail", "interrupt"])
def test_a_superseded_attempt_cannot_end_the_run_either(store, record, events, way) -> None:
    old, _ = superseded(store, record)
    old.fail(RuntimeError("late")) if way == "fail" else old.interrupt()
    assert old.state is State.LOST
    assert events[-1]["state"] == "LOST"
    assert store.states([RUN.run_id]) == {RUN.run_id: State.RUNNING}


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A store whose database another program has locked, that program's connection, and a recorder."""
    monkeypatch.setattr("results_db.store.engine.BUSY_TIMEOUT_S", 0.05)  # SQLite's own patience, 30 s
    monkeypatch.setattr("jobs.recording.RETRY_AFTER_S", (0.1,) * 10)
    store = open_store(str(tmp_path / "locked.db"), create=True)
    recorder = RunRecorder(begun(store, RUN), store, max_steps=40, report=lambda event: None)
    recorder.checkpoint(STATE)
    other = sqlite3.connect(tmp_path / "locked.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield store, other, recorder
    other.close()
    store.close()


def test_a_store_that_comes_back_gets_the_result(locked, caplog) -> None:
    store, other, recorder = locked
    timer = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
    timer.start()
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    timer.join()
    assert recorder.state is State.COMPLETED
    assert "database is locked" in caplog.text
    assert store.states([RUN.run_id]) == {RUN.run_id: State.COMPLETED}
    assert files(store) == {f"{RUN.run_id}.1.safetensors"}


def test_a_store_that_stays_away_costs_no_training(locked) -> None:
    store, other, recorder = locked
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is State.PREEMPTED
    other.execute("ROLLBACK")
    assert int(RunRecorder(recorder.attempt, store, max_steps=40, report=print).checkpointed["step"]) == 7


def test_a_store_that_was_removed_costs_no_training(store, record, monkeypatch) -> None:
    monkeypatch.setattr("jobs.recording.RETRY_AFTER_S", (0.01,))
    recorder = record()
    recorder.checkpoint(STATE)
    for path in store.folder.parent.glob("a.db*"):
        path.unlink()
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is State.PREEMPTED
    assert Files(store.folder).checkpoint(RUN.run_id).exists()


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(store, record, caplog) -> None:
    recorder = record()
    recorder.checkpoint(STATE)
    folder = Files(store.folder).checkpoint(RUN.run_id).parent
    folder.rename(store.folder / "aside")
    folder.write_text("a file where the folder was")
    recorder.checkpoint({**STATE, "step": np.array(9)})
    assert f"checkpoint of run {RUN.run_id[:10]}" in caplog.text
    assert recorder.state is None
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is State.COMPLETED


def test_what_attempts_left_that_died_before_their_commit_goes(store, record) -> None:
    dead = record()
    orphan = Files(store.folder).weights(dead.attempt)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"weights that no record knows")
    store.end(dead.attempt, State.LOST)
    record().finish("reached", seconds=1, weights=WEIGHTS)
    assert files(store) == {f"{RUN.run_id}.2.safetensors"}


def test_a_failure_keeps_its_traceback_and_says_its_last_line(store, record, events, caplog) -> None:
    recorder = record()
    try:
        raise ValueError("the board is\ntoo small")
    except ValueError as error:
        recorder.fail(error)
    assert recorder.state is State.FAILED
    (attempt,) = store.attempts(RUN.run_id)
    assert attempt["state"] == "FAILED"
    assert "Traceback" in attempt["error"]
    assert "test_recording.py" in attempt["error"]
    assert events[-1]["error"] == "too small"
    assert "too small" in caplog.text


def test_out_of_memory_is_a_state_of_its_own(store, record) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(HOPELESS)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert is_out_of_memory(error)
        recorder = record()
        recorder.fail(error)
        assert recorder.state is State.OUT_OF_MEMORY
        assert store.states([RUN.run_id]) == {RUN.run_id: State.OUT_OF_MEMORY}
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_progress_is_told_now_and_then_and_kept_for_the_heartbeat(store, record, events) -> None:
    recorder = record()
    for step in range(0, 50, 5):
        recorder.progress(step, {"state1": step / 100})
    assert (recorder.step, recorder.values) == (45, {"state1": 0.45})
    told = [event for event in events if event["event"] == "progress"]
    assert [event["step"] for event in told] == [0]  # ten within half a second
    assert told[0] == {
        "event": "progress",
        "run_id": RUN.run_id,
        "step": 0,
        "max_steps": 40,
        "values": {"state1": 0.0},
    }


def test_started_tells_where_it_goes_on(store, record, events) -> None:
    first = record()
    first.started()
    first.checkpoint(STATE)
    first.interrupt()
    record().started()
    told = [(event["number"], event["step"]) for event in events if event["event"] == "started"]
    assert told == [(1, 0), (2, 7)]
    assert store.start(RUN.run_id, ME) is None  # it is running


def test_a_failure_keeps_the_last_lines_of_the_log(store, tmp_path) -> None:
    log_file = tmp_path / "worker.log"
    log_file.write_text("".join(f"line {number}\n" for number in range(100)))
    recorder = RunRecorder(begun(store, RUN), store, max_steps=40, report=print, log_file=str(log_file))
    recorder.fail(ValueError("boom"))
    (ended,) = store.ended_attempts()
    assert ended.log_tail == "\n".join(f"line {number}" for number in range(80, 100))


def test_a_log_that_is_gone_keeps_no_failure_from_being_told(store, tmp_path) -> None:
    recorder = RunRecorder(
        begun(store, RUN), store, max_steps=40, report=print, log_file=str(tmp_path / "none")
    )
    recorder.fail(ValueError("boom"))
    assert store.states([RUN.run_id]) == {RUN.run_id: State.FAILED}


def dispatched(store: SqlStore) -> Attempt:
    """The run's next attempt, granted to a job that was not submitted yet."""
    store.stage([RUN])
    (attempt,) = store.claim([RUN.run_id], job_name="j", launcher="slurm")
    return attempt


@pytest.fixture
def spooled(store, monkeypatch):
    """The store as its workers see it, and without patience."""
    monkeypatch.setattr("results_db.spool.worker_store.PATIENCE_S", 0.0)
    return worker_store(store.url)


def test_a_result_that_waits_in_the_spool_is_as_good_as_stored(store, spooled, events, tmp_path) -> None:
    recorder = RunRecorder(dispatched(store), spooled, max_steps=40, report=events.append)
    spooled.begin(recorder.attempt, ME)
    recorder.checkpoint(STATE)
    (tmp_path / "a.db").rename(tmp_path / "away")
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is State.COMPLETED
    assert events[-1]["state"] == "COMPLETED"
    assert files(store) == {
        f"{RUN.run_id}.1.0.json",
        f"{RUN.run_id}.1.safetensors",
        f"{RUN.run_id}.safetensors",  # the checkpoint stays for as long as the store knows of nothing
    }
    (tmp_path / "away").rename(tmp_path / "a.db")
    ingest(store)
    assert store.states([RUN.run_id]) == {RUN.run_id: State.COMPLETED}
    assert files(store) == {f"{RUN.run_id}.1.safetensors"}


def test_an_interruption_that_waits_in_the_spool_keeps_the_checkpoint(store, spooled, tmp_path) -> None:
    recorder = RunRecorder(dispatched(store), spooled, max_steps=40, report=print)
    spooled.begin(recorder.attempt, ME)
    recorder.checkpoint(STATE)
    (tmp_path / "a.db").rename(tmp_path / "away")
    recorder.interrupt()
    (tmp_path / "away").rename(tmp_path / "a.db")
    assert recorder.state is State.PREEMPTED
    ingest(store)
    assert store.states([RUN.run_id]) == {RUN.run_id: State.PREEMPTED}
    assert files(store) == {f"{RUN.run_id}.safetensors"}


def test_two_restarts_keep_their_weights_apart(store, spooled) -> None:
    """A node that was cut off and is back ends its copy last; what it wrote goes, and nothing else."""
    attempt = dispatched(store)
    old = RunRecorder(attempt, spooled, max_steps=40, report=print)
    spooled.begin(attempt, ME)
    other = worker_store(store.url)
    new = RunRecorder(replace(attempt, restart=1), other, max_steps=40, report=print)
    other.begin(new.attempt, ME)
    new.finish("reached", seconds=1, weights=WEIGHTS)
    stored = (store.run(RUN.run_id), files(store))
    old.checkpoint(STATE)  # it does not know yet
    old.finish("reached", seconds=9, weights=WEIGHTS)
    assert (old.state, new.state) == (State.LOST, State.COMPLETED)
    assert (store.run(RUN.run_id), files(store)) == stored
    assert files(store) == {f"{RUN.run_id}.1.1.safetensors"}


def test_a_record_that_no_store_takes_fails_its_run(store, record) -> None:
    recorder = record()
    recorder.trace("state1", 0, float("nan"))
    with pytest.raises(UnfitError, match="Out of range"):  # which the worker answers with `fail`
        recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is None


def test_a_run_resumed_in_its_second_stage_stands_behind_its_first(record, events) -> None:
    first = record()
    first.checkpoint({**STATE, "stage": np.array(1), "earlier": np.array(30), "step": np.array(4)})
    first.interrupt()
    second = record()
    second.started()
    assert events[-1] == {
        "event": "started",
        "run_id": RUN.run_id,
        "number": 2,
        "step": 34,
        "max_steps": 40,
    }
    assert second.step == 34  # what the heartbeat tells before the next trace
