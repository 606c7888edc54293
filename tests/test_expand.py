"""From a spec to cells and runs."""

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imagination.schema import ConfigError, keys
from jobs.config import resolve
from jobs.identity import run_id
from sweeps.expand import Expansion, expand, in_breadth_first_order
from sweeps.spec import SpecError, load

HEAD = "experiment: life_state\n"


def expanded(folder: Path, text: str, **others: str) -> Expansion:
    for name, other in others.items():
        (folder / f"{name}.yaml").write_text(other)
    (folder / "s.yaml").write_text(text)
    return expand(load(folder / "s.yaml"))


def columns(expansion: Expansion) -> list[dict[str, object]]:
    return [dict(cell.columns) for cell in expansion.cells]


def seeds(expansion: Expansion) -> list[list[object]]:
    return [[run.config["seed"] for run in cell.runs] for cell in expansion.cells]


def test_cells_times_grid_times_zip(tmp_path: Path) -> None:
    text = HEAD + (
        "cells: [{gol: 2, runs: 2}, {gol: 3, rnn: false}]\n"
        "grid: {channels: [8, 16]}\n"
        "zip: {enc_layers: [1, 2], dec_layers: [3, 4]}\n"
    )
    expansion = expanded(tmp_path, text)
    # Rows outermost, then the grid, then the zip; a row that does not say `rnn` shows its default.
    assert columns(expansion) == [
        {"gol": gol, "rnn": rnn, "channels": channels, "enc_layers": enc, "dec_layers": dec}
        for gol, rnn in ((2, True), (3, False))
        for channels in (8, 16)
        for enc, dec in ((1, 3), (2, 4))
    ]
    assert seeds(expansion) == [[0, 1]] * 4 + [[0]] * 4
    assert [cell.wanted for cell in expansion.cells] == [2] * 4 + [1] * 4


def test_a_run_is_the_resolved_config_and_its_id(tmp_path: Path) -> None:
    text = HEAD + "preset: paper_l2\nbase: {channels: 8}\ncells: [{gol: 2}]\ngrid: {lr: [1]}\nseeds: [5]\n"
    (cell,) = expanded(tmp_path, text).cells
    expected = resolve("life_state", "paper_l2", {"channels": 8, "gol": 2, "lr": 1.0, "seed": 5})
    (run,) = cell.runs
    assert (run.config, run.run_id) == (expected, run_id(expected))
    assert list(run.config) == list(expected)
    assert {**cell.config, "seed": 5} == expected
    assert cell.run(6).config == {**expected, "seed": 6}


def test_precedence(tmp_path: Path) -> None:
    text = HEAD + (
        "preset: paper_bce\n"  # batch 200, warmup 0, max_steps 80000
        "base: {batch: 10, warmup: 0.1, max_steps: 300, eval_every: 100}\n"
        "grid: {warmup: [0.2]}\n"
        "cells: [{max_steps: 400, gol: 4}]\n"
        "sample: {clip: {choice: [0.5]}}\n"
    )
    (run,) = expanded(tmp_path, text).runs
    said = {key: run.config[key] for key in ("kernel", "board", "batch", "warmup", "max_steps", "clip")}
    # default, preset, base, grid over base, cell over base, sample over preset
    assert said == {"kernel": 3, "board": 20, "batch": 10, "warmup": 0.2, "max_steps": 400, "clip": 0.5}


def test_a_preset_can_be_an_axis(tmp_path: Path) -> None:
    expansion = expanded(tmp_path, HEAD + "base: {batch: 9}\ngrid: {preset: [fast, paper_bce]}\n")
    assert columns(expansion) == [{"preset": "fast"}, {"preset": "paper_bce"}]
    assert [(cell.config["board"], cell.config["batch"]) for cell in expansion.cells] == [(10, 9), (20, 9)]


def test_a_spec_without_axes_is_one_cell(tmp_path: Path) -> None:
    expansion = expanded(tmp_path, HEAD + "runs: 3\nseeds: {start: 10}\n")
    assert columns(expansion) == [{}]
    assert seeds(expansion) == [[10, 11, 12]]


