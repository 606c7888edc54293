"""The worker: a pack over a real store, from its first step to the records of its runs."""

import logging
import re
import threading
import weakref
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from store_helpers import Prompt
from sweep_helpers import (
    HOPELESS,
    ME,
    attempt_states,
    begun,
    complete,
    ids,
    results,
    small,
    staged,
    task_of,
)
from training_helpers import after

from imagination.life.state import LifeState
from imagination.schema import ConfigError
from imagination.training import gpu, native
from imagination.training import runner as packed
from imagination.training.runner import GradientRunner
from imagination.ways import TRITON, VARIABLE
from jobs import checkpoint, worker
from jobs.pack import Pack
from results_db.contract import Attempt, Ending, State, StoreError
from results_db.files import Files
from results_db.spool import delivery
from results_db.spool.ingest import ingest
from results_db.store import open_store
from results_db.views.run import collect, describe

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def new_store(tmp_path):
    """Opens stores, each in a file of its own."""
    stores = []

    def make():
        stores.append(open_store(str(tmp_path / f"{len(stores)}.db"), create=True))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(new_store):
    return new_store()


def run_pack(store, *runs, task=None, way=Prompt, report=lambda event: None, **options):
    """Trains the runs as a worker to which they were given."""
    task = task or task_of(store, *runs)
    with closing(way(store)) as delivery:
        return worker.run_pack(task, delivery, device=CPU, provenance=ME, report=report, **options)


def weights_of(store, run):
    (path,) = (store.folder / "weights").glob(f"{run.run_id}.*")
    return path


def checkpoints_of(store, run):
    return Files(store.folder).checkpoints(run.run_id)


def members(count):
    """Runs of one shape that differ in all sorts of ways."""
    changes = [{}, {"loss": "l2", "lr": 1e-3}, {"ae": False, "max_steps": 30}]
    return [small(seed=seed, **changes[seed]) for seed in range(count)]


@pytest.mark.parametrize("count", [1, 3])
def test_every_run_is_trained_and_recorded_with_its_weights(store, count) -> None:
    runs, events = members(count), []
    assert run_pack(store, *runs, report=events.append) == dict.fromkeys(ids(runs), State.COMPLETED)
    for run in runs:
        found = results(store, run.run_id)
        steps = run.config["max_steps"]
        assert (found["outcome"], found["metrics"]["steps"]) == ("step_limit", steps)
        assert {"metric", "train_accuracy", "eval_accuracy", "metric_dataset"} <= set(found["metrics"])
        # gol = model_t = 2: three states, each with a point at every fifth step.
        points = {name: points for name, (points, _) in found["traces"].items()}
        assert points == {name: list(range(0, steps, 5)) for name in ("state1", "state2", "state3")}
        assert list(found["samples"]) == ["plain"]
        assert weights_of(store, run).is_file()
        assert checkpoints_of(store, run) == []
        told = [event["event"] for event in events if event["run_id"] == run.run_id]
        assert told[0] == "started"
        assert told[-1] == "ended"
        assert set(told[1:-1]) == {"progress"}


def test_an_attempt_tells_whether_it_had_the_compiled_kernels(new_store, monkeypatch) -> None:
    run = small(seed=0, max_steps=10)
    for compiler, kernels in ((None, "avx512" if native.has_kernels(CPU) else "none"), ("", "none")):
        if compiler is not None:
            monkeypatch.setenv("IMAGINE_CC", compiler)
            monkeypatch.setattr(native, "library", native.library.__wrapped__)
        store = new_store()
        run_pack(store, run)
        assert store.attempts(run.run_id)[0]["kernels"] == kernels
        shown = describe(collect(store, run.run_id))
        assert re.search(rf"device .*\n *kernels +{kernels}\n", shown)


def test_a_pack_is_trained_in_its_ways_unless_the_user_asks_for_others(new_store, monkeypatch) -> None:
    plain = "avx512" if native.has_kernels(CPU) else "none"
    with gpu.chosen(TRITON):
        triton = "triton" if gpu.takes(torch.zeros(1)) else plain
    for asked, ways, kernels in ((None, "triton", triton), ("", "", plain), (" graphs", "graphs", plain)):
        if asked is not None:
            monkeypatch.setenv(VARIABLE, asked)
        store, seen = new_store(), []
        task = task_of(store, small())
        task = replace(task, pack=replace(task.pack, ways="triton"))
        run_pack(store, task=task, stop=lambda seen=seen: seen.append(gpu.choice()) or True)
        assert set(seen) == {ways}
        (attempt,) = store.attempts(small().run_id)
        assert attempt["kernels"] == kernels


