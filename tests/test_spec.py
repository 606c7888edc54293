"""Reading a spec: what it says, and one line for everything that can be wrong with it."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import find, load, shipped
from sweeps.spec.model import Row, Seeds
from sweeps.spec.sample import Distribution

HEAD = "experiment: life_state\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "s.yaml") -> str:
    (folder / name).write_text(text)
    return name


def test_the_designs_example(folder: Path) -> None:
    name = write(
        folder,
        """\
name: table3
experiment: life_state
preset: paper_bce
base: {gan: none, channels: 20}
cells:
  - {gol: 2, model_t: 3, runs: 16}
  - {gol: 3, model_t: 3, rnn: false}
grid: {step_layers: [5]}
zip: {enc_layers: [1, 2], dec_layers: [3, 4]}
exclude: [{enc_layers: 2, gol: 2}]
sample: {lr: {loguniform: [5.0e-4, 2e-3]}}
seeds: {start: 7}
runs: 3
launcher: {timeout_min: 120, setup: [module load cuda]}
""",
    )
    spec = load(name)
    (part,) = spec.parts
    assert (spec.name, part.file) == ("table3", "s.yaml")
    assert (part.experiment, part.preset) == ("life_state", "paper_bce")
    assert part.base == {"gan": "none", "channels": 20}
    one, two = {"gol": 2, "model_t": 3}, {"gol": 3, "model_t": 3, "rnn": False}
    assert part.rows == [
        Row(one, 16, 6, dict.fromkeys(one, "s.yaml:6")),
        Row(two, None, 7, dict.fromkeys(two, "s.yaml:7")),
    ]
    assert (part.grid, part.zipped) == ({"step_layers": [5]}, {"enc_layers": [1, 2], "dec_layers": [3, 4]})
    assert part.exclude[0].values == {"enc_layers": 2, "gol": 2}
    assert part.sample == {"lr": Distribution("loguniform", [5e-4, 2e-3])}
    assert (part.seeds, part.runs) == (Seeds(start=7), 3)
    assert part.axes == ["gol", "model_t", "rnn", "step_layers", "enc_layers", "dec_layers"]
    assert spec.launcher == {"timeout_min": 120, "setup": ["module load cuda"]}


def test_what_a_spec_leaves_out(folder: Path) -> None:
    spec = load(write(folder, HEAD, "my-spec.yaml"))
    (part,) = spec.parts
    assert (spec.name, part.preset, part.seeds, part.runs) == ("my-spec", "fast", Seeds(start=0), 1)
    assert part.rows == [Row({}, None, 1, {})]


def test_a_name_has_up_to_200_characters(folder: Path) -> None:
    assert load(write(folder, f"{HEAD}name: {'a' * 200}")).name == "a" * 200
    name = write(folder, HEAD, f"{'a' * 201}.yaml")
    with pytest.raises(SpecError, match=r"is not 1 to 200 letters.*; give the spec a `name:`$"):
        load(name)


def test_numbers_are_yaml_1_2_and_anchors_and_merges_are_read(folder: Path) -> None:
    text = HEAD + "base: &b {lr: 1e-3, max_steps: 1e4, clip: 1}\ncells:\n  - {<<: *b, gol: 2}\n"
    (part,) = load(write(folder, text)).parts
    assert part.base == {"lr": 0.001, "max_steps": 10_000, "clip": 1.0}
    assert [type(value) for value in part.base.values()] == [float, int, float]
    assert part.rows[0].values == {**part.base, "gol": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", Seeds(fixed=range(4))),
        ("[3, 1]", Seeds(fixed=[3, 1])),
        ("{start: 2, stop: 5}", Seeds(start=2, fixed=range(2, 5))),
        ("{stop: 5}", Seeds(fixed=range(5))),
        ("{start: 2}", Seeds(start=2)),
    ],
)
def test_seeds(folder: Path, text: str, expected: Seeds) -> None:
    (part,) = load(write(folder, f"{HEAD}seeds: {text}")).parts
    assert part.seeds == expected


# Line 1 is `experiment: life_state`; what follows starts on line 2.
WRONG = [
    ("chanels: 3", "s.yaml:2: unknown key 'chanels' (did you mean 'channels'?); valid: name, experiment, pr"),
    ("grids: {}", "s.yaml:2: unknown key 'grids' (did you mean 'grid'?); valid: name,"),
    ("gol: 3", "s.yaml:2: unknown key 'gol'; valid: name, experiment"),
    ("preset: fst", "s.yaml:2: unknown preset 'fst' of life_state (did you mean 'fast'?); valid presets: fa"),
    ("preset: 3", "s.yaml:2: preset: 3 is not a word"),
    ("base:\n  chanels: 3", "s.yaml:3: unknown key 'chanels' (did you mean 'channels'?); valid keys: experi"),
    ("cells:\n  - {gol: 2}\n  - {gool: 2}", "s.yaml:4: unknown key 'gool' (did you mean 'gol'?)"),
    ("grid:\n  gol: [1]\n  lrr: [1]", "s.yaml:4: unknown key 'lrr' (did you mean 'lr'?)"),
    ("base: {preset: fst}", "s.yaml:2: unknown preset 'fst' of life_state"),
    ("base: {gol: three}", "s.yaml:2: gol: 'three' is not an integer"),
    ("base: {gol: 2.5}", "s.yaml:2: gol: 2.5 is not an integer"),
    ("base: {rnn: no}", "s.yaml:2: rnn: 'no' is not true or false"),
    ("base: {lr: }", "s.yaml:2: lr: nothing is not a number"),
    ("base: {lr: .nan}", "s.yaml:2: lr: nan is not a number"),
    ("base: {lr: .inf}", "s.yaml:2: lr: inf is not a number"),
    ("base: {rnn: 0}", "s.yaml:2: rnn: 0 is not true or false"),
    ("base:\n\tgol: 1", "s.yaml:3: YAML syntax"),
    ("experiment: life_state", "s.yaml:2: YAML syntax: found duplicate key"),
    ("launcher: {cpus_per_task: all}", "s.yaml:2: launcher.cpus_per_task: 'all' is not a whole number"),
    ("launcher: {cpus_per_task: 0}", "s.yaml:2: launcher.cpus_per_task: 0 is not a whole number"),
    ("base: {gan: 2020-01-01}", "s.yaml:2: gan: 2020-01-01 is not a word"),
    (f"base: {{lr: {10**309}}}", f"s.yaml:2: lr: 1{'0' * 56}... is not a number"),
    (f"base: {{gol: 0x{'f' * 5000}}}", f"s.yaml:2: gol: 0x{'f' * 55}... is not an integer"),
    ("base: {gol: [1, 2]}", "s.yaml:2: gol: [1, 2] is a list; write axes under `grid:`"),
    ("base: {gol: {a: 1}}", "s.yaml:2: gol: "),
    ("base: []", "s.yaml:2: base: [] is not a mapping of keys to values"),
    ("base: {3: 4}", "s.yaml:2: base: the key 3 is not a word"),
    ("base: {seed: 4}", "s.yaml:2: seed: give the seeds under `seeds:`"),
    ("base: {runs: 4}", "s.yaml:2: runs: give it in a cell, or at the top"),
    ("base: {experiment: life_state}", "s.yaml:2: experiment: give it at the top of the spec"),
    ("base: {gol: 0}", "s.yaml:2: gol: 0 is below 1"),
    ("cells: [{gol: 0}]", "s.yaml:2: gol: 0 is below 1"),
    ("grid: {model_t: [3, 0]}", "s.yaml:2: model_t: 0 is below 1"),
    ("cells: [{gol: 2, runs: 0}]", "s.yaml:2: runs: 0 is below 1"),
    ("cells: [{gol: 2, runs: two}]", "s.yaml:2: runs: 'two' is not an integer"),
    ("runs: -1", "s.yaml:2: runs: -1 is below 1"),
    ("runs: true", "s.yaml:2: runs: true is not an integer"),
    ("cells: []", "s.yaml:2: cells is an empty list"),
    ("cells:", "s.yaml:2: cells: nothing is not a list"),
    ("cells: {gol: 2}", "s.yaml:2: cells: {gol: 2} is not a list; write [{gol: 2}]"),
    ("cells:\n  - {gol: 2}\n  - 3", "s.yaml:4: a cell: 3 is not a mapping"),
    ("cells: [{}]", "s.yaml:2: a cell is empty"),
    ("grid: {}", "s.yaml:2: grid is empty"),
    ("grid: {gol: []}", "s.yaml:2: grid.gol is an empty list"),
    ("grid: {gol: 3}", "s.yaml:2: grid.gol: 3 is not a list; write [3]"),
    ("grid: {gan: none}", "s.yaml:2: grid.gan: 'none' is not a list; write ['none']"),
    ("grid: {gol: [2, 2]}", "s.yaml:2: grid.gol: 2 appears twice; remove one"),
    ("grid:\n  ae: [true]\n  rnn: [true, true]", "s.yaml:4: grid.rnn: true appears twice"),
    ("grid: {gol: [2, 3, 2.0]}", "s.yaml:2: grid.gol: 2 appears twice"),
    ("grid: {preset: [fast, fast]}", "s.yaml:2: grid.preset: 'fast' appears twice"),
    ("zip: {gol: [1, 1, 1], ae: [true, false, true]}", "s.yaml:2: zip (gol, ae): [1, true] appears twi"),
    ("zip: {gol: [1, 2], model_t: [1]}", "s.yaml:2: zip: lists of unequal length (gol has 2, model_t has 1)"),
    ("exclude: []", "s.yaml:2: exclude is an empty list"),
    ("exclude: [{}]", "s.yaml:2: exclude is empty"),
    ("exclude: [{glo: 3}]", "s.yaml:2: unknown key 'glo'"),
    ("seeds: []", "s.yaml:2: seeds is an empty list"),
    ("seeds: [1, a]", "s.yaml:2: seed: 'a' is not an integer"),
    ("seeds: [1, 2.5]", "s.yaml:2: seed: 2.5 is not an integer"),
    ("seeds: [true]", "s.yaml:2: seed: true is not an integer"),
    ("seeds: [-1]", "s.yaml:2: seed: -1 is below 0"),
    ("seeds: [1, 2, 1]", "s.yaml:2: seeds: 1 appears twice; remove one"),
    ("seeds: 0", "s.yaml:2: seeds: 0 is below 1"),
    ("seeds: five", "s.yaml:2: seeds: 'five' is not an integer"),
    ("seeds: {begin: 3}", "s.yaml:2: seeds: {begin: 3} is not {start: K} or {start: K, stop: L}"),
    ("seeds: {}", "s.yaml:2: seeds: {} is not {start: K}"),
    ("seeds: {start: 4, stop: 4}", "s.yaml:2: seeds: {start: 4, stop: 4} holds no seed"),
    ("runs: 3\nseeds: 3", "s.yaml:3: seeds: a count, list or range of seeds together with `runs`"),
    ("cells: [{gol: 2, runs: 3}]\nseeds: [1]", "s.yaml:3: seeds: a count, list or range of seeds together"),
    ("runs: 3\nseeds: {stop: 2}", "s.yaml:3: seeds: a count, list or range of seeds together with `runs`"),
    ("cells: [{gol: 2}]\ngrid: {gol: [3]}", "s.yaml:3: gol: varies in cells and in grid; keep one"),
    ("grid: {gol: [3]}\nzip: {gol: [3]}", "s.yaml:3: gol: varies in grid and in zip"),
    ("grid: {lr: [1]}\nsample: {lr: {uniform: [1, 2]}}", "s.yaml:3: lr: varies in grid and in sample"),
    ("exclude: [{lr: 1}]\nsample: {lr: {uniform: [1, 2]}}", "s.yaml:2: exclude: lr is drawn per seed"),
    ("sample: {lr: 3}", "s.yaml:2: sample.lr: 3 is not a mapping"),
    ("sample: {lr: {normal: [0, 1]}}", "s.yaml:2: unknown distribution 'normal' (did you mean 'uniform'?);"),
    ("sample: {lr: {uniform: [1, 2], choice: [3]}}", "s.yaml:2: sample.lr: give one distribution, not unif"),
    ("sample: {lr: {uniform: [2]}}", "s.yaml:2: sample.lr.uniform: [2] is not [low, high]"),
    ("sample: {lr: {uniform: [1, 2, 3]}}", "s.yaml:2: sample.lr.uniform: [1, 2, 3] is not [low, high]"),
    ("sample: {warmup: {loguniform: [0.5, 0]}}", "s.yaml:2: sample.warmup.loguniform: 0.0 has no logarithm"),
    ("sample: {lr: {loguniform: [0, 1]}}", "s.yaml:2: lr: 0.0 must be above 0"),
    ("sample: {lr: {randint: [1, 2]}}", "s.yaml:2: sample.lr: randint does not fit; use uniform, loguniform"),
    ("sample: {gol: {uniform: [1, 2]}}", "s.yaml:2: sample.gol: uniform does not fit; use randint or choice"),
    ("sample: {rnn: {randint: [true, false]}}", "s.yaml:2: sample.rnn: randint does not fit; use choice"),
    ("sample: {gol: {randint: [0, 2]}}", "s.yaml:2: gol: 0 is below 1"),
    ("sample: {seed: {randint: [0, 2]}}", "s.yaml:2: sample: seed cannot be drawn"),
    ("sample: {preset: {choice: [fast]}}", "s.yaml:2: sample: preset cannot be drawn"),
    ("launcher: {partitoin: gpu}", "s.yaml:2: unknown launcher key 'partitoin' (did you mean 'partition'?)"),
    ("launcher: {name: pbs}", "s.yaml:2: launcher: 'pbs' is not one of local, slurm"),
    ("launcher: pbs", "s.yaml:2: launcher: 'pbs' is not one of local, slurm"),
    ("launcher: {nodes: 2}", "s.yaml:2: launcher.nodes: 2 is not 1; a pack is one process"),
    ("launcher: {tasks_per_node: 2}", "s.yaml:2: launcher.tasks_per_node: 2 is not 1"),
    ("name: a/b", "s.yaml:2: name: 'a/b' is not 1 to 200 letters, digits, '.', '_' and '-', a letter or"),
    ("name: .a", "s.yaml:2: name: '.a' is not 1 to 200 letters"),
    ('name: "a\\nb"', "s.yaml:2: name: 'a b' is not 1 to 200 letters"),
    (f"name: {'a' * 201}", f"s.yaml:2: name: '{'a' * 56}... is not 1 to 200 letters"),
    ("name: 3", "s.yaml:2: name: 3 is not a word"),
    ("base: {gol: 2, gol: 3}", "s.yaml:2: YAML syntax: found duplicate key"),
    ("base: {gol: 2", "s.yaml:3: YAML syntax: "),
    ("base: a: b", "s.yaml:2: YAML syntax: mapping values are not allowed here"),
    ("base: *nowhere", "s.yaml:2: YAML syntax: found undefined alias"),
    ("---\nname: x", "s.yaml:2: YAML syntax: but found another document"),
    ("launcher: {setup: {2020-01-01: x}}", "s.yaml:2: launcher.setup: "),
    ("include: [s.yaml]", "s.yaml:2: include: s.yaml -> s.yaml is a cycle"),
    ("include: [none.yaml]", "s.yaml:2: include: no spec none.yaml"),
    ("include: quick", "s.yaml:2: include: 'quick' is not a list; write ['quick']"),
    ("include: [3]", "s.yaml:2: include: 3 is not a word"),
    ("include: [quick]", "s.yaml:1: experiment: has no effect, because included files keep"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text.replace("\n", " ")[:60] for text, _ in WRONG])
def test_a_wrong_spec_is_one_line_with_file_and_line(folder: Path, text: str, expected: str) -> None:
    name = write(folder, HEAD + text + "\n")
    with pytest.raises(SpecError) as caught:
        expand(load(name))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_every_wrong_cell_has_its_line_those_that_make_no_sense_among_them(folder: Path) -> None:
    text = (
        "cells:\n  - {gol: 0}\n  - {gol: 2}\n  - {gol: 3, chanels: 8}\n  - {gol: 4, runs: 0}\n  - {kernel: 4}\n"
        "exclude: [{gol: 4}]\n"  # it is for a wrong cell, and so not said to match nothing
    )
    with pytest.raises(SpecError) as caught:
        expand(load(write(folder, HEAD + text)))
    begins = [
        *("s.yaml:3: gol: 0 is below 1", "s.yaml:5: unknown key 'chanels'", "s.yaml:6: runs: 0 is below"),
        "s.yaml:7: cell kernel=4: kernel: 4 is even",
    ]
    assert len(caught.value.lines) == 4
    assert all(line.startswith(begin) for line, begin in zip(caught.value.lines, begins, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "s.yaml:1: the spec is empty"),
        ("# only words\n", "s.yaml:1: the spec is empty"),
        ("- 1\n", "s.yaml:1: the spec: [1] is not a mapping"),
        ("{}\n", "s.yaml:1: the spec is empty"),
        ("name: x\n", "s.yaml:1: experiment: missing; valid experiments: life_state"),
        ("experiment: life_stat\n", "s.yaml:1: unknown experiment 'life_stat' (did you mean 'life_state'?)"),
        ("experiment: [life_state]\n", "s.yaml:1: experiment: ['life_state'] is not a word"),
        ("a: \x00\n", "s.yaml: YAML syntax: unacceptable character #x0000"),
    ],
)
def test_a_spec_without_a_proper_head(folder: Path, text: str, expected: str) -> None:
    name = write(folder, text)
    with pytest.raises(SpecError) as caught:
        load(name)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bytes.yaml", r"^bytes\.yaml is not UTF-8 text"),
        (
            "quik.yaml",
            r"^no spec quik\.yaml \(did you mean 'quick'\?\); give a YAML file or a spec that ships",
        ),
        ("specs", r"^specs is a folder; name a YAML file in it"),
    ],
)
def test_a_name_that_is_no_spec_file(folder: Path, name: str, expected: str) -> None:
    (folder / "specs").mkdir()
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=expected):
        load(name)


def test_a_shipped_spec_has_a_name_and_a_file_of_that_name_wins(folder: Path) -> None:
    assert find("quick") == find("quick.yaml") == shipped()["quick"]
    (folder / "quick").mkdir()
    assert find("quick") == shipped()["quick"]
    write(folder, HEAD + "name: mine", "quick.yaml")
    assert load("quick.yaml").name == "mine"


def test_included_files_keep_their_own(folder: Path) -> None:
    (folder / "sub").mkdir()
    write(
        folder, HEAD + "preset: paper_bce\nbase: {channels: 8}\nlauncher: {mem_gb: 4, qos: a}", "sub/a.yaml"
    )
    write(folder, HEAD + "seeds: 3\ninclude: [a.yaml]\ncells: [{gol: 5}]\nlauncher: {qos: b}", "sub/b.yaml")
    spec = load(write(folder, "include: [sub/b.yaml, quick]\nlauncher: {name: slurm}"))
    assert [Path(part.file).name for part in spec.parts] == ["a.yaml", "b.yaml", "quick.yaml"]
    assert [part.preset for part in spec.parts] == ["paper_bce", "fast", "fast"]
    assert [part.base for part in spec.parts[:2]] == [{"channels": 8}, {}]
    assert (spec.name, spec.launcher) == ("s", {"mem_gb": 4, "qos": "b", "name": "slurm"})


def test_a_mistake_in_an_included_file_names_that_file(folder: Path) -> None:
    for name, text in (
        ("b", "include: [c.yaml]"),
        ("c", "include: [s.yaml]"),
        ("d", HEAD + "base: {gol: 0}"),
    ):
        write(folder, text, f"{name}.yaml")
    with pytest.raises(
        SpecError, match=r"^c\.yaml:1: include: s.yaml -> b.yaml -> c.yaml -> s.yaml is a cycle"
    ):
        load(write(folder, "include: [b.yaml]"))
    with pytest.raises(SpecError, match=r"^d\.yaml:2: gol: 0 is below 1"):
        load(write(folder, "include: [d.yaml]"))


def test_launcher_settings_are_plain_values(folder: Path) -> None:
    text = (
        HEAD + "launcher:\n  mem_gb: 0x10\n  additional_parameters: {gres: 'gpu:1', weight: 1e0, x: [true]}\n"
    )
    launcher = load(write(folder, text)).launcher
    assert launcher == {"mem_gb": 16, "additional_parameters": {"gres": "gpu:1", "weight": 1.0, "x": [True]}}
    inner = launcher["additional_parameters"]
    assert isinstance(inner, dict)
    kinds = [type(value) for value in (launcher["mem_gb"], inner, inner["gres"], inner["weight"], inner["x"])]
    assert kinds == [int, dict, str, float, list]


WORDS = ["gol", "cells", "grid", "seeds", "1e-3", "include", "null", "sample", "<<", "base: "]
fragments = st.sampled_from([*"{}[]:,-&*!|>'\"#%@`\n \t?", *WORDS])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.lists(fragments, max_size=25).map("".join))
def test_whatever_is_written_gives_a_spec_or_one_line(folder: Path, text: str) -> None:
    name = write(folder, HEAD + text)
    with contextlib.suppress(SpecError):
        load(name)