def test_exclude_drops_what_matches_all_its_keys(tmp_path: Path) -> None:
    text = (
        HEAD + "grid: {gol: [2, 3], model_t: [2, 3]}\nexclude: [{gol: 2, model_t: 3}, {gol: 3, rnn: true}]\n"
    )
    assert columns(expanded(tmp_path, text)) == [{"gol": 2, "model_t": 2}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "grid: {gol: [2]}\nexclude:\n  - {gol: 2, rnn: false}",
            ":4: exclude: no cell has gol=2, rnn=false; re",
        ),
        ("grid: {gol: [2]}\nexclude: [{gol: 2}]", ": exclude leaves no cell"),
        ("cells:\n  - {gol: 2}\n  - {gol: 2}", ":4: cell gol=2: the same as "),
        ("cells:\n  - {gol: 2}\n  - {gol: 2, runs: 3}", ":4: cell gol=2: the same as "),
        ("cells:\n  - {gol: 2}\n  - {gol: 2, rnn: true}", ":4: cell gol=2, rnn=true: the same as "),
        ("cells: [{gol: 2}, {gol: 2}]", ":2: cell gol=2: the same as another on this line; remove one"),
        ("cells:\n  - {gol: 2}\n  - {kernel: 4}", ":4: cell kernel=4: kernel: 4 is even"),
        ("cells:\n  - gol: 3\n    kernel: 4", ":4: cell gol=3, kernel=4: kernel: 4 is even"),
        ("base: {kernel: 4}", ":2: kernel: 4 is even"),
        ("base:\n  gol: 3\n  kernel: 4\ncells:\n  - {rnn: true}", ":4: cell rnn=true: kernel: 4 is even"),
        ("base: {kernel: 3}\ngrid:\n  kernel: [3, 4]", ":4: cell kernel=4: kernel: 4 is even"),
        ("base: {kernel: 3}\ncells:\n  - {kernel: 4}", ":4: cell kernel=4: kernel: 4 is even"),
        ("zip:\n  gol: [2, 3]\n  kernel: [3, 4]", ":4: cell gol=3, kernel=4: kernel: 4 is even"),
        ("sample:\n  lr: {uniform: [1, 2]}\n  kernel: {choice: [4]}", ":4: seed 0: kernel: 4 is even"),
        (
            "cells: [{gol: 2}]\nsample:\n  kernel: {choice: [4]}",
            ":4: cell gol=2: seed 0: kernel: 4 is even",
        ),
        (
            "sample:\n  lr:\n    uniform: [2e-3, 1e-3]",
            ":3: every cell: sample.lr.uniform: [0.002, 0.001] is turned round; write [0.001, 0.002]",
        ),
        (
            "sample: {channels: {randint: [40, 2]}}",
            ":2: every cell: sample.channels.randint: [40, 2] is turned round; write [2, 40]",
        ),
        (
            "sample: {lr: {loguniform: [1, 1.0]}}",
            ":2: every cell: sample.lr.loguniform: [1.0, 1.0] holds one value; give it under `base:`",
        ),
        # An adversary without intermediate states: whichever of the two keys the row says is the place.
        (
            "base: {gan: posthoc}\ncells:\n  - {model_t: 2}\n  - {gol: 1, model_t: 1}",
            ":5: cell gol=1, model_t=1: gan: 'posthoc' with model_t 1 has no intermediate states to work on; "
            "set gan to none, or model_t to at least 2",
        ),
        (
            "base:\n  lr: 1e-3\n  model_t: 1\n  gan: joint\ncells:\n  - {gol: 1}",
            ":5: cell gol=1: gan: 'joint' with model_t 1",
        ),
        # What is longer than the run: the preset's interval of 1000 steps, and both with the trace's of 100.
        (
            "preset: paper_bce\nbase:\n  batch: 8\n  max_steps: 900\ncells: [{gol: 2}]",
            ":5: cell gol=2: eval_every: 1000 is longer than the whole run, max_steps 900; "
            "set eval_every to at most 900, or max_steps to at least 1000",
        ),
        (
            "preset: paper_bce\nbase: {max_steps: 90}",
            ":3: eval_every: 1000, trace_every: 100 are longer than the whole run, max_steps 90; "
            "set eval_every and trace_every to at most 90, or max_steps to at least 1000",
        ),
        (
            "base: {max_steps: 900, give_up_accuracy: 0.5}\ncells: [{give_up_at: 901}]",
            ":3: cell give_up_at=901: give_up_at: 901 is longer than the whole run, max_steps 900; set give_up_at",
        ),
        (
            "base: {give_up_at: 900}",
            ":2: give_up_at: 900 with give_up_accuracy 0 gives no run up; set give_up_accuracy above 0, or",
        ),
        (
            "base: {accuracy: 0.9}\ngrid:\n  give_up_accuracy: [0.8, 0.95]",
            ":4: cell give_up_accuracy=0.95: give_up_accuracy: 0.95 is above accuracy, 0.9, at which runs stop",
        ),
        (
            "base: {schedule: exponential}",
            ":2: schedule: 'exponential' with decay 1 never decays; set decay below 1, or schedule to constant",
        ),
    ],
)
def test_a_wrong_combination_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        expanded(tmp_path, HEAD + text + "\n")
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}{expected}")
    assert "\n" not in str(caught.value)