def test_runs_that_are_complete_or_running_elsewhere_are_left_alone(store) -> None:
    done, elsewhere, mine = (small(seed=seed) for seed in range(3))
    complete(store, done)
    begun(store, elsewhere)
    before = store.run(done.run_id)
    events = []
    assert run_pack(store, done, elsewhere, mine, report=events.append) == {mine.run_id: State.COMPLETED}
    skipped = [event["run_id"] for event in events if event["event"] == "skipped"]
    assert skipped == [done.run_id, elsewhere.run_id]
    assert run_pack(store, done) == {}  # a pack without a run to train
    assert store.run(done.run_id) == before
    assert attempt_states(store, elsewhere.run_id) == ["RUNNING"]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("steps", [0, 17])
def test_stopped_and_resumed_is_as_if_undisturbed(new_store, count, steps) -> None:
    undisturbed, disturbed = new_store(), new_store()
    runs = members(count)
    run_pack(undisturbed, *runs)
    assert run_pack(disturbed, *runs, stop=after(steps)) == dict.fromkeys(ids(runs), State.PREEMPTED)
    for run in runs:
        (path,) = checkpoints_of(disturbed, run)
        assert int(load_file(path)["step"]) == steps
        assert disturbed.traces(run.run_id) == {}  # nothing reaches the store before the end
    events = []
    run_pack(disturbed, *runs, report=events.append)
    assert {event["step"] for event in events if event["event"] == "started"} == {steps}
    for run in runs:
        assert results(disturbed, run.run_id) == results(undisturbed, run.run_id)
        assert attempt_states(disturbed, run.run_id) == ["PREEMPTED", "COMPLETED"]
        assert checkpoints_of(disturbed, run) == []
        weights, others = (load_file(weights_of(store, run)) for store in (disturbed, undisturbed))
        assert all(np.array_equal(weights[name], others[name]) for name in others)


def test_a_run_stopped_in_its_second_stage_is_told_to_go_on_where_it_stood(store, monkeypatch) -> None:
    monkeypatch.setattr("jobs.recording._REPORT_EVERY_S", 0)
    run = small(gan="posthoc", max_steps=10, adv_steps=12)
    sessions = [[], []]
    # Ten steps of the network and five of its adversary are asked for; the sixteenth question ends the session.
    assert run_pack(store, run, report=sessions[0].append, stop=after(15)) == {run.run_id: State.PREEMPTED}
    stopped = load_file(*checkpoints_of(store, run))
    assert [int(stopped[name]) for name in ("stage", "earlier", "step")] == [1, 10, 5]
    run_pack(store, run, report=sessions[1].append)
    told = [
        [(event["event"], event["step"], event["max_steps"]) for event in session if "max_steps" in event]
        for session in sessions
    ]
    # Of 10 + 12 steps, told at every fifth step of either stage.
    assert told == [
        [("started", 0, 22), ("progress", 0, 22), ("progress", 5, 22), ("progress", 10, 22)],
        [("started", 15, 22), ("progress", 15, 22), ("progress", 20, 22)],
    ]
    assert store.traces(run.run_id)["adv_state1"][0] == [0, 5, 10]


def test_a_run_that_ended_before_the_stop_stays_complete(store) -> None:
    short, long = small(seed=0, max_steps=10), small(seed=1)
    ended = run_pack(store, short, long, stop=after(20))
    assert ended == {short.run_id: State.COMPLETED, long.run_id: State.PREEMPTED}
    assert run_pack(store, short, long) == {long.run_id: State.COMPLETED}


def test_a_killed_worker_goes_on_from_its_last_checkpoint(new_store) -> None:
    """A process that is killed records nothing; its checkpoints by the clock are left."""

    class Killed(BaseException):
        pass

    undisturbed, disturbed = new_store(), new_store()
    run = small()
    run_pack(undisturbed, run)

    over = after(20)

    def stop():
        if over():
            raise Killed
        return False

    with pytest.raises(Killed):
        run_pack(disturbed, run, stop=stop, checkpoint_every_s=0)
    assert attempt_states(disturbed, run.run_id) == ["RUNNING"]
    (dead,) = disturbed.open_attempts()
    disturbed.end(dead.attempt, Ending(State.LOST))
    run_pack(disturbed, run)
    assert results(disturbed, run.run_id) == results(undisturbed, run.run_id)


