"""`KEY=VALUE` behind a spec."""

import shlex
from pathlib import Path

import pytest

from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import load
from sweeps.spec.model import Spec
from sweeps.spec.overrides import apply_overrides

TEXT = """\
name: demo
experiment: life_state
base: {channels: 20, rnn: true}
cells:
  - {gol: 2, ae: true, runs: 2}
  - {gol: 3, ae: true, rnn: true}
grid: {step_layers: [4, 5]}
zip: {enc_layers: [1, 2], dec_layers: [1, 2]}
exclude: [{channels: 20, gol: 3, enc_layers: 2}]
sample: {lr: {choice: [1e-3, 2e-3]}}
launcher: {timeout_min: 60}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with a spec and with one of two experiments."""
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text(TEXT)
    Path("state.yaml").write_text("experiment: life_state\ncells: [{gol: 2, runs: 2}]\n")
    Path("count.yaml").write_text("experiment: life_count\ncells: [{gol: 2, runs: 3}]\n")
    Path("two.yaml").write_text("include: [state.yaml, count.yaml]\n")


@pytest.fixture
def spec() -> Spec:
    return load("demo.yaml")


@pytest.fixture
def two() -> Spec:
    return load("two.yaml")


def values(spec: Spec, key: str) -> list[object]:
    return list(dict.fromkeys(run.config[key] for run in expand(spec).runs))


def test_the_command_line_is_above_base_and_cells(spec: Spec) -> None:
    assert apply_overrides(spec, []) == spec
    assert values(apply_overrides(spec, ["channels=32"]), "channels") == [32]
    # `rnn` stands in base and in one cell with the same value: not varied, and replaced in both.
    assert values(apply_overrides(spec, ["rnn=false"]), "rnn") == [False]
    assert values(apply_overrides(spec, ["clip=1"]), "clip") == [1.0]


def test_the_preset_can_be_chosen(spec: Spec) -> None:
    changed = apply_overrides(spec, ["preset=paper_bce"])
    assert (values(changed, "preset"), values(changed, "board")) == (["paper_bce"], [20])


@pytest.mark.parametrize("override", ["channels=20,32", "channels=choice(20,32)", "channels=range(20,33,12)"])
def test_several_values_add_an_axis(spec: Spec, override: str) -> None:
    changed = apply_overrides(spec, [override])
    assert values(changed, "channels") == [20, 32]
    assert expand(changed).cells[0].columns["channels"] == 20
    # 2 cells x 2 x 2 without the excluded (gol 3, enc 2) pair: 6 at 20 channels, and all 8 at 32.
    assert len(expand(changed).cells) == 14


def test_values_are_hydras_and_an_axis_replaces_a_cells_own_value(spec: Spec) -> None:
    changed = apply_overrides(spec, ["max_steps=1e4", "schedule='constant'", "ae=true,false"])
    assert (values(changed, "max_steps"), values(changed, "schedule")) == ([10_000], ["constant"])
    assert values(changed, "ae") == [True, False]


def test_runs_and_seeds_replace_what_the_spec_says(spec: Spec) -> None:
    def seeds(*overrides: str) -> list[object]:
        return [run.config["seed"] for run in expand(apply_overrides(spec, overrides)).cells[0].runs]

    assert seeds() == [0, 1]
    assert seeds("runs=3") == [0, 1, 2]
    assert seeds("seeds=5") == [0, 1, 2, 3, 4]
    assert seeds("seeds=[4,2]") == [4, 2]
    assert seeds("seeds={start:3,stop:6}") == [3, 4, 5]
    assert seeds("seeds.start=7") == [7, 8]


def test_the_launcher_is_chosen_and_set(spec: Spec) -> None:
    overrides = [
        "launcher=slurm",
        "launcher.partition=gpu",
        "launcher.timeout_min=90",
        "launcher.additional_parameters.gres=gpu:1",
        "launcher.setup=[module load cuda]",
    ]
    assert apply_overrides(spec, overrides).launcher == {
        "name": "slurm",
        "partition": "gpu",
        "timeout_min": 90,
        "additional_parameters": {"gres": "gpu:1"},
        "setup": ["module load cuda"],
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("launcher.setup=[export A=b]", 'launcher.setup=["export A=b"]'),
        ("launcher.setup=[module load a, A=$B && c]", 'launcher.setup=["module load a", "A=$B && c"]'),
        ("launcher.setup=['export A=b',export C=d]", "launcher.setup=['export A=b', \"export C=d\"]"),
        ("launcher.comment=a=b", 'launcher.comment="a=b"'),
    ],
)
def test_text_that_needs_quotes_is_shown_with_them(spec: Spec, given: str, shown: str) -> None:
    with pytest.raises(SpecError) as raised:
        apply_overrides(spec, [given])
    assert str(raised.value).endswith(f"; put text in quotes: {shlex.quote(shown)}")
    apply_overrides(spec, [shown])  # and so it works


