"""What `calibrate` measures on a device, and how `plan` uses it: after past runs, and for no other device."""

import json
import math
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sweep_helpers import ME, SMALL, SWEEP, answer, begun, run, small, trained_by_job, write_spec
from training_helpers import CPU, tiny

from imagination import registry
from imagination.pace import Pace
from imagination.training import gpu
from imagination.training.group import Group
from jobs import calibration
from jobs.calibration import Device, keep, walk
from jobs.pack import Pack, Task, shape
from results_db.contract import RunRecord
from results_db.store import open_store
from sweeps.cli import calibrate as cli_calibrate
from sweeps.launch.machines import in_words, packs_as_rows, packs_in_words
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import form_packs
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import load
from sweeps.status.expected import Machines
from sweeps.status.plan import make_plan

HERE = SimpleNamespace(name=ME.device, is_gpu=False, threads=1, kernels="avx512", ways="")
A_GPU = SimpleNamespace(name="a GPU", is_gpu=True, threads=1, kernels="none", ways="")
BY_TRITON = SimpleNamespace(name="a GPU", is_gpu=True, threads=1, kernels="triton", ways="triton")
ONE_CORE = Machines(workers=2, gpus=0, cores=1, device=ME.device)
ON_GPUS = Machines(workers=9, gpus=1, cores=8, on_slurm=True)


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "a.db"), create=True)
    yield opened
    opened.close()


@pytest.fixture
def cells(tmp_path):
    """Cells of one and two runs of 40 steps."""
    write_spec(tmp_path, cells="[{gol: 1, runs: 1}, {gol: 2}]")
    return expand(load(tmp_path / "s.yaml"))


def times(expansion, store, machines=ONE_CORE, **options):
    """Expected seconds by cell, and the line for people."""
    plan, how = make_plan(expansion, store), LaunchOptions(db=None, **{"pack_size": 1, **options})
    found = form_packs(expansion, plan, store, machines=machines, options=how)[1]
    return [found.seconds(cell.runs) for cell in expansion.cells], in_words(found, machines)


def newest_last(store) -> None:
    """The files of calibrations that were made so far are an hour older than they were."""
    for file in (store.folder / "calibrations").iterdir():
        at = file.stat().st_mtime - 3600
        os.utime(file, (at, at))


def test_a_calibration_tells_the_time_of_runs_of_which_none_has_ended_here(store, cells) -> None:
    first, second = (cell.runs[0] for cell in cells.cells)
    assert times(cells, store)[0] == [None, None]
    keep(store.folder, HERE, [(Pack((first,)), Pace((0.5,), 3.0))])
    assert times(cells, store)[0] == [40 * 0.5 + 3, None]
    keep(store.folder, HERE, [(Pack((second,)), Pace((0.25,), 1.0))])  # beside what is there
    known, words = times(cells, store)
    assert known == [23, 2 * (40 * 0.25 + 1)]
    assert words == "finished in at most 23 s on 2 workers by calibration"
    # A past run knows better, and how many steps such runs need.
    record = RunRecord(second.run_id, "reached", 7.0, {"train_accuracy": 1.0, "steps": 20.0})
    assert store.finish(begun(store, second), record)
    known, words = times(cells, store)
    assert known == [20 * 0.5 + 3, 7]
    assert words == "finished in about 13 s on 2 workers by past runs and calibration"


def test_the_steps_of_other_cells_are_those_of_their_networks(store, tmp_path) -> None:
    write_spec(tmp_path, cells="[{gol: 1, runs: 1}, {gol: 2, gan: posthoc, runs: 1}]", adv_steps=60)
    cells = expand(load(tmp_path / "s.yaml"))
    first, second = (cell.runs[0] for cell in cells.cells)
    keep(store.folder, HERE, [(Pack((second,)), Pace((0.5, 0.25), 3.0))])
    assert times(cells, store)[0] == [None, 40 * 0.5 + 60 * 0.25 + 3]
    record = RunRecord(first.run_id, "reached", 7.0, {"train_accuracy": 1.0, "steps": 20.0})
    assert store.finish(begun(store, first), record)
    assert times(cells, store)[0] == [0, 20 * 0.5 + 60 * 0.25 + 3]