def raising(for_seed, at_step):
    """An experiment whose forward pass raises for one seed, without naming the run."""

    class Raising(LifeState):
        passes = 0

        def forward(self, parameters, data, steps):
            Raising.passes += 1
            if Raising.passes > at_step and any(config.seed == for_seed for config in self.configs):
                raise RuntimeError("no such kernel")
            return super().forward(parameters, data, steps)

    return Raising


@pytest.mark.parametrize("at_step", [0, 12])
def test_a_run_that_raises_fails_alone(new_store, monkeypatch, caplog, at_step) -> None:
    store, undisturbed = new_store(), new_store()
    runs = members(3)
    for run in runs:
        run_pack(undisturbed, run)
    monkeypatch.setattr(worker, "runner", lambda _: GradientRunner(raising(1, at_step)))
    ended = run_pack(store, *runs)
    assert [ended[run.run_id] for run in runs] == [State.COMPLETED, State.FAILED, State.COMPLETED]
    assert "no such kernel" in store.attempts(runs[1].run_id)[0]["error"]
    assert "a pack of 3 runs failed" in caplog.text
    for run in (runs[0], runs[2]):  # trained anew and alone: nothing of the first try is left
        assert results(store, run.run_id) == results(undisturbed, run.run_id)
        assert attempt_states(store, run.run_id) == ["COMPLETED"]


def test_a_pack_that_fails_leaves_no_memory_to_its_halves(store, monkeypatch) -> None:
    # A pack that is too large for a GPU would leave its halves no room.
    alive: weakref.WeakSet[packed.Trainer] = weakref.WeakSet()
    trainers, packs = packed.Trainer, []

    def trainer(experiment, *arguments, **options):
        packs.append((len(experiment.configs), len(alive)))
        made = trainers(experiment, *arguments, **options)
        alive.add(made)
        return made

    monkeypatch.setattr(worker, "runner", lambda _: GradientRunner(raising(1, 0)))
    monkeypatch.setattr(packed, "Trainer", trainer)
    # pytest keeps log records, and with them the error, its traceback and the trainer.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    run_pack(store, *members(3))
    assert packs == [(3, 0), (2, 0), (1, 0), (1, 0), (1, 0)]


def test_what_no_memory_holds_is_out_of_memory(store) -> None:
    run = small(batch=HOPELESS)
    assert run_pack(store, run) == {run.run_id: State.OUT_OF_MEMORY}
    # An evaluation that is too large ends its run alone, after the training.
    large, fine = small(eval_sequences=HOPELESS), small()
    assert run_pack(store, large, fine) == {large.run_id: State.OUT_OF_MEMORY, fine.run_id: State.COMPLETED}


def test_a_checkpoint_of_another_shape_costs_its_steps_and_not_the_run(new_store, caplog) -> None:
    store, undisturbed = new_store(), new_store()
    run = small()
    run_pack(undisturbed, run)
    run_pack(store, run, stop=after(20))
    (path,) = checkpoints_of(store, run)
    arrays = load_file(path)
    traces = {"state1": ([0], [0.5])}
    other = checkpoint.Saved(arrays | {"mean": arrays["mean"][:-1]}, traces, {})
    checkpoint.write(path, other, attempt=Attempt(run.run_id, 1))
    assert run_pack(store, run) == {run.run_id: State.COMPLETED}
    assert "does not continue from its checkpoint" in caplog.text
    assert results(store, run.run_id) == results(undisturbed, run.run_id)