def test_an_exclusion_that_an_override_empties_is_no_error(spec: Spec) -> None:
    assert len(expand(spec).cells) == 6
    assert len(expand(apply_overrides(spec, ["channels=32"])).cells) == 8


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("demo", ["gol=4"], ": demo varies gol (2, 3); change the spec"),
        ("demo", ["step_layers=3"], ": demo.yaml varies step_layers (in grid); chan"),
        ("demo", ["step_layers=3,4"], ": demo.yaml varies step_layers (in grid)"),
        ("demo", ["enc_layers=3"], ": demo.yaml varies enc_layers (in zip)"),
        ("demo", ["lr=1e-3"], ": demo.yaml varies lr (in sample)"),
        ("demo", ["chanels=3"], ": unknown key 'chanels' (did you mean 'channels'?); va"),
        ("demo", ["channels=many"], ": channels: 'many' is not an integer"),
        ("demo", ["channels=0"], ": channels: 0 is below 1"),
        ("demo", ["channels=20,x"], ": channels: 'x' is not an integer"),
        ("demo", ["channels=[20,32]"], ": channels: [20, 32] is not an integer"),
        ("demo", ["channels=4,4"], ": channels: 4 appears twice; remove one"),
        ("demo", ["channels=4,8,4.0"], ": channels: 4 appears twice"),
        ("demo", ["channels=null"], ": channels: nothing is not an integer"),
        ("demo", [f"channels={10**309}"], f": channels: 1{'0' * 56}... is not an integer"),
        ("demo", ["preset=fst"], ": unknown preset 'fst' of life_state (did you mean 'fast'?)"),
        ("demo", ["experiment=chess"], ": the experiment cannot be changed"),
        ("demo", ["seed=3"], ": seed: give the seeds under `seeds:`"),
        ("demo", ["seeds=1,2"], ": takes one value (a list is written [1,2])"),
        ("demo", ["seeds.begin=1"], ": seeds: {begin: 1} is not {start: K}"),
        ("demo", ["runs=0"], ": runs: 0 is below 1"),
        ("demo", ["runs=2", "seeds=3"], ": give `runs` or `seeds`, not both"),
        ("demo", ["clip=1", "clip=2"], ": clip is given twice"),
        ("demo", ["+clip=1"], ": write KEY=VALUE without '+', '~' and '@'"),
        ("demo", ["~clip"], ": write KEY=VALUE"),
        ("demo", ["clip@x=1"], ": write KEY=VALUE"),
        ("demo", ["clip"], " is not KEY=VALUE in Hydra's grammar: "),
        ("demo", ["clip=[1"], " is not KEY=VALUE in Hydra's grammar: "),
        ("demo", ["clip=interval(1,2)"], ": gives no values; an axis is a list such as 20,32 or range(1,5)"),
        ("demo", ["clip=glob(*)"], ": gives no values"),
        ("demo", ["clip=range(5,1)"], ": gives no values"),
        ("demo", ["clip=range(1,5,0)"], ": gives no values"),
        ("demo", ["launcher=pbs"], ": launcher: 'pbs' is not one of local, slurm"),
        ("demo", ["launcher.partitoin=a"], ": unknown launcher key 'partitoin' (did you mean 'partition'?)"),
        ("demo", ["launcher.mem_gb=-1"], ": launcher.mem_gb: -1 is not a whole number from 1"),
        ("demo", ["launcher.nodes=2"], ": launcher.nodes: 2 is not 1"),
        ("demo", ["launcher.qos.x=2"], ": launcher.qos is one value"),
        ("demo", ["launcher.qos=a,b"], ": takes one value"),
        ("demo", ["grid.gol=[1]"], ": unknown key 'grid.gol'"),
        (
            "two",
            ["preset=paper_bce"],
            ": life_count: unknown preset 'paper_bce' of life_count (did you mean 'paper'?)",
        ),
        ("two", ["gan=none,joint"], ": life_count: gan: 'joint' is not one of none"),
        ("two", ["lstm_layers=3"], ": life_state: unknown key 'lstm_layers'"),
        ("two", ["chanels=3"], ": unknown key 'chanels' (did you mean 'channels'?)"),
        ("two", ["life_state.chanels=3"], ": unknown key 'chanels' (did you"),
        ("two", ["life_count.gol=3", "gol=3"], ": gol is given twice"),
        ("two", ["gol=3", "life_count.gol=3"], ": gol is given twice"),
        ("two", ["life_count.runs=3", "seeds=3"], ": give `runs` or `seeds`, not both"),
        ("two", ["life_count.launcher=slurm"], ": all runs share one la"),
        ("two", ["life_state=3"], ": unknown key 'life_state'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_wrong_override_is_one_line(name: str, overrides: list[str], expected: str) -> None:
    spec = load(f"{name}.yaml")
    with pytest.raises(SpecError) as caught:
        apply_overrides(spec, overrides)
    assert str(caught.value).startswith(f"override '{overrides[-1]}'{expected}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "override", "expected"),
    [
        ("base: {kernel: 3}", "kernel=4", "override 'kernel=4': kernel: 4 is even"),
        ("runs: 1", "kernel=4", "override 'kernel=4': kernel: 4 is even"),
        ("cells: [{kernel: 3}]", "kernel=4", "override 'kernel=4': cell kernel=4: kernel: 4 is even"),
        ("cells: [{kernel: 3}]", "kernel=5,4", "override 'kernel=5,4': cell kernel=4: kernel: 4 is even"),
        ("base: {kernel: 4}", "channels=2", "s.yaml:2: kernel: 4 is even"),
    ],
)
def test_a_contradiction_names_the_override_that_makes_it(text: str, override: str, expected: str) -> None:
    Path("s.yaml").write_text(f"experiment: life_state\n{text}\n")
    with pytest.raises(SpecError) as caught:
        expand(apply_overrides(load("s.yaml"), [override]))
    assert str(caught.value).startswith(expected)


def test_an_override_can_be_meant_for_one_experiment(two: Spec) -> None:
    def said(key: str, *overrides: str) -> list[object]:
        return [cell.runs[0].config[key] for cell in expand(apply_overrides(two, overrides)).cells]

    assert said("batch", "life_count.batch=7", "life_state.batch=9") == [9, 7]
    assert said("preset", "life_state.preset=paper_bce", "life_count.preset=paper") == ["paper_bce", "paper"]
    assert said("gan", "life_count.gan=none,posthoc") == ["none", "none", "posthoc"]
    changed = expand(apply_overrides(two, ["life_state.runs=1", "batch=5"]))
    assert [len(cell.runs) for cell in changed.cells] == [1, 3]
    assert values(apply_overrides(two, ["batch=5"]), "batch") == [5]  # both know this key


def test_an_experiment_that_the_spec_has_not_and_one_that_refuses_a_value(spec: Spec, two: Spec) -> None:
    with pytest.raises(SpecError, match=r"; life_state\.preset=paper_bce is for life_state alone$"):
        apply_overrides(two, ["preset=paper_bce"])
    with pytest.raises(SpecError, match=r"demo has no cells of life_count; leave 'life_count\.' out"):
        apply_overrides(spec, ["life_count.gol=3"])
    assert values(apply_overrides(spec, ["life_state.clip=3"]), "clip") == [3.0]


def test_a_key_is_varied_only_among_the_experiments_that_have_it(two: Spec) -> None:
    assert values(apply_overrides(two, ["life_state.ae=false"]), "gol") == [2]
    Path("state.yaml").write_text("experiment: life_state\ncells: [{ae: false}, {ae: true}]\n")
    with pytest.raises(SpecError, match=r"two varies ae \(false, true\); change the spec"):
        apply_overrides(load("two.yaml"), ["ae=true"])


def test_a_spec_of_fixed_seeds_takes_no_runs() -> None:
    path = Path("s.yaml")
    path.write_text("experiment: life_state\nseeds: [4, 5]\n")
    with pytest.raises(SpecError, match="fixes its seeds; override `seeds`"):
        apply_overrides(load(path), ["runs=3"])
    with pytest.raises(SpecError, match="fixes its seeds"):
        apply_overrides(load(path), ["seeds.start=3"])
    assert [run.config["seed"] for run in expand(apply_overrides(load(path), ["seeds=1"])).runs] == [0]


def test_a_key_that_tells_included_files_apart_is_varied() -> None:
    for name, channels in (("a", 8), ("b", 16)):
        text = f"experiment: life_state\nbase: {{channels: {channels}, clip: 2}}\nseeds: 2\n"
        Path(f"{name}.yaml").write_text(text)
    Path("both.yaml").write_text("include: [a.yaml, b.yaml]\n")
    spec = load("both.yaml")
    with pytest.raises(SpecError, match=r"both varies channels \(8, 16\); change the spec"):
        apply_overrides(spec, ["channels=32"])
    assert values(apply_overrides(spec, ["clip=3"]), "clip") == [3.0]
    Path("a.yaml").write_text("experiment: life_state\nbase: {gol: 5}\n")  # b: the default, 3
    changed = load("both.yaml")
    with pytest.raises(SpecError, match="both varies gol"):
        apply_overrides(changed, ["gol=4"])
