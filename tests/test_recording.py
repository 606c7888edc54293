"""The recorder over a real store: checkpoints, the record, refusals."""

import errno
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from store_helpers import Prompt
from sweep_helpers import HOPELESS, ME, attempt_states, small
from user_helpers import NOBODY

from imagination.training.memory import is_out_of_memory
from jobs import checkpoint
from jobs.recording import RunRecorder
from results_db.contract import Artifact, Attempt, Ending, State, StoreError
from results_db.files import Files, file_name
from results_db.spool.delivery import Delivery
from results_db.spool.ingest import ingest
from results_db.store.sql import SqlStore, open_store

RUN = small()
STATE = {"step": np.array(7), "parameters": np.arange(5, dtype=np.float32)}
METRICS = ("metric", "metric_adv")
WEIGHTS = {"step.0.weight": np.ones((2, 3), dtype=np.float32)}


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "a.db"), create=True) as opened:
        yield opened


@pytest.fixture
def events() -> list[dict]:
    return []


class Waits(RunRecorder):
    """A recorder whose `finish` returns when everything is written."""

    def finish(self, *arguments, **options):
        super().finish(*arguments, **options)
        self.wait()


@pytest.fixture
def record(store, events):
    """Makes the recorder of the run's next attempt, or of a given one, with a way of its own to the store."""
    ways = []

    def recorder(attempt: Attempt | None = None, *, way=Prompt, kind=Waits, **options) -> RunRecorder:
        ways.append(way(store))
        attempt = attempt or claimed(store)
        ways[-1].begin([attempt], ME)
        return kind(attempt, ways[-1], max_steps=40, metrics=METRICS, report=events.append, **options)

    yield recorder
    for way in ways:
        way.close()


def claimed(store: SqlStore) -> Attempt:
    """The run's next attempt, claimed for a job."""
    store.stage([RUN])
    (attempt,) = store.claim([RUN.run_id], job_name="j", launcher="slurm", retry_failed=True)
    return attempt


def named(attempt: Attempt) -> str:
    return file_name(attempt, ".safetensors")


def files(store: SqlStore) -> set[str]:
    """The names of the files in the store's folder."""
    return {path.name for path in store.folder.rglob("*") if path.is_file()}


def state(store: SqlStore) -> State:
    """The run's state."""
    return store.states([RUN.run_id])[RUN.run_id]


def test_a_checkpoint_brings_back_state_and_traces(store, record) -> None:
    first = record()
    assert first.checkpointed is None
    first.trace("state1", 0, 0.5)
    first.checkpoint({**STATE, "step": np.array(3)})
    first.trace("state1", 5, 0.75)
    first.checkpoint(STATE)
    assert files(store) == {named(first.attempt)}
    first.trace("state1", 10, 0.875)  # after the checkpoint: not in it
    first.interrupt()

    second = record()
    assert (second.attempt.number, set(second.checkpointed)) == (2, set(STATE))
    assert all(np.array_equal(second.checkpointed[name], STATE[name]) for name in STATE)
    second.trace("state1", 10, 0.9375)
    second.finish("step_limit", seconds=1.5, weights=WEIGHTS)
    assert store.traces(RUN.run_id) == {"state1": ([0, 5, 10], [0.5, 0.75, 0.9375])}


def test_rewinding_forgets_what_came_after_the_checkpoint(store, record) -> None:
    recorder = record()
    recorder.trace("state1", 0, 0.5)
    recorder.checkpoint(STATE)
    recorder.trace("state1", 5, 0.6)
    recorder.metric("metric", 0.3)
    recorder.sample("plain", {"score": np.zeros(1)})
    recorder.rewind()
    recorder.finish("step_limit", seconds=1, weights=WEIGHTS)
    found = (store.traces(RUN.run_id), store.run(RUN.run_id)["metrics"], store.samples(RUN.run_id))
    assert found == ({"state1": ([0], [0.5])}, {}, {})