def test_damaged_and_swapped_checkpoints_change_no_result(new_store, caplog) -> None:
    """Of three runs, one has a checkpoint with a flipped bit, and the other two have each other's."""
    undisturbed, disturbed = new_store(), new_store()
    runs = members(3)
    run_pack(undisturbed, *runs)
    run_pack(disturbed, *runs, stop=after(17))
    paths = [path for run in runs for path in checkpoints_of(disturbed, run)]
    flipped, one, other = (bytearray(path.read_bytes()) for path in paths)
    flipped[len(flipped) // 2] ^= 16
    for path, data in zip(paths, (flipped, other, one), strict=True):
        path.write_bytes(data)
    run_pack(disturbed, *runs)
    for run, path in zip(runs, paths, strict=True):
        assert results(disturbed, run.run_id) == results(undisturbed, run.run_id)
        assert path.with_name(f"{path.name}.damaged").exists()
    assert caplog.text.count("does not continue from its checkpoint") == 3


def test_the_heartbeat_tells_the_step(store, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "HEARTBEAT_EVERY_S", 0.02)
    seen = threading.Event()

    def stop():
        (running,) = store.open_attempts()
        if running.step > 0:
            assert set(running.progress) == {"state1", "state2", "state3"}
            assert running.heartbeat_at > running.started_at
            seen.set()
        return seen.is_set()

    run_pack(store, small(max_steps=10_000), stop=stop)
    assert seen.is_set()


def test_a_superseded_attempt_stops_training(store, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "HEARTBEAT_EVERY_S", 0.02)
    run, events = small(max_steps=100_000), []

    def report(event):
        events.append(event)
        if event["event"] == "progress" and len(store.attempts(run.run_id)) == 1:
            (mine,) = store.open_attempts()
            store.end(mine.attempt, Ending(State.LOST))
            begun(store, run)  # by another worker

    assert run_pack(store, run, report=report) == {run.run_id: State.LOST}
    assert events[-1]["state"] == "LOST"
    assert attempt_states(store, run.run_id) == ["LOST", "RUNNING"]


@pytest.mark.parametrize(
    ("name", "threads", "reason"),
    [
        ("quantum", 0, "device: 'quantum'"),
        ("meta", 0, "device: 'meta'"),
        ("cuda:99", 0, "device: 'cuda:99'"),
        ("cpu", -1, "threads: -1"),
    ],
)
def test_a_device_that_is_not_there(name, threads, reason) -> None:
    with pytest.raises(ConfigError) as caught:
        worker.choose_device(name, threads=threads)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_always_there() -> None:
    assert worker.choose_device("cpu") == CPU
    assert worker.device_name(CPU)


def test_a_job_trains_the_attempts_that_were_claimed_for_it(store) -> None:
    mine, withdrawn, not_mine = (small(seed=seed, max_steps=10) for seed in range(3))
    task = task_of(store, mine, withdrawn)
    staged(store, not_mine)
    store.withdraw([one for one in task.attempts if one.run_id == withdrawn.run_id])
    task = replace(task, pack=Pack((mine, withdrawn, not_mine)))
    events = []
    assert run_pack(store, task=task, report=events.append) == {mine.run_id: State.COMPLETED}
    skipped = [event["run_id"] for event in events if event["event"] == "skipped"]
    assert skipped == [withdrawn.run_id, not_mine.run_id]
    assert store.states(ids([withdrawn, not_mine])) == dict.fromkeys(ids([withdrawn, not_mine]), State.STAGED)


def test_a_requeued_job_continues_from_the_checkpoint_of_its_earlier_start(new_store) -> None:
    store, undisturbed = new_store(), new_store()
    run = small()
    run_pack(undisturbed, run)
    task = task_of(store, run)
    assert run_pack(store, task=task, stop=after(17)) == {run.run_id: State.PREEMPTED}
    events = []
    assert run_pack(store, task=task.restarted(1), report=events.append) == {run.run_id: State.COMPLETED}
    assert events[0]["step"] == 17
    assert attempt_states(store, run.run_id) == ["PREEMPTED", "COMPLETED"]
    assert results(store, run.run_id) == results(undisturbed, run.run_id)
    assert run_pack(store, task=task.restarted(1)) == {}


def test_a_pack_is_trained_without_the_store(new_store, monkeypatch) -> None:
    """The store is away for the whole training; the results are ingested later."""
    monkeypatch.setattr(delivery, "CLOSE_WITHIN_S", 0.1)
    store, undisturbed = new_store(), new_store()
    runs = members(2)
    run_pack(undisturbed, *runs)

    def away():
        raise StoreError("away")

    ended = run_pack(store, *runs, way=lambda store: delivery.Delivery(store.folder, away))
    assert ended == dict.fromkeys(ids(runs), State.COMPLETED)
    assert store.states(ids(runs)) == dict.fromkeys(ids(runs), State.PENDING)
    assert all(checkpoints_of(store, run) for run in runs)
    ingest(store)
    for run in runs:
        assert results(store, run.run_id) == results(undisturbed, run.run_id)
        assert checkpoints_of(store, run) == []


def test_an_attempt_begun_without_the_store_stops_when_a_newer_one_exists(store, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "HEARTBEAT_EVERY_S", 0.02)
    run = small(max_steps=100_000)
    task, back = task_of(store, run), threading.Event()

    def connect():
        if not back.is_set():
            raise StoreError("away")
        return open_store(store.url, create=False)

    def report(event):
        if event["event"] == "progress" and not back.is_set():
            (attempt,) = task.attempts
            assert store.begin(replace(attempt, restart=1), ME)
            back.set()

    way = delivery.Delivery(store.folder, connect)
    assert run_pack(store, task=task, way=lambda _: way, report=report) == {run.run_id: State.LOST}
    assert attempt_states(store, run.run_id) == ["RUNNING"]  # the store heard of the newer copy alone
