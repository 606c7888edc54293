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
from imagination.training import gpu, graphs
from imagination.training.group import Group
from imagination.ways import GRAPHS, TRITON, VARIABLE
from jobs import calibration
from jobs.calibration import Device, forget, keep, knee, walk
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


def test_another_device_tells_no_time_and_another_pack_an_estimate(store, cells) -> None:
    run_ = cells.cells[1].runs[0]
    keep(store.folder, A_GPU, [(Pack((run_,)), Pace((0.5,), 3.0))])
    assert times(cells, store)[0] == [None, None]
    pair = Pack(cells.cells[1].runs)
    keep(store.folder, HERE, [(pair, Pace((0.5,), 3.0))])
    assert times(cells, store, pack_size=2)[0] == [None, 2 * (40 * 0.5 + 3)]
    # A step of one run takes at most as long as that of both, which is 1 s.
    assert times(cells, store)[0] == [None, 2 * (40 * 1 + 3)]
    assert times(cells, store, pack_size=2, slots=1)[0] == [None, 86]


def test_the_time_of_packs_that_were_not_measured_lies_between_those_that_were(store, cells) -> None:
    run_ = cells.runs[0]
    like = shape(run_.config)
    found = {2: Pace((8.0, 1.0), 5.0), 4: Pace((5.0, 1.0), 5.0), 8: Pace((math.inf,) * 2, 5.0)}
    keep(store.folder, A_GPU, [(pack_of(run_, runs), pace) for runs, pace in found.items()])
    (calibration_,) = calibration.stored(store.folder)

    def step_s(at_once):
        pace = calibration_.pace(like, at_once=at_once)
        return pace and pace.step_s

    # A step of a whole pack takes 2 * 8 = 16 s with 2 runs and 4 * 5 = 20 s with 4, so 18 s with 3.
    assert [step_s(runs) for runs in (2, 3, 4)] == [(8, 1), (6, 1), (5, 1)]
    assert step_s(1) == (16, 2)  # as long as with 2 runs
    assert [step_s(runs) for runs in (5, 8, 9)] == [None] * 3  # too large for the memory
    keep(store.folder, A_GPU, [(pack_of(run_, 4), found[4])], anew=[like])
    (calibration_,) = calibration.stored(store.folder)
    assert step_s(12) == (5, 1)  # three times as long as with 4 runs, for three times as many
    assert calibration_.pace("another", at_once=4) is None
    # With graphs, a pack of 3 runs computes 4 rows, which takes 20 s, and one of 5 computes 8, which takes 40 s.
    with_graphs = replace(calibration_, ways="triton,graphs")
    assert [with_graphs.pace(like, at_once=runs).step_s[0] for runs in (3, 4, 5)] == [20 / 3, 5, 8]


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


def sizes(found):
    return [len(pack.runs) for pack, _ in found]


def test_a_walk_ends_where_two_doublings_together_save_less_than_a_tenth(cells) -> None:
    # From 2 to 4 runs nothing is saved, which 8 make good. 16 save 7% and 32 another 7%, together more than a tenth.
    # 32 and 64 together save 8%.
    step_s = {1: 10, 2: 6, 4: 6.1, 8: 3, 16: 2.8, 32: 2.6, 64: 2.58, 128: 0.1}
    checked = []
    found = walk(
        cells.runs[0],
        lambda pack: Pace((step_s[len(pack.runs)],), 1.0),
        agrees=lambda pack: not checked.append(len(pack.runs)),
    )
    assert sizes(found) == [1, 2, 4, 8, 16, 32, 64]
    assert len({one.config["seed"] for one in found[-1][0].runs}) == 64
    assert checked == [1, 64]


@pytest.mark.parametrize(("runs", "wanted"), [(1, [1]), (2, [1, 2]), (20, [1, 2, 4, 8, 16, 32])])
def test_a_walk_ends_where_a_pack_holds_all_runs(cells, runs, wanted) -> None:
    found = walk(cells.runs[0], lambda pack: Pace((1 / len(pack.runs),), 1.0), runs=runs)
    assert sizes(found) == wanted


