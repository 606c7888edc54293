"""Packs: which runs train together, in which order, and the file that a worker gets."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_helpers import ids, small

from imagination.life.config import LifeStateConfig
from imagination.schema import pack_keys
from jobs.config import resolve
from jobs.identity import run_id
from jobs.pack import Pack, Task, group
from results_db.contract import Attempt, PlannedRun


def test_a_pack_stands_where_its_first_run_stands() -> None:
    wide = [small(channels=8, seed=seed) for seed in range(3)]
    narrow = [small(channels=4, seed=seed) for seed in range(2)]
    order = [wide[0], narrow[0], wide[1], narrow[1], wide[2]]
    assert [list(pack.runs) for pack in group(order, size=16)] == [wide, narrow]


def test_a_full_pack_is_followed_by_another_of_its_shape() -> None:
    wide = [small(channels=8, seed=seed) for seed in range(5)]
    narrow = small(channels=4)
    packs = group([*wide[:3], narrow, *wide[3:]], size=2)
    # The second wide pack begins with the third wide run, before the narrow one, and takes one from behind it.
    assert [list(pack.runs) for pack in packs] == [wide[:2], [wide[2], wide[3]], [narrow], [wide[4]]]


def test_of_size_one_every_run_is_a_pack() -> None:
    runs = [small(seed=seed) for seed in range(3)]
    assert group(runs, size=1) == [Pack((run,)) for run in runs]
    assert group([], size=4) == []


def test_an_experiment_may_declare_larger_packs() -> None:
    """Probes on one network share its forward pass, but not with those of random weights."""
    needs = dict.fromkeys(("network", "positions"), "0" * 64)
    configs = [
        resolve("chess_probe", "default", needs, {"features": of, "layer": layer, "seed": 0})
        for of in ("trained", "random")
        for layer in (0, 1)
    ]
    probes = [PlannedRun(run_id(config), config) for config in configs]
    runs = [small(), *probes, small(seed=1)]
    assert [len(pack.runs) for pack in group(runs, size=1, declared=True)] == [1, 2, 2, 1]
    assert [len(pack.runs) for pack in group(runs, size=1)] == [1] * 6


def test_what_may_differ_inside_a_pack_and_what_may_not() -> None:
    # Shapes: these change a tensor's shape. Numbers: rates, losses, limits and seeds are columns of a pack.
    together = [{"lr": 0.5}, {"loss": "l2"}, {"ae": False}, {"max_steps": 50}, {"reset": 1.0}, {"seed": 7}]
    apart = [{"gol": 3}, {"rnn": False}, {"batch": 4}, {"board": 7}, {"kernel": 5}, {"precision": "bfloat16"}]
    for changes in together:
        assert len(group([small(), small(**changes)], size=2)) == 1, changes
    for changes in apart:
        assert len(group([small(), small(**changes)], size=2)) == 2, changes


KEYS = pack_keys(LifeStateConfig)
RUNS = st.builds(
    small,
    channels=st.integers(1, 3),
    gol=st.integers(1, 2),
    rnn=st.booleans(),
    lr=st.sampled_from([1e-3, 2e-3]),
    seed=st.integers(0, 50),
)


@given(st.lists(RUNS, unique_by=lambda run: run.run_id, max_size=30), st.integers(1, 5))
def test_every_run_is_in_one_pack_of_equal_shapes(runs: list[PlannedRun], size: int) -> None:
    packs = group(runs, size=size)
    members = [run for pack in packs for run in pack.runs]
    assert sorted(ids(members)) == sorted(ids(runs))
    for pack in packs:
        assert 1 <= len(pack.runs) <= size
        assert len({tuple(run.config[key] for key in KEYS) for run in pack.runs}) == 1
        places = [runs.index(run) for run in pack.runs]
        assert places == sorted(places)
    firsts = [runs.index(pack.runs[0]) for pack in packs]
    assert firsts == sorted(firsts)
    # No more packs than needed: of each shape only the last one is not full.
    shapes = [tuple(pack.runs[0].config[key] for key in KEYS) for pack in packs]
    for shape in set(shapes):
        sizes = [len(pack.runs) for pack, its in zip(packs, shapes, strict=True) if its == shape]
        assert all(each == size for each in sizes[:-1])


def test_a_task_is_read_back_as_it_was_written() -> None:
    pack = Pack((small(lr=1e-3, ae=False), small(seed=2**62)), slots=1)
    task = Task(pack, tuple(Attempt(run.run_id, 3, 1, "0a1b2c3d") for run in pack.runs))
    assert Task.decode(task.encode()) == task
    assert [one.restart for one in task.restarted(2).attempts] == [2, 2]
    with pytest.raises(ValueError, match=r"no task|Expecting|delimiter|Unterminated"):
        Task.decode(task.encode()[:-20])


def test_a_task_with_a_changed_value_is_damaged() -> None:
    """Else another training would be stored under the run's id."""
    run = small(lr=1e-3)
    text = Task(Pack((run,)), (Attempt(run.run_id, 1),)).encode()
    with pytest.raises(
        ValueError, match=rf"config of run {run.run_id[:10]} is not the one that its id was made of"
    ):
        Task.decode(text.replace('"lr": 0.001', '"lr": 0.002'))