def test_every_senseless_cell_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "cells:\n"
        "  - {gol: 3, model_t: 1, gan: posthoc}\n"
        "  - {gol: 2}\n"
        "  - {gol: 2}\n"
        "  - {gol: 4, kernel: 4}\n"
        "sample:\n"
        "  lr: {uniform: [2, 1]}\n"
    )
    other = HEAD + "base: {kernel: 2}\n"
    with pytest.raises(SpecError) as caught:
        expanded(Path(), HEAD + "include: [other.yaml]\n" + text, other=other)
    # The fourth line names all of the spec's columns: it says of a whole cell that it is there already.
    assert [line.split(";")[0] for line in caught.value.lines] == [
        "other.yaml:2: kernel: 2 is even",
        "s.yaml:9: every cell: sample.lr.uniform: [2.0, 1.0] is turned round",
        "s.yaml:4: cell gol=3, model_t=1, gan='posthoc': gan: 'posthoc' with model_t 1 has no intermediate states to"
        " work on",
        "s.yaml:6: cell gol=2, model_t=3, gan='none', kernel=3: the same as s.yaml:5",
        "s.yaml:7: cell gol=4, kernel=4: kernel: 4 is even",
    ]


def test_of_very_many_senseless_cells_the_first_are_shown(tmp_path: Path) -> None:
    text = HEAD + f"base: {{kernel: 4}}\ngrid: {{channels: {list(range(1, 1001))}}}\n"
    with pytest.raises(SpecError) as caught:
        expanded(tmp_path, text)
    *shown, last = caught.value.lines
    assert (len(shown), last) == (100, "and 900 more of this kind")
    assert "cell channels=100: kernel: 4 is even" in shown[-1]


def test_what_is_excluded_need_not_make_sense(tmp_path: Path) -> None:
    text = HEAD + "grid: {gan: [none, posthoc], model_t: [1, 2]}\n"
    with pytest.raises(SpecError, match="cell gan='posthoc', model_t=1"):
        expanded(tmp_path, text)
    assert len(expanded(tmp_path, text + "exclude: [{gan: posthoc, model_t: 1}]\n").cells) == 3


def test_exclusions_see_defaults_and_preset(tmp_path: Path) -> None:
    text = (
        HEAD
        + "grid: {gol: [2, 3], preset: [fast, paper_bce]}\nexclude: [{gol: 2, board: 20}, {gol: 3, kernel: 3}]\n"
    )
    assert columns(expanded(tmp_path, text)) == [{"gol": 2, "preset": "fast"}]  # its board is 12