def test_a_walk_ends_in_time_though_its_first_pack_builds_kernels(cells, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(calibration, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def pace(pack):
        now[0] += 30 if len(pack.runs) == 1 else 4
        return Pace((1 / len(pack.runs),), 1.0)

    # After the first pack, at 30 s, the others are done at 34, 38 and 42 s; 10 s are over then.
    assert sizes(walk(cells.runs[0], pace)) == [1, 2, 4, 8]


@pytest.mark.parametrize("wrong", [1, 4])
def test_a_way_with_other_gradients_in_its_first_or_its_largest_pack_is_not_measured(cells, wrong) -> None:
    paced = []

    def pace(pack):
        paced.append(len(pack.runs))
        return Pace((1 / len(pack.runs),), 1.0)

    assert walk(cells.runs[0], pace, runs=4, agrees=lambda pack: len(pack.runs) != wrong) == []
    assert paced == ([] if wrong == 1 else [1, 2, 4])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_walk_ends_where_the_memory_ends(cells, store, error) -> None:
    def pace(pack):
        if len(pack.runs) > most:
            raise error
        return Pace((1 / len(pack.runs),), 1.0)

    def check(pack):
        if len(pack.runs) > 1:
            raise error
        return True

    most = 4
    run_ = cells.runs[0]
    found = walk(run_, pace)
    assert [(len(pack.runs), pace.step_s[0]) for pack, pace in found] == [
        (1, 1),
        (2, 1 / 2),
        (4, 1 / 4),
        (8, math.inf),
    ]
    assert sizes(walk(run_, pace, agrees=check)) == [
        1,
        2,
        4,
        8,
    ]  # a check needs more memory than the training
    keep(store.folder, A_GPU, found)
    assert knee(calibration.stored(store.folder), shape(run_.config)) == 4
    most = 0
    with pytest.raises(type(error)):
        walk(run_, pace)


def test_the_largest_pack_that_was_measured_is_the_best_only_if_it_is_large(store, cells) -> None:
    # A walk ends at the runs of its spec. Another spec may have more, which may pay.
    run_ = cells.runs[0]
    for most, wanted in ((1, None), (8, None), (16, 16), (32, 32)):
        found = walk(run_, lambda pack: Pace((1 / len(pack.runs),), 1.0), runs=most)
        keep(store.folder, A_GPU, found, anew=[shape(run_.config)])
        assert knee(calibration.stored(store.folder), shape(run_.config)) == wanted


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
    assert packs(pad=True) == [(16, 4), (4, 4)]  # all have one width
    assert packs(slots=2) == [(16, 2), (4, 2)]
    # One size says nothing about others.
    other = replace(run_, config={**run_.config, "channels": 7})
    keep(store.folder, A_GPU, [(pack_of(other, 1), Pace((8.0,), 1.0))])
    assert packs() == [(16, 4), (4, 4)]


def measured(store, run_, device, *, end_s=1.0, **step_s):
    """Keeps a run's share of a step with `n4=...` runs at once."""
    found = [(pack_of(run_, int(runs[1:])), Pace((s,), end_s)) for runs, s in step_s.items()]
    keep(store.folder, device, found)


def formed(expansion, store, machines, **options):
    how = LaunchOptions(db=None, **options)
    return form_packs(expansion, make_plan(expansion, store), store, machines=machines, options=how)


@pytest.fixture
def many(tmp_path):
    """Makes an expansion of so many runs of one shape."""

    def make(runs):
        write_spec(tmp_path, cells=f"[{{gol: 1, runs: {runs}}}]")
        return expand(load(tmp_path / "s.yaml"))

    return make


def test_the_gpus_of_this_machine_share_the_runs_and_those_of_jobs_are_filled(store, many) -> None:
    cells = many(64)
    # From 64 to 128 runs a step's share falls by 5%.
    measured(store, cells.runs[0], A_GPU, n1=64.0, n32=2.5, n64=2.0, n128=1.9)
    local = Machines(workers=4, gpus=1, cores=8, device="a GPU")
    packs, expected = formed(cells, store, local)
    assert [(len(pack.runs), pack.slots) for pack in packs] == [(16, 16)] * 4
    # A step of 1 run takes 64 s, of 32 runs 80 s; so of 16 runs 64 + 16 * 15 / 31 = 71.7 s. A run has 40 steps.
    assert expected.finished_in == pytest.approx(40 * (64 + 16 * 15 / 31) + 16)
    trained_by_job(store, small(), seconds=5.0, device="a GPU", gpus=1)
    packs, _ = formed(cells, store, replace(ON_GPUS, workers=4))
    assert [(len(pack.runs), pack.slots) for pack in packs] == [(64, 64)]


def test_a_run_too_many_does_not_train_almost_alone(store, many) -> None:
    cells = many(65)
    measured(store, cells.runs[0], A_GPU, n1=64.0, n32=2.5, n64=2.0, n128=1.9)
    (pack,), _ = formed(cells, store, Machines(workers=1, gpus=1, cores=8, device="a GPU"))
    assert (len(pack.runs), pack.slots) == (65, 33)  # 33 and 32, not 64 and 1


def test_a_pack_trains_in_the_way_that_is_fastest_at_its_own_size(store, many) -> None:
    cells = many(16)
    local = Machines(workers=1, gpus=1, cores=8, device="a GPU")
    measured(store, cells.runs[0], A_GPU, n1=4.0, n16=1.0)
    measured(store, cells.runs[0], BY_TRITON, n1=2.0, n16=1.5)
    for size, way, step_s in ((1, "triton", 2), (16, "", 1)):
        packs, expected = formed(cells, store, local, pack_size=size)
        assert {pack.ways for pack in packs} == {way}
        assert expected.known_seconds == 16 * (40 * step_s + 1)
    # 16 runs, of which one trains at a time.
    packs, _ = formed(cells, store, local, pack_size=16, slots=1)
    assert {pack.ways for pack in packs} == {"triton"}


@pytest.mark.parametrize(("asked", "step_s"), [("", 4), ("triton", 2), ("graphs", None)])
def test_a_way_that_is_asked_for_is_planned(store, many, monkeypatch, asked, step_s) -> None:
    cells = many(1)
    local = Machines(workers=1, gpus=1, cores=8, device="a GPU")
    measured(store, cells.runs[0], A_GPU, n1=4.0)
    measured(store, cells.runs[0], BY_TRITON, n1=2.0)
    monkeypatch.setenv(VARIABLE, asked)
    (pack,), expected = formed(cells, store, local)
    assert pack.ways == asked
    assert expected.seconds(cells.runs) == (step_s and 40 * step_s + 1)
    # On a CPU there are no ways.
    (pack,), _ = formed(cells, store, ONE_CORE)
    assert pack.ways == ""


def test_of_packs_that_may_be_padded_those_of_one_width_use_the_calibration(store, tmp_path) -> None:
    write_spec(tmp_path, cells="[{gol: 1, channels: 3}, {gol: 1, channels: 4}, {gol: 2}]")
    cells = expand(load(tmp_path / "s.yaml"))
    local = Machines(workers=1, gpus=1, cores=8, device="a GPU")
    for cell in cells.cells:
        measured(store, cell.runs[0], BY_TRITON, n1=2.0, n2=1.95)  # 2 at once do not pay
    packs, expected = formed(cells, store, local, pad=True)
    assert [(len(pack.runs), pack.slots, pack.ways, pack.padded) for pack in packs] == [
        (4, None, "", True),
        (2, 1, "triton", False),
    ]
    assert [expected.seconds(cell.runs) for cell in cells.cells] == [None, None, 2 * (40 * 2 + 1)]


def test_a_calibrated_gpu_trains_each_shape_in_its_fastest_way(store, tmp_path, monkeypatch) -> None:
    write_spec(tmp_path, cells="[{gol: 1}, {gol: 2}, {gol: 3}]")
    cells = expand(load(tmp_path / "s.yaml"))
    first, second, third = (cell.runs[0] for cell in cells.cells)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for run_ in (first, second, third):
        measured(store, run_, A_GPU, n1=0.5)
    measured(store, first, BY_TRITON, n1=0.25)
    measured(store, second, BY_TRITON, n1=1.0)
    packs, expected = formed(cells, store, ON_GPUS, pack_size=1)
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


def test_a_shape_is_dropped_from_the_ways_that_were_not_measured_again(store, cells) -> None:
    one, other = cells.cells[0].runs[0], cells.cells[1].runs[0]
    another_gpu = SimpleNamespace(**{**vars(BY_TRITON), "name": "another GPU"})
    for device in (A_GPU, BY_TRITON, another_gpu):
        for run_ in (one, other):
            measured(store, run_, device, n1=1.0)
    forget(store.folder, A_GPU, shape(one.config), but=[A_GPU.kernels])
    left = {(each.device, each.ways): set(each.paces) for each in calibration.stored(store.folder)}
    first, second = shape(one.config), shape(other.config)
    assert left == {
        ("a GPU", ""): {first, second},
        ("a GPU", "triton"): {second},
        ("another GPU", "triton"): {first, second},
    }


def test_an_older_calibration_has_the_ways_of_its_kernels(store, cells) -> None:
    for kernels, ways in (
        ("none", ""),
        ("triton", "triton"),
        ("triton+graphs", "triton,graphs"),
        ("avx512", ""),
    ):
        measured(store, cells.runs[0], SimpleNamespace(**{**vars(A_GPU), "kernels": kernels}), n1=1.0)
        (file,) = (store.folder / "calibrations").iterdir()
        older = json.loads(file.read_text())
        del older["ways"]
        file.write_text(json.dumps(older))
        (found,) = calibration.stored(store.folder)
        assert found.ways == ways
        file.unlink()


def test_a_new_walk_replaces_what_was_measured_of_its_shape(store, cells) -> None:
    one, other = (cell.runs[0] for cell in cells.cells)
    keep(store.folder, HERE, [(Pack((run_,)), Pace((0.5,), 3.0)) for run_ in (one, other)])
    # These kernels now train the first shape wrong, so nothing was measured.
    keep(store.folder, HERE, [], anew=[shape(one.config)])
    assert times(cells, store)[0] == [None, 46]


def test_a_way_with_other_gradients_does_not_agree(monkeypatch, caplog) -> None:
    # In the first steps of such a run, whose rate is still low, the parameters move by a thousandth only.
    config = tiny(**{**registry.preset("life_state", "small"), **SMALL, "max_steps": 10_000})
    trains = registry.load(registry.declaration(config.experiment).runner)
    with gpu.chosen(GRAPHS):  # which changes nothing on a CPU
        assert trains.agrees([config], device=CPU)
        assert not caplog.messages
        changed(monkeypatch, lambda found: found * math.nan)
        assert not trains.agrees([config], device=CPU)
    assert caplog.messages == ["training with graphs has other gradients here, so it is not measured"]
    assert trains.agrees([config], device=CPU)  # in PyTorch's own way


def changed(monkeypatch, gradients) -> None:
    """Changes the gradients `[R, P]` of steps in other ways than PyTorch's own."""
    right = torch.autograd.grad

    def grad(*given, **options):
        (found,) = right(*given, **options)
        return (gradients(found) if gpu.choice() else found,)

    monkeypatch.setattr(torch.autograd, "grad", grad)


@pytest.mark.parametrize("name", ["lstm1.bias", "lstm2.hidden.weight"])
@pytest.mark.parametrize("row", [0, 1])
def test_a_way_without_the_gradient_of_one_tensor_does_not_agree(name, row, monkeypatch) -> None:
    # The gradients of an LSTM's tensors have half a percent of the norm of all.
    values = {**registry.preset("life_count", "fast"), "batch": 2}
    configs = [registry.config_type("life_count")(**values, seed=seed) for seed in range(2)]
    trains = registry.load(registry.declaration("life_count").runner)
    layout = trains.experiment(configs, CPU).layout

    def without(found):
        layout.unpack(found)[name][row] = 0
        return found

    with gpu.chosen(GRAPHS):
        changed(monkeypatch, lambda found: found * (1 + 1e-4))  # as if it were rounded otherwise
        assert trains.agrees(configs, device=CPU)
        changed(monkeypatch, without)
        assert not trains.agrees(configs, device=CPU)


def test_a_way_that_fails_is_not_measured_and_too_little_memory_is_told(monkeypatch, caplog) -> None:
    def step(group, **options):
        if gpu.choice() or always:
            raise error
        return usual(group, **options)

    usual = Group.step
    always = False
    monkeypatch.setattr(Group, "step", step)
    trains = registry.load(registry.declaration("life_state").runner)
    said = "training with triton fails here, so it is not measured: out of resource: shared memory"
    with gpu.chosen(TRITON):
        error = RuntimeError("out of resource: shared memory\n")
        assert not trains.agrees([tiny()], device=CPU)
        assert trains.pace([tiny()], device=CPU, within_s=0) is None
        assert caplog.messages == [said, said]
        error = MemoryError()
        with pytest.raises(MemoryError):
            trains.agrees([tiny()], device=CPU)
        with pytest.raises(MemoryError):
            trains.pace([tiny()], device=CPU, within_s=0)
    always, error = True, RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        trains.pace([tiny()], device=CPU, within_s=0)


def test_a_way_whose_graphs_cannot_be_captured_is_not_measured(monkeypatch, caplog) -> None:
    def fails(step, traced):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "_captures", lambda device: gpu.uses(GRAPHS))
    monkeypatch.setattr(graphs, "_aside", lambda step, traced: step(traced))
    monkeypatch.setattr(graphs, "_captured", fails)
    trains = registry.load(registry.declaration("life_state").runner)
    with gpu.chosen(GRAPHS):  # a graph is captured after 3 steps
        assert trains.pace([tiny()], device=CPU, within_s=2) is None
    assert "training goes on without CUDA graphs" in caplog.text
    assert trains.pace([tiny()], device=CPU, within_s=0, end_s=3.0).end_s == 3


def test_ways_with_the_same_kernels_are_compared_once(monkeypatch) -> None:
    device = Device(threads=1)
    assert device.choices == [""]
    device.is_gpu = True  # but no graph can be captured here, and Triton's kernels are interpreted
    assert device.choices == ["", "triton"]
    monkeypatch.setattr(gpu, "takes", lambda x: False)
    assert device.choices == [""]
    monkeypatch.setenv(VARIABLE, "graphs, triton")
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
        packs = [row["pack"] for row in rows]
        assert packs in ([1], [1, 2], [1, 2, 4])[: 1 if len(cell.runs) == 1 else 3]
        assert set(found.paces[shape(cell.runs[0].config)]) == set(packs)
        assert len({row["evaluation_s"] for row in rows}) == 1  # measured once


@pytest.fixture
def on_a_gpu(tmp_path, monkeypatch):
    """Calibrates a spec on a GPU that only pretends: `pace(config)` gives the seconds of a step."""

    def calibrate(pace, *arguments, choices=("", "triton"), cells="[{gol: 1}, {gol: 2}, {gol: 3}]"):
        class Gpu(Device):
            is_gpu = property(lambda self: True, lambda self, value: None)
            choices = property(lambda self: given)

            def _kernels(self, chosen):
                return chosen or "none"

            def agrees(self, pack):
                return True

            def pace(self, pack, *, within_s):
                step_s = pace(pack.runs[0].config)
                return step_s and Pace((step_s / len(pack.runs),), 1.0)

        given = list(choices)
        monkeypatch.setattr(calibration, "Device", Gpu)
        write_spec(tmp_path, cells=cells)
        return answer("calibrate", "s.yaml", "--db", "a.db", "--json", *arguments, folder=tmp_path)

    return calibrate


def known(folder) -> dict[str, list[int]]:
    """By way, the values of `gol` that are calibrated."""
    found = {one.ways: sorted(json.loads(like)["gol"] for like in one.paces) for one in folder}
    return {ways: gols for ways, gols in found.items() if gols}


def test_calibrate_measures_a_shape_in_all_ways_or_not_at_all(on_a_gpu, tmp_path, monkeypatch) -> None:
    def pace(config):
        time.sleep(0.02)
        return 1.0

    monkeypatch.setattr(cli_calibrate, "_LIMIT_S", 0.01)
    done = on_a_gpu(pace)
    assert [(row["gol"], row["kernels"], row["pack"]) for row in done.json] == [
        (1, kernels, runs) for kernels in ("none", "triton") for runs in (1, 2)
    ]
    assert done.err.splitlines()[-1].endswith(" s; 2 shapes left, choose fewer with --where")
    assert known(calibration.stored(tmp_path / "a.files")) == {"": [1], "triton": [1]}


def test_calibrate_goes_on_where_the_memory_ends_and_keeps_what_it_has(on_a_gpu, tmp_path) -> None:
    def pace(config):
        if config["gol"] == 1:
            raise MemoryError
        if config["gol"] == 3:
            raise KeyboardInterrupt
        return 1.0

    done = on_a_gpu(pace, cells="[{gol: 1}, {gol: 2}]")
    assert done.code == 0
    assert done.err.splitlines()[0] == "s: gol=1: too little memory for 1 run"
    assert "1 shape measured on " in done.err
    assert {row["gol"] for row in done.json} == {2}
    assert known(calibration.stored(tmp_path / "a.files")) == {"": [2], "triton": [2]}
    assert on_a_gpu(lambda config: 1.0, "--where", "gol=1").code == 0
    stopped = on_a_gpu(lambda config: 1.0 if config["gol"] == 1 else pace({**config, "gol": 3}))
    assert stopped.code == 130
    assert known(calibration.stored(tmp_path / "a.files")) == {"": [1, 2], "triton": [1, 2]}


def test_calibrate_names_an_experiment_that_cannot_be_measured(on_a_gpu, tmp_path) -> None:
    done = on_a_gpu(lambda config: None)
    first, last = done.err.splitlines()
    assert first == "s: life_state cannot be measured"
    assert last.startswith("s: 0 shapes measured on ")
    assert "--where" not in last


def test_a_way_that_is_gone_or_goes_wrong_now_does_not_stay_calibrated(
    on_a_gpu, tmp_path, monkeypatch
) -> None:
    def now():
        return known(calibration.stored(tmp_path / "a.files"))

    on_a_gpu(lambda config: 1.0)
    assert now() == {"": [1, 2, 3], "triton": [1, 2, 3]}
    monkeypatch.setenv(VARIABLE, "")  # other ways are not compared
    on_a_gpu(lambda config: 1.0, "--where", "gol=1", choices=[""])
    assert now() == {"": [1, 2, 3], "triton": [1, 2, 3]}
    monkeypatch.delenv(VARIABLE)
    on_a_gpu(lambda config: 1.0, "--where", "gol=1", choices=[""])
    assert now() == {"": [1, 2, 3], "triton": [2, 3]}
    on_a_gpu(lambda config: 1.0, "--pack-size", "2", choices=[""])
    assert now() == {"": [1, 2, 3]}


@pytest.mark.parametrize("name", ["meta", "mps", "nonsense"])
def test_calibrate_on_a_device_that_cannot_train_says_so_in_one_line(tmp_path, monkeypatch, name) -> None:
    write_spec(tmp_path)
    monkeypatch.setenv("IMAGINE_DEVICE", name)
    done = answer("calibrate", "s.yaml", "--db", "a.db", folder=tmp_path)
    assert done.code == 2
    assert done.err.splitlines() == [
        f"imagine-sweep: error: device: '{name}' cannot be used here; try auto or cpu "
        "(there are cpu, cuda, cuda:1, ...)"
    ]


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
