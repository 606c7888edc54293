"""The sweeps that were launched: a spec comes back from the text that the store keeps of its launch."""

from functools import partial

import pytest
from sweep_helpers import drawn_twice, small, staged_launch, write_spec

from results_db.contract import NewSweep
from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import expand_spec, load, shipped
from sweeps.spec.overrides import apply_overrides
from sweeps.spec.stored import find_spec, find_sweep, recompose, sweeps_of

EVERYTHING = """
experiment: life_state
base: {channels: 4}
cells: [{gol: 1}, {gol: 2}, {gol: 2, ae: false}]
grid: {step_layers: [1, 3]}
zip: {batch: [4, 8], board: [6, 7]}
exclude: [{ae: false, batch: 4}]
sample: {lr: {loguniform: [1.0e-4, 1.0e-2]}, kernel: {choice: [1, 3]}}
seeds: {start: 7}
launcher: {name: slurm, timeout_min: 5, additional_parameters: {nice: 10}}
"""

STORED = (
    '{"name": "old", "launcher": {"name": "slurm"}, "parts": [{"file": "old.yaml", "experiment": "life_state", '
    '"preset": "fast", "base": {"channels": 8}, "rows": [{"values": {"gol": 2}, "runs": 3, "line": 4, '
    '"said": {"gol": "old.yaml:4"}}], "grid": {"clip": [1.0, 2.0]}, "zipped": {}, "exclude": [{"values": '
    '{"clip": 2.0}, "line": 6}], "sample": {}, "seeds": {"start": 5, '
    '"fixed": null}, "runs": 1, "said": {"channels": "override \'channels=8\'"}, "overridden": ["channels"], '
    '"mistakes": []}]}'
)
"""A text as stores hold it since the first version."""


def launch(store, spec):
    store.stage(expand(spec).runs, sweep=NewSweep(spec.name, spec.composed))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_spec_comes_back(name) -> None:
    spec = load(name)
    back = recompose(spec.composed)
    assert expand(back) == expand(spec)
    assert (back.name, back.launcher) == (spec.name, spec.launcher)


@pytest.mark.parametrize("seeds", [[], ["runs=4"], ["seeds=3"], ["seeds=[5,1]"], ["seeds.start=9"]])
def test_everything_that_a_spec_can_say_comes_back(tmp_path, seeds) -> None:
    (tmp_path / "s.yaml").write_text(EVERYTHING)
    spec, expansion = expand_spec(tmp_path / "s.yaml", ["max_steps=300", "clip=0.5,1.0", *seeds])
    back = recompose(spec.composed)
    assert expand(back) == expansion
    assert back.launcher == spec.launcher
    assert back.composed == spec.composed


def test_a_text_of_an_older_store_is_read() -> None:
    (cell,) = expand(recompose(STORED)).cells
    assert cell.columns == {"gol": 2, "clip": 1.0}
    assert (cell.config["channels"], cell.wanted) == (8, 3)
    assert [run.config["seed"] for run in cell.runs] == [5, 6, 7]


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"name": "s", "parts": [{}], "launcher": {}}'])
def test_what_is_no_spec_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"not a composed spec|Expecting value"):
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
    ((united, expansion),) = sweeps_of(store, None, [], report=pytest.fail)
    assert united.name == "s"
    # Of the cell that was launched twice the larger number counts; the launcher is that of the last launch.
    assert [(cell.columns, cell.wanted, len(cell.runs)) for cell in expansion.cells] == [
        ({"channels": 4}, 5, 5),
        ({"channels": 6}, 2, 2),
    ]
    assert united.launcher == {}
    # Launching it again adds nothing.
    for _ in range(2):
        launch(store, united)
        assert sweeps_of(store, None, [], report=pytest.fail) == [(united, expansion)]