def test_a_drawn_value_is_checked_in_every_run(tmp_path: Path) -> None:
    text = HEAD + "sample: {kernel: {choice: [3, 4]}}\n"
    (cell,) = expanded(tmp_path, text).cells  # seed 0 draws 3
    wrong = []
    for seed in range(1, 21):
        try:
            assert cell.run(seed).config["kernel"] == 3
        except ConfigError:
            wrong.append(seed)
    assert 0 < len(wrong) < 20
    with pytest.raises(SpecError, match=rf":2: seed {wrong[0]}: kernel: 4 is even"):
        expanded(tmp_path, text + "runs: 21\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 999 channels, kernels 1, 3, ... 13
        (
            f"grid: {{channels: {list(range(1, 1000))}, kernel: {list(range(1, 15, 2))}}}\nruns: 1000",
            "s.yaml: 6,993,000 runs are above 1,000,000, the most allowed; "
            "reduce runs or seeds (1,000) x channels (999) x kernel (7)",
        ),
        (
            "cells: [{gol: 1, runs: 1000000}, {gol: 2}]",
            "s.yaml: 1,000,001 runs are above 1,000,000, the most allowed; reduce runs or seeds (1,000,001)",
        ),
        (
            "seeds: 400000\nzip: {gol: [1, 2, 3], model_t: [1, 2, 3]}",
            "s.yaml: 1,200,000 runs are above 1,000,000, the most allowed; reduce runs or seeds (400,000) x zip (3)",
        ),
        (
            f"seeds: {{stop: {2**62}}}",  # as many as a Python range can count
            f"s.yaml: {2**62:,} runs are above 1,000,000, the most allowed; reduce runs or seeds ({2**62:,})",
        ),
        (
            "include: [small.yaml, large.yaml]\ncells: [{gol: 3}]",
            "large.yaml: 1,000,003 runs are above 1,000,000, the most allowed; reduce runs or seeds (1,000,000)",
        ),
    ],
    ids=["grid", "cells", "zip", "seeds", "include"],
)
def test_too_many_runs_are_refused_before_any_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[object] = []
    monkeypatch.setattr("sweeps.expand.resolve", lambda *layers: made.append(layers))
    with pytest.raises(SpecError) as caught:
        expanded(Path(), HEAD + text, small=HEAD + "runs: 2\n", large=HEAD + "runs: 1000000\n")
    assert str(caught.value) == expected
    assert made == []


def test_the_most_runs_are_counted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.expand.MOST_RUNS", 12)
    text = HEAD + "runs: 2\ngrid: {gol: [1, 2, 3]}\nzip: {enc_layers: [1, 2], dec_layers: [1, 2]}\n"
    assert len(expanded(tmp_path, text).runs) == 12
    with pytest.raises(SpecError, match=r"s\.yaml: 18 runs are above 12"):
        expanded(tmp_path, text.replace("runs: 2", "runs: 3"))


def drawn(expansion: Expansion, **where: object) -> dict[object, object]:
    return {
        run.config["seed"]: run.config["lr"]
        for run in expansion.runs
        if all(run.config[key] == value for key, value in where.items())
    }


SAMPLE = HEAD + "sample: {lr: {loguniform: [1e-4, 1e-2]}}\n"


def test_draws_do_not_depend_on_what_else_is_wanted(tmp_path: Path) -> None:
    plain = drawn(expanded(tmp_path, SAMPLE + "cells: [{gol: 2}]\nruns: 3\n"))
    assert len(set(plain.values())) == 3
    more_cells = expanded(tmp_path, SAMPLE + "cells: [{gol: 4}, {gol: 2}]\nruns: 5\n")
    assert plain.items() <= drawn(more_cells, gol=2).items()
    more_axes = expanded(tmp_path, SAMPLE + "grid: {channels: [8, 20], gol: [2]}\nruns: 3\n")
    assert drawn(more_axes, channels=20) == plain  # 20 is the default
    more_drawn = expanded(
        tmp_path, SAMPLE.replace("}}", "}, clip: {uniform: [1, 2]}}") + "cells: [{gol: 2}]\nruns: 3\n"
    )
    assert drawn(more_drawn) == plain


def test_a_sampled_key_is_no_column_and_no_part_of_the_cells_config(tmp_path: Path) -> None:
    (cell,) = expanded(tmp_path, SAMPLE + "cells: [{gol: 2}]\n").cells
    assert cell.columns == {"gol": 2}
    assert set(keys(_life())) - set(cell.config) == {"lr", "seed"}
    assert cell.run(0) == cell.runs[0]


def _life() -> type:
    from imagination.life.config import LifeStateConfig

    return LifeStateConfig


def test_equal_cells_of_included_files_are_united(tmp_path: Path) -> None:
    expansion = expanded(
        tmp_path,
        "include: [a.yaml, b.yaml]\n",
        a=HEAD + "cells: [{gol: 2, runs: 2}, {gol: 3, runs: 3}]\n",
        b=HEAD + "base: {gol: 2}\ncells: [{model_t: 3, runs: 4}, {model_t: 4, runs: 1}]\n",
    )
    # model_t 3 is the default: b's first cell is a's first, and its 4 runs win.
    assert columns(expansion) == [
        {"gol": 2, "model_t": 3},
        {"gol": 3, "model_t": 3},
        {"gol": 2, "model_t": 4},
    ]
    assert [cell.wanted for cell in expansion.cells] == [4, 3, 1]
    assert seeds(expansion) == [[0, 1, 2, 3], [0, 1, 2], [0]]