def test_neither_another_device_nor_another_pack_tells_the_time(store, cells) -> None:
    run_ = cells.cells[1].runs[0]
    keep(store.folder, A_GPU, [(Pack((run_,)), Pace((0.5,), 3.0))])
    assert times(cells, store)[0] == [None, None]
    pair = Pack(cells.cells[1].runs)
    keep(store.folder, HERE, [(pair, Pace((0.5,), 3.0))])
    assert times(cells, store)[0] == [None, None]
    assert times(cells, store, pack_size=2)[0] == [None, 46]
    assert times(cells, store, pack_size=2, slots=1)[0] == [None, None]


def test_other_threads_or_kernels_of_a_processor_are_measured_apart(store, cells) -> None:
    one, other = (Pack(cell.runs[:1]) for cell in cells.cells)
    keep(store.folder, SimpleNamespace(**{**vars(HERE), "threads": 2}), [(one, Pace((9.0,), 0.0))])
    assert times(cells, store)[0] == [None, None]
    assert times(cells, store, replace(ONE_CORE, cores=2))[0] == [360, None]
    for kernels, step_s in (("avx512", 0.5), ("none", 2.0)):
        keep(
            store.folder,
            SimpleNamespace(**{**vars(HERE), "kernels": kernels}),
            [(other, Pace((step_s,), 0.0))],
        )
        newest_last(store)
    assert times(cells, store)[0] == [None, 2 * 80]
    keep(store.folder, HERE, [(one, Pace((0.5,), 3.0))])
    newest_last(store)
    assert times(cells, store)[0] == [23, 2 * 20]


def test_a_slow_step_is_measured_as_often_as_the_time_allows(monkeypatch) -> None:
    steps, usual = [], Group.step

    def slow(group, **options):
        steps.append(group)
        time.sleep(0.3)
        return usual(group, **options)

    monkeypatch.setattr(Group, "step", slow)
    config = tiny()
    pace = registry.load(registry.declaration(config.experiment).runner).pace(
        [config], device=CPU, within_s=0.5
    )
    assert pace.step_s[0] > 0.3
    assert len(steps) == 2


def test_on_slurm_a_job_calibrates_its_kind_of_device(store, cells, monkeypatch) -> None:
    one = cells.cells[0].runs[0]
    keep(store.folder, A_GPU, [(Pack((one,)), Pace((90.0,), 0.0))])
    alone = Expansion(cells.cells[:1])
    assert times(alone, store, ON_GPUS)[0] == [None]  # no job measured it, so jobs may have another GPU
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    keep(store.folder, A_GPU, [(Pack((one,)), Pace((90.0,), 0.0))])
    assert times(alone, store, ON_GPUS) == ([3600], "at most 1 GPU-hours by calibration on a GPU")
    assert times(alone, store, replace(ON_GPUS, gpus=0))[0] == [None]
    # The device of past jobs is where the next ones train.
    trained_by_job(store, cells.cells[1].runs[0], seconds=5.0, device="new GPU", gpus=1)
    assert times(alone, store, ON_GPUS)[0] == [None]


# --- how many runs should train at once ---