def test_a_sweep_is_found_by_its_name_and_a_text_that_cannot_be_read_is_left_out(store, tmp_path) -> None:
    with pytest.raises(SpecError, match=r"no spec s; .*launched into this store: nothing"):
        find_sweep(store, "s", report=pytest.fail)
    spec = load(write_spec(tmp_path))
    launch(store, spec)
    # A key that this version does not know, as after a downgrade.
    for name, text in (("old", "{}"), ("new", spec.composed.replace('"channels"', '"chanels"'))):
        store.stage([small()], sweep=NewSweep(name, text))
    left_out: list[str] = []
    (found,) = sweeps_of(store, None, [], report=left_out.append)
    assert find_sweep(store, "s", report=pytest.fail) == found == (recompose(spec.composed), expand(spec))
    assert sorted(line.partition(":")[0] for line in left_out) == ["new", "old"]
    assert len(find_spec(store, "s", ["batch=8,4"], report=print)[1].cells) == 2
    with pytest.raises(SpecError, match="launched into this store: s, old, new"):
        find_spec(store, "t", report=print)
    with pytest.raises(SpecError, match="another version stored the spec of the sweep old"):
        find_spec(store, "old", report=print)


@pytest.mark.parametrize("overrides", [["runs=1"], ["channels=5"], ["launcher.timeout_min=7"]])
def test_without_overrides_a_spec_means_the_sweep_as_it_was_launched(store, tmp_path, overrides) -> None:
    path = write_spec(tmp_path)
    launched = apply_overrides(load(path), overrides)
    launch(store, launched)
    said: list[str] = []
    found, expansion = find_sweep(store, str(path), report=said.append)
    assert (found.launcher, expansion) == (launched.launcher, expand(launched))
    # Where the runs are the same there is nothing to say; the launcher is that of the launch all the same.
    assert [f"imagine-sweep plan {path}" in line for line in said] == [True] * (
        "launcher" not in overrides[0]
    )
    for find in (partial(find_spec, report=pytest.fail), partial(find_sweep, report=pytest.fail)):
        assert find(store, str(path), ["runs=3"]) == expand_spec(path, ["runs=3"])
    assert find_spec(store, str(path), report=print) == expand_spec(path)


def test_of_several_launches_that_of_the_spec_as_it_is_counts(store, tmp_path) -> None:
    """The others were trials; a top-up must not train more of them. The launcher is that of the last launch."""
    path = write_spec(tmp_path)
    spec = load(path)
    trial = apply_overrides(spec, ["channels=5"])
    launch(store, trial)
    launch(store, apply_overrides(spec, ["channels=6"]))
    _, together = find_sweep(store, str(path), report=lambda _: None)
    assert [cell.columns for cell in together.cells] == [{"channels": 5}, {"channels": 6}]
    launch(store, spec)
    launch(store, apply_overrides(trial, ["launcher.timeout_min=7"]))
    said: list[str] = []
    found, expansion = find_sweep(store, str(path), report=said.append)
    assert (expansion, found.launcher, found.overridden) == (expand(spec), {"timeout_min": 7}, ())
    (line,) = said
    assert "other launches wanted other runs" in line


def test_a_launch_that_this_version_cannot_read_leaves_the_spec_itself(store, tmp_path) -> None:
    path = write_spec(tmp_path)
    store.stage([small()], sweep=NewSweep("s", "{}"))
    assert find_sweep(store, str(path), report=pytest.fail) == expand_spec(path)


def test_a_launch_is_also_one_of_each_spec_that_it_includes(store, tmp_path) -> None:
    """A run that two of them want belongs to both, also where one of them draws what the other one says."""
    drawn_twice(tmp_path)
    staged_launch(store, load(tmp_path / "both.yaml"))
    members = {name: store.members([name], overridden=[]) for name in ("both", "plain", "drawn")}
    (run,) = members["both"]
    assert members == {"both": {run}, "plain": {run}, "drawn": {run}}


def test_what_the_command_line_overrides_counts_for_included_specs_as_well(store, tmp_path) -> None:
    drawn_twice(tmp_path)
    staged_launch(store, apply_overrides(load(tmp_path / "both.yaml"), ["batch=4", "max_steps=20"]))
    assert {sweep.name: sweep.overridden for sweep in store.launches()} == dict.fromkeys(
        ("both", "plain", "drawn"), ("batch", "max_steps")
    )