def test_a_task_of_runs_that_cannot_train_together_is_damaged() -> None:
    """Else the first run's shape would be taken for all."""
    pack = Pack((small(), small(channels=7)))
    text = Task(pack, tuple(Attempt(run.run_id, 1) for run in pack.runs)).encode()
    names = ", ".join(run.run_id[:10] for run in pack.runs)
    with pytest.raises(ValueError, match=f"runs {names} have different tensor shapes"):
        Task.decode(text)


def test_widths_may_differ_in_a_padded_pack_and_nothing_else() -> None:
    runs = [small(channels=channels) for channels in (8, 2, 3)]
    assert group(runs, size=16, padded=True) == [Pack(tuple(runs), padded=True)]
    assert len(group(runs, size=16)) == 3
    for changes in ({"kernel": 5}, {"step_layers": 2}, {"batch": 4}, {"channels": 1}):
        assert len(group([*runs, small(**changes)], size=16, padded=True)) == 2, changes
    # With one channel no kernel is Muon's, so such runs share packs with one another alone.
    assert len(group([small(channels=1, seed=seed) for seed in range(2)], size=16, padded=True)) == 1


def test_a_padded_task_is_read_back_and_may_not_mix_more_than_widths() -> None:
    def task(*runs: PlannedRun) -> Task:
        return Task(Pack(runs, padded=True), tuple(Attempt(run.run_id, 1) for run in runs))

    padded = task(small(), small(channels=7))
    assert Task.decode(padded.encode()) == padded
    assert padded.part(0, of=2).pack.padded
    assert padded.pack.is_mixed
    assert not task(small(), small(seed=2)).pack.is_mixed
    for other in (small(batch=4), small(channels=1)):
        with pytest.raises(ValueError, match="have different tensor shapes and cannot share a pack"):
            Task.decode(task(small(), other).encode())


def test_a_task_of_an_earlier_version_is_not_padded() -> None:
    run = small()
    task = Task(Pack((run,)), (Attempt(run.run_id, 1),))
    text = json.dumps({key: value for key, value in json.loads(task.encode()).items() if key != "padded"})
    assert Task.decode(text) == task


def test_the_id_depends_on_the_runs_and_their_order() -> None:
    one, two = small(seed=1), small(seed=2)
    assert Pack((one, two)).pack_id == hashlib.sha256(f"{one.run_id} {two.run_id}".encode()).hexdigest()[:16]
    assert len({Pack(runs).pack_id for runs in [(one,), (two,), (one, two), (two, one)]}) == 4
