"""Values that are drawn per seed, in the runs of a spec."""

from pathlib import Path

from expand_helpers import HEAD, expanded

from imagination.life.config import LifeStateConfig
from imagination.schema import keys
from sweeps.spec.expand import Expansion


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