def one_bit_flipped(path: Path) -> None:
    """In the last tensor's bytes, where the file's own format notices nothing."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewritten(path: Path, *, state: Mapping[str, Any] | None = None, **metadata: str) -> None:
    """As an editor of the file would: everything is there but the seal."""
    with safe_open(path, framework="numpy") as file:
        metadata = {**file.metadata(), **metadata}
    save_file({**load_file(path), **(state or {})}, path, metadata=metadata)


def of_another_run(path: Path) -> None:
    checkpoint.write(path, checkpoint.Saved(STATE, {}, {}), attempt=Attempt("f" * 64, 1))


@pytest.mark.parametrize(
    "damage",
    [
        one_bit_flipped,
        of_another_run,
        lambda path: rewritten(path, state={"step": np.array(10**9)}),
        lambda path: rewritten(path, traces="[]"),
        lambda path: rewritten(path, attempt="9.0"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_text("not a checkpoint"),
        lambda path: save_file(load_file(path), path),
        lambda path: save_file(load_file(path), path, metadata={"traces": "[1, 2"}),
    ],
    ids=[
        *("one bit", "another run's", "step", "no list of traces", "attempt"),
        *("half", "empty", "noise", "text", "no metadata", "as before 0.3"),
    ],
)
def test_a_damaged_checkpoint_costs_its_steps_and_not_the_run(store, record, caplog, damage) -> None:
    first = record()
    first.trace("state1", 0, 0.5)
    first.checkpoint(STATE)
    first.interrupt()
    path = Files(store.folder).checkpoint(first.attempt)
    damage(path)
    with caplog.at_level(logging.WARNING):
        second = record()
    assert second.checkpointed is None
    (warning,) = [entry.getMessage() for entry in caplog.records]
    assert warning.startswith(f"run {RUN.run_id[:10]} does not continue from its checkpoint")
    assert (path.exists(), path.with_name(f"{path.name}.damaged").exists()) == (False, True)
    second.trace("state1", 0, 0.25)
    second.finish("step_limit", seconds=1, weights=WEIGHTS)
    assert store.traces(RUN.run_id) == {"state1": ([0], [0.25])}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
def test_a_checkpoint_of_another_user_is_not_believed(store, record, caplog) -> None:
    """Of two checkpoints the forged one has the larger number, and a seal that fits."""
    first = record()
    first.checkpoint(STATE)
    first.interrupt()
    own = Files(store.folder)
    forged = own.checkpoint(replace(first.attempt, number=99))
    later = checkpoint.Saved({**STATE, "step": np.array(9)}, {}, {})
    checkpoint.write(forged, later, attempt=first.attempt)
    os.chown(forged, NOBODY, NOBODY)
    with caplog.at_level(logging.WARNING):
        second = record()
    assert second.checkpointed["step"] == STATE["step"]
    assert (
        f"does not continue from its checkpoint {forged}.damaged: it is not believed: user {NOBODY}"
        in caplog.text
    )


def test_a_run_goes_on_with_the_artifacts_that_it_had_at_its_checkpoint(store, record) -> None:
    """One has a later version by then, and one came later."""
    first = record()
    first.artifact("note.txt", b"first")
    first.artifact("note.txt", b"second")
    first.checkpoint(STATE)
    assert [path.read_bytes() for path in Files(store.folder).artifacts(first.attempt)] == [b"second"]
    first.artifact("note.txt", b"third")
    first.artifact("late.txt", b"late")
    first.interrupt()
    second = record()
    second.finish("reached", seconds=1, weights=WEIGHTS)
    assert store.artifacts(RUN.run_id) == {"note.txt": Artifact(6, hashlib.sha256(b"second").hexdigest())}
    (left,) = (store.folder / "artifacts").iterdir()
    assert (left, left.read_bytes()) == (Files(store.folder).artifacts(second.attempt)[0], b"second")


def test_a_result_counts_if_an_older_artifact_cannot_be_deleted(store, record) -> None:
    recorder = record()
    recorder.artifact("note.txt", b"first")
    recorder.checkpoint(STATE)
    (older,) = Files(store.folder).artifacts(recorder.attempt)
    recorder.artifact("note.txt", b"second")
    older.unlink()
    older.mkdir()
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert (recorder.state, state(store)) == (State.COMPLETED, State.COMPLETED)
    assert list(store.artifacts(RUN.run_id)) == ["note.txt"]


def test_an_artifact_that_is_replaced_leaves_no_file(store, record) -> None:
    recorder = record()
    for number in range(5):
        recorder.artifact("a" * 80, {"n": np.array(number)})
    (left,) = Files(store.folder).artifacts(recorder.attempt)
    assert load_file(left)["n"] == 4


def test_an_attempt_that_still_lives_may_save_while_its_checkpoint_is_restored(
    store, record, monkeypatch
) -> None:
    """Between the two reads of the new attempt, the old one replaces checkpoint and artifact."""
    old = record()
    old.artifact("note.txt", b"first")
    old.checkpoint(STATE)
    store.end(old.attempt, Ending(State.LOST))
    read = checkpoint.read

    def read_late(data: bytes, *, run_id: str) -> checkpoint.Saved:
        saved = read(data, run_id=run_id)
        if int(saved.state["step"]) == 7:
            old.artifact("note.txt", b"second")
            old.checkpoint({**STATE, "step": np.array(8)})
        return saved

    monkeypatch.setattr(checkpoint, "read", read_late)
    new = record()
    assert int(new.checkpointed["step"]) == 8
    (taken,) = Files(store.folder).artifacts(new.attempt)
    assert taken.read_bytes() == b"second"


def linked(path: Path) -> None:
    """As a member of a group could do, to have the target copied; the content even fits."""
    private = path.parent.parent / "private"
    path.rename(private)
    path.symlink_to(private)


@pytest.mark.parametrize("damage", [one_bit_flipped, Path.unlink, linked], ids=["one bit", "missing", "link"])
def test_a_checkpoint_without_its_artifacts_costs_its_steps_and_not_the_run(store, record, damage) -> None:
    first = record()
    first.artifact("note.txt", b"note")
    first.checkpoint(STATE)
    first.interrupt()
    (path,) = Files(store.folder).artifacts(first.attempt)
    damage(path)
    second = record()
    assert (second.checkpointed, Files(store.folder).artifacts(second.attempt)) == (None, [])
    assert Files(store.folder).checkpoint(first.attempt).with_suffix(".safetensors.damaged").exists()
    second.finish("reached", seconds=1, weights=WEIGHTS)
    assert (store.artifacts(RUN.run_id), state(store)) == ({}, State.COMPLETED)


@pytest.mark.parametrize(("errors", "restored"), [(1, True), (9, False)], ids=["for a moment", "for long"])
def test_a_checkpoint_on_a_disk_that_is_away_is_kept(store, record, monkeypatch, errors, restored) -> None:
    monkeypatch.setattr("jobs.recording.READ_AFTER_S", (0.01, 0.01))
    first = record()
    first.checkpoint(STATE)
    first.interrupt()
    read, away = Files.read, [OSError(errno.EIO, "Input/output error")] * errors

    def reads(self, path):
        if away:
            raise away.pop()
        return read(self, path)

    monkeypatch.setattr(Files, "read", reads)
    second = record()
    assert Files(store.folder).checkpoint(first.attempt).exists()
    assert (second.checkpointed is not None, state(store) is State.RUNNING) == (restored, restored)
    if not restored:
        assert state(store) is State.PREEMPTED
        assert "Input/output error" in store.attempts(RUN.run_id)[-1]["error"]
        away.clear()
        assert record().checkpointed is not None


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
    assert files(store) == {named(recorder.attempt)}
    kept = load_file(Files(store.folder).weights(recorder.attempt))
    assert np.array_equal(kept["step.0.weight"], WEIGHTS["step.0.weight"])
    assert events[-1] == {
        "event": "ended",
        "run_id": RUN.run_id,
        "state": "COMPLETED",
        "outcome": "reached",
        "seconds": 2.5,
        "metrics": {"metric": 0.25, "metric_adv": None},
    }


BACKWARDS = {
    "turned": np.arange(6.0).reshape(2, 3).T,
    "reversed": np.arange(4)[::-1],
    "third": np.arange(9)[::3],
    "number": np.float32(2.5),
}


def test_arrays_in_any_order_are_kept_as_they_are(store, record) -> None:
    """safetensors writes the memory of an array as it lies, which is not always in the order of C."""
    recorder = record()
    recorder.artifact("found", BACKWARDS)
    recorder.checkpoint({**BACKWARDS, "step": 3})
    again = record(replace(recorder.attempt, restart=1))
    assert again.checkpointed is not None
    assert again.checkpointed.pop("step") == 3
    again.finish("reached", seconds=1.0, weights=BACKWARDS)
    files = Files(store.folder)
    for kept in (
        again.checkpointed,
        load_file(files.artifacts(again.attempt)[0]),
        load_file(files.weights(again.attempt)),
    ):
        assert kept.keys() == BACKWARDS.keys()
        for name, value in BACKWARDS.items():
            np.testing.assert_array_equal(kept[name], value)


def test_a_metric_that_is_not_declared_is_refused(record) -> None:
    with pytest.raises(ValueError, match=r"metric 'metrik' is not declared \(did you mean 'metric'\?\)"):
        record().metric("metrik", 1.0)


@pytest.fixture
def superseded(store, record) -> tuple[RunRecorder, RunRecorder]:
    """An attempt that was given up as LOST, and the next one."""
    old = record()
    store.end(old.attempt, Ending(State.LOST))
    return old, record()


@pytest.mark.parametrize(
    "end",
    [
        lambda old: old.finish("reached", seconds=1, weights=WEIGHTS),
        lambda old: old.fail(RuntimeError("late")),
        lambda old: old.interrupt(),
    ],
    ids=["finish", "fail", "interrupt"],
)
def test_a_superseded_attempt_changes_nothing(store, superseded, events, end) -> None:
    old, new = superseded
    new.checkpoint(STATE)
    before, attempts = files(store), attempt_states(store, RUN.run_id)
    old.metric("metric", 0.1)
    end(old)
    assert (old.state, events[-1]["state"]) == (State.LOST, "LOST")
    assert (files(store), attempt_states(store, RUN.run_id)) == (before, attempts)
    assert state(store) is State.RUNNING
    old.checkpoint({**STATE, "step": np.array(1)})
    new.rewind()
    assert int(new.checkpointed["step"]) == 7


def test_a_superseded_attempt_leaves_a_stored_result_alone(store, superseded) -> None:
    old, new = superseded
    old.artifact("note.txt", b"old")
    new.artifact("note.txt", b"new")
    new.metric("metric", 0.75)
    new.finish("reached", seconds=1, weights=WEIGHTS)
    stored = (store.run(RUN.run_id), files(store))
    old.metric("metric", 0.1)
    old.artifact("late.txt", b"late")
    old.finish("step_limit", seconds=9, weights=WEIGHTS)
    assert (store.run(RUN.run_id), files(store)) == stored
    assert store.artifacts(RUN.run_id) == {"note.txt": Artifact(3, hashlib.sha256(b"new").hexdigest())}
    (left,) = store.folder.glob("artifacts/*")
    assert [left] == Files(store.folder).artifacts(new.attempt)


def test_a_full_disk_costs_no_training(store, record, monkeypatch) -> None:
    monkeypatch.setattr("jobs.recording.RETRY_AFTER_S", (0.01,))
    recorder = record()
    recorder.checkpoint(STATE)
    (store.folder / "weights").write_text("a file where the folder was")
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert (recorder.state, state(store)) == (State.PREEMPTED, State.PREEMPTED)
    assert int(record().checkpointed["step"]) == 7


def test_the_training_of_other_runs_does_not_wait_for_a_disk_that_is_full_for_a_while(store, record) -> None:
    recorder = record(kind=RunRecorder)
    recorder.checkpoint(STATE)
    recorder.metric("metric", 0.75)
    weights = store.folder / "weights"
    weights.write_text("a file where the folder was")
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert (recorder.ended_as, state(store)) == (State.COMPLETED, State.RUNNING)
    weights.unlink()
    recorder.wait()  # it tries again every few seconds
    assert (recorder.state, state(store)) == (State.COMPLETED, State.COMPLETED)
    assert store.run(RUN.run_id)["metrics"] == {"metric": 0.75}


def test_a_run_that_ends_is_open_at_no_time_also_if_its_result_cannot_be_written(store, record) -> None:
    recorder = record(kind=RunRecorder)
    seen = []

    class Watched(type(recorder._delivery)):
        def end(self, attempt, ending):
            seen.append(recorder.ended_as)  # what the thread that trains sees, and may interrupt or rewind
            return super().end(attempt, ending)

    recorder._delivery.__class__ = Watched
    recorder.finish("reached", seconds=1, weights={"w": "no array"})
    recorder.wait()
    assert seen == [State.COMPLETED]
    assert (recorder.state, state(store)) == (State.FAILED, State.FAILED)


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(store, record, caplog) -> None:
    recorder = record()
    recorder.checkpoint(STATE)
    folder = Files(store.folder).checkpoint(recorder.attempt).parent
    folder.rename(store.folder / "aside")
    folder.write_text("a file where the folder was")
    recorder.checkpoint({**STATE, "step": np.array(9)})
    assert f"run {RUN.run_id[:10]}: checkpoint not written" in caplog.text
    assert recorder.state is None
    recorder.finish("reached", seconds=1, weights=WEIGHTS)
    assert recorder.state is State.COMPLETED


def test_weights_of_attempts_that_died_before_their_commit_go(store, record) -> None:
    dead = record()
    orphan = Files(store.folder).weights(dead.attempt)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"weights of no record")
    store.end(dead.attempt, Ending(State.LOST))
    alive = record()
    alive.finish("reached", seconds=1, weights=WEIGHTS)
    assert files(store) == {named(alive.attempt)}


def test_a_failure_keeps_its_traceback_and_the_logs_last_lines(
    store, record, events, caplog, tmp_path
) -> None:
    log_file = tmp_path / "worker.log"
    log_file.write_text("".join(f"line {number}\n" for number in range(100)))
    recorder = record(log_file=str(log_file))
    try:
        raise ValueError("the board is\ntoo small")
    except ValueError as error:
        recorder.fail(error)
    assert recorder.state is State.FAILED
    (ended,) = store.ended_attempts()
    assert ended.state is State.FAILED
    assert "Traceback" in ended.error
    assert "test_recording.py" in ended.error
    assert ended.log_tail == "\n".join(f"line {number}" for number in range(80, 100))
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
        assert state(store) is State.OUT_OF_MEMORY
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_missing_log_does_not_hide_a_failure(store, record, tmp_path) -> None:
    record(log_file=str(tmp_path / "none")).fail(ValueError("boom"))
    assert state(store) is State.FAILED


def test_progress_is_reported_now_and_then_and_kept_for_the_heartbeat(record, events) -> None:
    recorder = record()
    for step in range(0, 50, 5):
        recorder.progress(step, {"state1": step / 100})
    own = recorder._delivery._own[recorder.attempt]
    assert (own.step, own.progress) == (45, {"state1": 0.45})
    # Ten within half a second, of which the first is reported.
    assert [event for event in events if event["event"] == "progress"] == [
        {"event": "progress", "run_id": RUN.run_id, "step": 0, "max_steps": 40, "values": {"state1": 0.0}}
    ]


def test_started_reports_the_checkpoints_step(store, record, events) -> None:
    first = record()
    first.started()
    first.checkpoint(STATE)
    first.interrupt()
    second = record()
    second.started()
    second.checkpoint({**STATE, "stage": np.array(1), "earlier": np.array(30), "step": np.array(4)})
    second.interrupt()
    third = record()
    third.started()
    # 34: in the second stage, behind the first stage's 30 steps.
    assert [event["step"] for event in events if event["event"] == "started"] == [0, 7, 34]
    assert third._delivery._own[third.attempt].step == 34  # for a heartbeat before the next trace


@pytest.mark.parametrize("ends_as", [State.COMPLETED, State.PREEMPTED])
def test_the_checkpoint_stays_until_the_store_has_the_result_whoever_delivers_it(
    monkeypatch, store, record, events, ends_as
) -> None:
    monkeypatch.setattr("results_db.spool.delivery.CLOSE_WITHIN_S", 0.2)

    def away() -> None:
        raise StoreError("away")

    recorder = record(way=lambda store: Delivery(store.folder, away))
    recorder.checkpoint(STATE)
    own, weights = named(recorder.attempt), f"weights/{named(recorder.attempt)}"
    if ends_as is State.COMPLETED:
        recorder.finish("reached", seconds=1, weights=WEIGHTS)
    else:
        recorder.interrupt()
    assert (recorder.state, events[-1]["state"]) == (ends_as, ends_as)
    assert (store.folder / "checkpoints" / own).exists()
    ingest(store)
    assert state(store) is ends_as
    kept = weights if ends_as is State.COMPLETED else f"checkpoints/{own}"
    assert [str(path.relative_to(store.folder)) for path in store.folder.rglob("*.*")] == [kept]


def test_two_restarts_keep_their_weights_apart(store, record) -> None:
    """A node that was cut off and is back ends its copy last; its files go, and no others."""
    attempt = claimed(store)
    old = record(attempt)
    new = record(replace(attempt, restart=1))
    new.finish("reached", seconds=1, weights=WEIGHTS)
    stored = (store.run(RUN.run_id), files(store))
    old.checkpoint(STATE)  # it may not know yet
    old.finish("reached", seconds=9, weights=WEIGHTS)
    assert (old.state, new.state) == (State.LOST, State.COMPLETED)
    assert (store.run(RUN.run_id), files(store)) == stored
    assert files(store) == {named(new.attempt)}


def test_an_attempt_keeps_one_checkpoint_of_its_run(store, record) -> None:
    first = record()
    first.checkpoint(STATE)
    first.interrupt()
    second = record()
    second.checkpoint({**STATE, "step": np.array(9)})
    assert files(store) == {named(second.attempt)}
    assert int(record(claimed_after(store, second)).checkpointed["step"]) == 9


def claimed_after(store: SqlStore, recorder: RunRecorder) -> Attempt:
    recorder.interrupt()
    return claimed(store)


def test_an_outcome_that_no_store_takes_is_refused_before_it_is_written(record) -> None:
    with pytest.raises(ValueError, match="the outcome 'it has converged' is not of a-z and _"):
        record().finish("it has converged", seconds=1.0, weights=WEIGHTS)
