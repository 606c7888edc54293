"""The sweeps that were launched: a spec comes back from the text that the store keeps of its launch."""

import pytest
from sweep_helpers import small, write_spec

from results_db.contract import NewSweep
from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import apply_overrides, load, shipped
from sweeps.spec.stored import find, launched, recompose

EVERYTHING = """
experiment: life_state
base: {channels: 4}
cells: [{gol: 1}, {gol: 2, runs: 4}, {gol: 2, ae: false}]
grid: {step_layers: [1, 3]}
zip: {batch: [4, 8], board: [6, 7]}
exclude: [{ae: false, batch: 4}]
sample: {lr: {loguniform: [1.0e-4, 1.0e-2]}, kernel: {choice: [1, 3]}}
seeds: {start: 7}
launcher: {name: slurm, timeout_min: 5, additional_parameters: {nice: 10}}
"""


def launch(store, spec):
    store.stage(expand(spec).runs, sweep=NewSweep(spec.name, spec.composed))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_spec_comes_back(name) -> None:
    spec = load(name)
    back = recompose(spec.composed)
    assert expand(back) == expand(spec)
    assert (back.name, back.launcher) == (spec.name, spec.launcher)


@pytest.mark.parametrize("seeds", [[], ["seeds=3"], ["seeds=[5,1]"], ["seeds.start=9"]])
def test_everything_that_a_spec_can_say_comes_back(tmp_path, seeds) -> None:
    (tmp_path / "s.yaml").write_text(EVERYTHING)
    # A fixed set of seeds goes with no `runs`, so these are taken out there.
    if seeds and "start" not in seeds[0]:
        (tmp_path / "s.yaml").write_text(EVERYTHING.replace(", runs: 4", ""))
    spec = apply_overrides(load(tmp_path / "s.yaml"), ["max_steps=300", "clip=0.5,1.0", *seeds])
    back = recompose(spec.composed)
    assert expand(back) == expand(spec)
    assert back.launcher == spec.launcher
    assert back.composed == spec.composed


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"name": "s", "parts": [{}], "launcher": {}}'])
def test_what_is_no_spec_is_refused(text) -> None:
    with pytest.raises(ValueError):
        recompose(text)


def test_every_text_of_a_launch_is_there_once_and_the_last_launched_is_last(store) -> None:
    one, two, other = NewSweep("a", "1"), NewSweep("a", "2"), NewSweep("b", "1")
    assert store.launches() == []
    for sweep in (one, other, two, one):
        store.stage([small()], sweep=sweep)
    assert store.launches() == [other, two, one]


def test_launches_of_one_name_are_one_sweep(store, tmp_path) -> None:
    spec = load(write_spec(tmp_path, runs=2))
    for overrides in (["channels=4"], ["channels=6", "launcher.cpus_per_task=2"], ["channels=4", "runs=5"]):
        launch(store, apply_overrides(spec, overrides))
    found = launched(store)
    ((united, expansion),) = found.sweeps
    assert found.unreadable == []
    assert united.name == "s"
    # Of the cell that was launched twice the larger number counts; the launcher is that of the last launch.
    assert [(cell.columns, cell.wanted, len(cell.runs)) for cell in expansion.cells] == [
        ({"channels": 4}, 5, 5),
        ({"channels": 6}, 2, 2),
    ]
    assert united.launcher == {}
    # What is launched of it anew adds nothing, however often.
    launch(store, united)
    launch(store, launched(store).sweeps[0][0])
    assert launched(store).sweeps == [(united, expansion)]


def test_a_text_that_cannot_be_read_is_named_and_the_others_are_there(store, tmp_path) -> None:
    spec = load(write_spec(tmp_path))
    launch(store, spec)
    # A key that this version does not know, as after a downgrade.
    for name, text in (("old", ""), ("new", spec.composed.replace('"channels"', '"chanels"'))):
        store.stage([small()], sweep=NewSweep(name, text))
    found = launched(store)
    assert [sweep.name for sweep, _ in found.sweeps] == ["s"]
    assert sorted(found.unreadable) == ["new", "old"]


def test_a_sweep_is_found_by_its_name(store, tmp_path) -> None:
    with pytest.raises(SpecError, match="launched into this store: nothing"):
        find(store, "s")
    spec = load(write_spec(tmp_path))
    launch(store, spec)
    assert find(store, "s") == launched(store).sweeps[0][0]
    store.stage([small()], sweep=NewSweep("old", "{}"))
    with pytest.raises(SpecError, match="launched into this store: s, old"):
        find(store, "t")
    with pytest.raises(SpecError, match="the text that was launched as old is of another version"):
        find(store, "old")