def test_listings_leave_included_sweeps_out_unless_they_have_cells_of_their_own(store, tmp_path) -> None:
    def listed() -> list[str]:
        return [spec.name for spec, _ in sweeps_of(store, None, [], report=pytest.fail)]

    drawn_twice(tmp_path)
    staged_launch(store, load(tmp_path / "both.yaml"))
    assert listed() == ["both"]
    staged_launch(store, load(tmp_path / "plain.yaml"))
    assert listed() == ["both"]
    staged_launch(store, apply_overrides(load(tmp_path / "plain.yaml"), ["runs=2"]))
    assert listed() == ["both", "plain"]  # which has a run more now


def test_what_an_earlier_version_launched_stays_so_when_it_is_launched_again(store) -> None:
    staged_launch(store, recompose(STORED))
    assert store.launches()[0].overridden is None
    assert store.members(["old"], overridden=["channels"]) == set()


def test_draws_of_an_earlier_version_are_not_drawn_anew(tmp_path) -> None:
    text = STORED.replace('"sample": {}', '"sample": {"lr": {"kind": "choice", "values": [0.001]}}')
    with pytest.raises(ValueError, match="drew other values"):
        recompose(text)


def test_a_launch_is_taken_back_with_the_specs_that_it_includes(store, tmp_path) -> None:
    drawn_twice(tmp_path)
    staged_launch(store, load(tmp_path / "both.yaml")).forget()
    assert store.launches() == []


def test_the_content_of_a_spec_is_the_same_however_often_and_with_how_many_runs_it_was_launched(
    store, tmp_path
) -> None:
    """Else `compare` would drop the earlier runs after a top-up."""
    path = write_spec(tmp_path)
    for overrides in ([], ["runs=1"], ["runs=7"]):
        staged_launch(store, apply_overrides(load(path), overrides))
    ((united, _),) = sweeps_of(store, None, [], report=pytest.fail)
    found, _ = find_sweep(store, str(path), report=lambda _: None)
    assert {united.content, found.content} == {load(path).content}
    staged_launch(store, united)
    assert len(store.members(["s"], overridden=[])) == 7


def test_launches_that_override_one_key_with_different_values_do_not_hide_each_other(store, tmp_path) -> None:
    """As of the learning order, once with the post-hoc adversary and once with none. A changed file does."""
    path = write_spec(tmp_path, runs=2)
    launches = [["batch=4"], ["batch=8"], ["batch=5,6"]]
    for overrides in launches:
        staged_launch(store, apply_overrides(load(path), overrides))
    assert len(store.members(["s"], overridden=["batch"])) == 2 + 2 + 4
    write_spec(tmp_path, runs=2, channels=5)
    staged_launch(store, apply_overrides(load(path), ["batch=4"]))
    assert len(store.members(["s"], overridden=["batch"])) == 2


@pytest.mark.parametrize("name", ["s", "table1"])
def test_a_file_that_a_name_does_not_mean_is_named(store, tmp_path, monkeypatch, name) -> None:
    """`launch s` trains the sweep as launched, and `launch table1` the spec that ships; the user may mean the file."""
    monkeypatch.chdir(tmp_path)
    write_spec(tmp_path, name=name)
    launch(store, load(f"{name}.yaml"))
    if name == "s":  # the file is as it was launched
        find_spec(store, name, report=pytest.fail)
    write_spec(tmp_path, name=name, channels=41)
    said: list[str] = []
    _, expansion = find_spec(store, name, report=said.append)
    assert all(run.config["channels"] != 41 for run in expansion.runs)
    assert len(said) == 1
    assert f"{name}.yaml" in said[0]
    _, expansion = find_spec(store, f"{name}.yaml", report=pytest.fail)
    assert {run.config["channels"] for run in expansion.runs} == {41}


def test_an_override_of_the_launcher_does_not_lose_the_launched_one(store, tmp_path) -> None:
    path = write_spec(tmp_path)
    launch(store, apply_overrides(load(path), ["launcher=slurm", "launcher.timeout_min=9"]))
    found, expansion = find_sweep(store, str(path), ["launcher.mem_gb=16"], report=pytest.fail)
    assert found.launcher == {"name": "slurm", "timeout_min": 9, "mem_gb": 16}
    assert expansion == expand(load(path))