def test_seeds_of_equal_cells_are_united(tmp_path: Path) -> None:
    expansion = expanded(
        tmp_path, "include: [a.yaml, b.yaml]\n", a=HEAD + "seeds: [3, 1]\n", b=HEAD + "seeds: [1, 2]\n"
    )
    assert seeds(expansion) == [[3, 1, 2]]


def test_files_that_differ_only_in_base_or_preset_get_columns_for_it(tmp_path: Path) -> None:
    expansion = expanded(
        tmp_path,
        "include: [a.yaml, b.yaml]\n",
        a=HEAD + "base: {channels: 8, clip: 2}\ncells: [{gol: 2}]\n",
        b=HEAD + "preset: paper_bce\nbase: {clip: 2}\ncells: [{gol: 2}]\n",
    )
    # The preset changes many keys; the one that was written down is enough to tell the rows apart.
    assert columns(expansion) == [
        {"gol": 2, "preset": "fast", "channels": 8},
        {"gol": 2, "preset": "paper_bce", "channels": 20},
    ]


def test_a_run_stands_in_the_first_cell_that_wants_it(tmp_path: Path) -> None:
    expansion = expanded(
        tmp_path,
        "include: [a.yaml, b.yaml]\n",
        a=HEAD + "base: {gol: 2}\nruns: 2\n",
        b=HEAD + "sample: {gol: {choice: [2]}}\nruns: 3\n",
    )
    assert seeds(expansion) == [[0, 1], [2]]


def test_breadth_first_takes_one_run_of_every_cell_in_turn(tmp_path: Path) -> None:
    text = HEAD + "cells: [{gol: 1, runs: 1}, {gol: 2, runs: 3}, {gol: 3, runs: 2}]\n"
    order = in_breadth_first_order(expanded(tmp_path, text))
    assert [(run.config["gol"], run.config["seed"]) for run in order] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (2, 1),
        (3, 1),
        (2, 2),
    ]


axis_values = {
    "gol": st.integers(1, 9),
    "model_t": st.integers(1, 9),
    "channels": st.integers(1, 64),
    "rnn": st.booleans(),
    "lr": st.floats(1e-5, 1.0),
    "loss": st.sampled_from(["bce", "l2"]),
}
axes = st.sets(st.sampled_from(sorted(axis_values)), max_size=3).flatmap(
    lambda named: st.fixed_dictionaries(
        {key: st.lists(axis_values[key], min_size=1, max_size=3, unique=True) for key in sorted(named)}
    )
)


def _load(spec: dict[str, Any]) -> Expansion:
    with tempfile.TemporaryDirectory() as folder:
        return expanded(Path(folder), yaml.safe_dump(spec, sort_keys=False))


@settings(max_examples=60, deadline=None)
@given(axes, st.integers(1, 4))
def test_runs_are_the_product_and_their_ids_unique(grid: dict[str, list[Any]], runs: int) -> None:
    spec: dict[str, Any] = {"experiment": "life_state", "runs": runs}
    expansion = _load({**spec, "grid": grid} if grid else spec)
    ids = [run.run_id for run in expansion.runs]
    assert len(ids) == len(set(ids)) == runs * math.prod(len(axis) for axis in grid.values())
    assert all(run.run_id == run_id(run.config) for run in expansion.runs)
    assert sorted(ids) == sorted(run.run_id for run in in_breadth_first_order(expansion))


@settings(max_examples=30, deadline=None)
@given(axes, st.integers(1, 3))
def test_including_a_file_twice_is_including_it_once(grid: dict[str, list[Any]], runs: int) -> None:
    spec: dict[str, Any] = {"experiment": "life_state", "runs": runs} | ({"grid": grid} if grid else {})
    with tempfile.TemporaryDirectory() as folder:
        text = yaml.safe_dump(spec, sort_keys=False)
        twice = expanded(Path(folder), "include: [a.yaml, a.yaml]\n", a=text)
        assert twice == expanded(Path(folder), text)


@settings(max_examples=30, deadline=None)
@given(axes)
def test_a_grid_is_the_same_as_its_cells_written_out(grid: dict[str, list[Any]]) -> None:
    expansion = _load({"experiment": "life_state", "grid": grid} if grid else {"experiment": "life_state"})
    if grid:
        cells = [dict(cell.columns) for cell in expansion.cells]
        assert _load({"experiment": "life_state", "cells": cells}).runs == expansion.runs
