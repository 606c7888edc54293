"""From a spec to cells and runs: products, precedence, exclusions, seeds, draws, and files that include others."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from expand_helpers import HEAD, columns, expanded
from hypothesis import given, settings
from hypothesis import strategies as st

from imagination.life.config import LifeStateConfig
from imagination.schema import keys
from jobs.config import resolve
from jobs.identity import run_id
from sweeps.spec.expand import Expansion, in_breadth_first_order


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


def test_exclusions_see_defaults_and_preset(tmp_path: Path) -> None:
    text = (
        HEAD
        + "grid: {gol: [2, 3], preset: [fast, paper_bce]}\nexclude: [{gol: 2, board: 20}, {gol: 3, kernel: 3}]\n"
    )
    assert columns(expanded(tmp_path, text)) == [{"gol": 2, "preset": "fast"}]  # its board is 12


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
    assert set(keys(LifeStateConfig)) - set(cell.config) == {"lr", "seed"}
    assert cell.run(0) == cell.runs[0]


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


def spec_text(grid: dict[str, list[Any]], **more: Any) -> str:
    spec = {"experiment": "life_state", **more} | ({"grid": grid} if grid else {})
    return yaml.safe_dump(spec, sort_keys=False)


@settings(max_examples=40, deadline=None)
@given(axes, st.integers(1, 4))
def test_runs_are_the_product_of_the_axes_and_their_ids_unique(grid: dict[str, list[Any]], runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = spec_text(grid, runs=runs)
        expansion = expanded(Path(folder), text)
        ids = [run.run_id for run in expansion.runs]
        assert len(ids) == len(set(ids)) == runs * math.prod(len(axis) for axis in grid.values())
        assert all(run.run_id == run_id(run.config) for run in expansion.runs)
        assert sorted(ids) == sorted(run.run_id for run in in_breadth_first_order(expansion))
        # Including a file twice is including it once, and a grid is the same as its cells written out.
        included = expanded(Path(folder), "include: [a.yaml, a.yaml]\n", a=text).cells
        assert [replace(cell, specs=frozenset({"s"})) for cell in included] == expansion.cells
        if grid:
            written = spec_text({}, runs=runs, cells=columns(expansion))
            assert expanded(Path(folder), written).runs == expansion.runs