def test_a_plan_says_how_packs_train_if_not_all_of_their_runs_train_at_once() -> None:
    def pack(runs, **how):
        return Pack(tuple(small(seed=seed) for seed in range(runs)), **how)

    one_gpu, node = replace(ON_GPUS, workers=2), replace(ON_GPUS, workers=4, per_job=2)
    packs = [pack(16, slots=4), pack(16, slots=4), pack(3, slots=4, ways="triton")]
    assert packs_in_words(packs, one_gpu) == "3 packs of at most 16 runs, 3 to 4 at once with triton"
    assert packs_as_rows(packs, one_gpu) == [
        {"packs": 2, "runs": 16, "at_once": 4, "ways": ""},
        {"packs": 1, "runs": 3, "at_once": 3, "ways": "triton"},
    ]
    assert (
        packs_in_words(packs[2:], node) == "1 pack of at most 3 runs, 2 at once with triton"
    )  # 2 and 1, in two parts
    assert packs_in_words([pack(16), pack(3)], one_gpu) == ""


def pack_of(run_, runs):
    return Pack((run_,) * runs)


def test_a_walk_ends_where_twice_as_many_runs_save_less_than_a_tenth(cells) -> None:
    # A step of n runs takes 8 + n ms, so a run's share of 1, 2, 4, ... is 9, 5, 3, 2, 1.5, 1.25, 1.125 ms. The steps
    # from 16 to 32 save 17%, from 32 to 64 exactly 10%, and from 64 to 128 5.6%.
    run_ = cells.runs[0]
    found = walk(run_, lambda pack: Pace(((8 + len(pack.runs)) / len(pack.runs),), 1.0))
    assert [len(pack.runs) for pack, _ in found] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert len({one.config["seed"] for one in found[-1][0].runs}) == 128


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_walk_ends_where_the_memory_ends(cells, error) -> None:
    def pace(pack):
        if len(pack.runs) > most:
            raise error
        return Pace((1 / len(pack.runs),), 1.0)

    most = 4
    assert [len(pack.runs) for pack, _ in walk(cells.runs[0], pace)] == [1, 2, 4]
    most = 0
    with pytest.raises(type(error)):
        walk(cells.runs[0], pace)


def test_a_calibrated_gpu_trains_as_many_runs_at_once_as_pay_and_claims_four_times_as_many(
    store, tmp_path, monkeypatch
) -> None:
    def packs(workers=1, **options):
        how = LaunchOptions(db=None, **options)
        machines = Machines(workers=workers, gpus=1, cores=8, on_slurm=True)
        made, _ = form_packs(cells, make_plan(cells, store), store, machines=machines, options=how)
        return [(len(pack.runs), pack.slots) for pack in made]

    write_spec(tmp_path, cells="[{gol: 1, runs: 20}]")
    cells = expand(load(tmp_path / "s.yaml"))
    run_ = cells.runs[0]
    assert packs() == [(16, None), (4, None)]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    # Of 1, 2, 4, 8 runs at once, 4 are the fewest beside which none saves a tenth: 8 take .95 of their time.
    times_ = {1: 8.0, 2: 5.0, 4: 3.0, 8: 2.85}
    keep(store.folder, A_GPU, [(pack_of(run_, runs), Pace((s,), 1.0)) for runs, s in times_.items()])
    assert packs() == [(16, 4), (4, 4)]
    assert packs(workers=2) == [(10, 4), (10, 4)]
    assert packs(workers=9) == [(4, 4)] * 5
    assert packs(workers=2, limit=8) == [(4, 4), (4, 4)]
    assert packs(pack_size=8) == [(8, None), (8, None), (4, None)]
    assert packs(pad=True) == [(16, None), (4, None)]  # widths may differ, of which no calibration tells
    assert packs(slots=2) == [(16, 2), (4, 2)]
    # One size says nothing about others.
    other = replace(run_, config={**run_.config, "channels": 7})
    keep(store.folder, A_GPU, [(pack_of(other, 1), Pace((8.0,), 1.0))])
    assert packs() == [(16, 4), (4, 4)]


def test_a_calibrated_gpu_trains_each_shape_in_its_fastest_way(store, tmp_path, monkeypatch) -> None:
    write_spec(tmp_path, cells="[{gol: 1}, {gol: 2}, {gol: 3}]")
    cells = expand(load(tmp_path / "s.yaml"))
    first, second, third = (cell.runs[0] for cell in cells.cells)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    keep(store.folder, A_GPU, [(Pack((run_,)), Pace((0.5,), 1.0)) for run_ in (first, second, third)])
    keep(
        store.folder, BY_TRITON, [(Pack((first,)), Pace((0.25,), 1.0)), (Pack((second,)), Pace((1.0,), 1.0))]
    )
    how = LaunchOptions(db=None, pack_size=1)
    plan = make_plan(cells, store)
    packs, expected = form_packs(cells, plan, store, machines=ON_GPUS, options=how)
    ways = {pack.runs[0].config["gol"]: pack.ways for pack in packs}
    assert ways == {1: "triton", 2: "", 3: ""}
    assert [expected.seconds([run_]) for run_ in (first, second, third)] == [40 * 0.25 + 1, 21, 21]
    assert {row["ways"]: row["packs"] for row in packs_as_rows(packs, ON_GPUS)} == {"triton": 2, "": 4}
    assert packs_in_words(packs, ON_GPUS) == "6 packs of at most 1 run, 1 at once with triton"
    assert all(Task.decode(Task(pack, ()).encode()).pack.ways == pack.ways for pack in packs)
    # A task from before has no ways.
    older = json.loads(Task(packs[0], ()).encode())
    del older["ways"]
    assert Task.decode(json.dumps(older)).pack.ways == ""


def test_a_new_walk_replaces_what_was_measured_of_its_shape(store, cells) -> None:
    one, other = (cell.runs[0] for cell in cells.cells)
    keep(store.folder, HERE, [(Pack((run_,)), Pace((0.5,), 3.0)) for run_ in (one, other)])
    # These kernels now train the first shape wrong, so nothing was measured.
    keep(store.folder, HERE, [], anew=[shape(one.config)])
    assert times(cells, store)[0] == [None, 46]


@pytest.mark.parametrize(
    ("name", "gradients"),
    [
        ("zero in every second place", lambda found: found * (torch.arange(found.shape[1]) % 2)),
        ("nan", lambda found: found * math.nan),
    ],
)
def test_a_way_with_other_gradients_is_not_measured(name, gradients, monkeypatch, caplog) -> None:
    # In the first steps of such a run, whose rate is still low, the parameters move by a thousandth only.
    config = tiny(**{**registry.preset("life_state", "small"), **SMALL, "max_steps": 10_000})
    right = torch.autograd.grad

    def grad(*given, **options):
        (found,) = right(*given, **options)
        return (gradients(found) if gpu.choice() else found,)

    trains = registry.load(registry.declaration(config.experiment).runner)
    with gpu.chosen(gpu.GRAPHS):  # which changes nothing on a CPU
        assert trains.pace([config], device=CPU, within_s=0).step_s[0] > 0
        assert not caplog.messages
        monkeypatch.setattr(torch.autograd, "grad", grad)
        assert trains.pace([config], device=CPU, within_s=0) is None
    assert caplog.messages == ["training with graphs has other gradients here, so it is not measured"]
    assert trains.pace([config], device=CPU, within_s=0, end_s=3.0).end_s == 3


def test_a_way_that_fails_is_not_measured_and_too_little_memory_is_told(monkeypatch, caplog) -> None:
    def step(group, **options):
        if gpu.choice():
            raise error
        return usual(group, **options)

    usual = Group.step
    monkeypatch.setattr(Group, "step", step)
    trains = registry.load(registry.declaration("life_state").runner)
    with gpu.chosen(gpu.TRITON):
        error = RuntimeError("out of resource: shared memory\n")
        assert trains.pace([tiny()], device=CPU, within_s=0) is None
        error = MemoryError()
        with pytest.raises(MemoryError):
            trains.pace([tiny()], device=CPU, within_s=0)
    assert caplog.messages == [
        "training with triton fails here, so it is not measured: out of resource: shared memory"
    ]


def test_ways_with_the_same_kernels_are_compared_once(monkeypatch) -> None:
    device = Device(threads=1)
    assert device.choices == [""]
    device.is_gpu = True  # but no graph can be captured here, and Triton's kernels are interpreted
    assert device.choices == ["", "triton"]
    monkeypatch.setattr(gpu, "takes", lambda x: False)
    assert device.choices == [""]
    monkeypatch.setenv(gpu.VARIABLE, "graphs, triton")
    assert device.choices == ["triton,graphs"]


@pytest.mark.slow
def test_a_walk_measures_real_packs(cells) -> None:
    device = Device(threads=1)
    found = walk(cells.runs[0], lambda pack: device.pace(pack, within_s=0.1) if len(pack.runs) < 5 else None)
    assert {len(pack.runs) for pack, _ in found} <= {1, 2, 4}
    assert all(pace.step_s[0] > 0 for _, pace in found)


@pytest.mark.slow
def test_calibrate_on_a_gpu_compares_packs_of_each_shape(tmp_path, monkeypatch) -> None:
    class Gpu(
        Device
    ):  # a CPU that is taken for one, so graphs and Triton's kernels have nothing of their own
        is_gpu = property(lambda self: True, lambda self, value: None)

    monkeypatch.setattr(calibration, "Device", Gpu)
    monkeypatch.setattr(gpu, "takes", lambda x: False)
    monkeypatch.setattr(cli_calibrate, "_MOST_S", 0.3)
    write_spec(tmp_path, cells="[{gol: 1, runs: 1}, {gol: 2, runs: 3}]")
    done = answer("calibrate", "s.yaml", "--db", "a.db", "--json", folder=tmp_path)
    assert "s: 2 shapes measured on " in done.err
    (found,) = calibration.stored(tmp_path / "a.files")
    for cell in expand(load(tmp_path / "s.yaml")).cells:
        rows = [row for row in done.json if row["gol"] == cell.config["gol"]]
        sizes = [row["pack"] for row in rows]
        assert len(sizes) > 1  # more than the first cell has runs
        assert sizes == [2**power for power in range(len(sizes))]
        assert len({row["evaluation_s"] for row in rows}) == 1  # measured once
        assert found.knee(shape(cell.runs[0].config)) in sizes


def test_a_damaged_calibration_is_replaced(store, cells) -> None:
    one = Pack(cells.cells[0].runs[:1])
    keep(store.folder, HERE, [(one, Pace((0.5,), 3.0))])
    (file,) = (store.folder / "calibrations").iterdir()
    file.write_text("{")
    assert times(cells, store)[0] == [None, None]
    keep(store.folder, HERE, [(one, Pace((1.0,), 3.0))])
    assert times(cells, store)[0] == [43, None]


@pytest.mark.slow
def test_calibrate_measures_every_shape_and_plan_knows_their_time(tmp_path) -> None:
    write_spec(tmp_path, cells="[{gol: 1}, {gol: 2, gan: posthoc}]", adv_steps=6)
    environment = {"IMAGINE_DEVICE": "cpu"}
    done = run(SWEEP, "calibrate", "s.yaml", "--db", "a.db", "--json", folder=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["gol"] for row in rows] == [1, 2]
    assert rows[0]["adversary_ms"] is None
    assert "s: 2 shapes measured on " in done.stderr
    said = run(SWEEP, "plan", "s.yaml", "--db", "a.db", "--json", folder=tmp_path, env=environment).stdout
    plan = json.loads(said)
    assert plan["calibrated"] == 4
    for row, cell in zip(rows, plan["cells"], strict=True):
        one = 40 * row["step_ms"] / 1000 + 6 * (row["adversary_ms"] or 0) / 1000 + row["evaluation_s"]
        assert cell["expected_seconds"] == pytest.approx(2 * one, abs=0.02)  # the rows are rounded
