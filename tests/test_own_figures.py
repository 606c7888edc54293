"""Figures that installed experiments declare: their commands, and a store whose experiment is not installed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import call, output
from compare_helpers import complete
from picture_helpers import add, curves, run_id

from imagination import registry
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.store.sql import open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")

Capsys = pytest.CaptureFixture[str]

PARITY = {"experiment": "parity", "preset": "default", "bits": 3, "width": 4, "lr": 0.5, "max_steps": 200}
WITHOUT = "; a figure of an experiment that is not installed needs its package"


def add_parity(db: str) -> None:
    """Three parity runs: two kept, one below the gate."""
    with open_store(db, create=True) as store:
        for number, accuracy in ((1, 1.0), (2, 1.0), (3, 0.5)):
            planned = PlannedRun(run_id(number), {**PARITY, "seed": number})
            store.stage([planned], sweep=NewSweep("parity", ""))
            traces = {"loss": ([0, 100], [1.0, 0.1 * number])} if number != 2 else {}
            complete(store, RunRecord(run_id(number), "done", 1.0, {"accuracy": accuracy}, traces))


@pytest.mark.slow
def test_a_figure_of_an_installed_package(
    capsys: Capsys, installed: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("own_experiment")
    db = str(tmp_path / "a.db")
    add_parity(db)
    assert re.search(r"^  loss +Draw the loss of each run", output(capsys, "figure", "--help"), re.MULTILINE)
    said = json.loads(output(capsys, "figure", "loss", "--log", "--json", "--db", db))
    assert said == {"runs": [run_id(1), run_id(2)], "file": "loss-log.png"}
    # A named run is shown whatever it reached.
    said = json.loads(output(capsys, "figure", "loss", run_id(3), "--json", "--db", db, "-o", "b.svg"))
    assert said == {"runs": [run_id(3)], "file": "b.svg"}
    life = str(tmp_path / "life.db")
    with open_store(life, create=True) as store:
        add(store, 9, traces=curves(200, 300, 400))
    for arguments, says in (
        ((run_id(9), "--db", life), "is of life_state, and loss is for parity"),
        (("--where", "bits=9", "--db", db), "no kept run of parity with --where 'bits=9' is stored"),
    ):
        code, _, err = call(capsys, "figure", "loss", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert says in err

    # The same store where the package is not installed.
    monkeypatch.undo()
    registry._known.cache_clear()
    registry.declaration.cache_clear()
    for command, says in (
        ("loss", WITHOUT),
        ("strip", "is of parity, which is not installed here; strip needs"),
    ):
        code, out, err = call(capsys, "figure", command, run_id(1), "--db", db)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err
    (row,) = json.loads(output(capsys, "table", "--json", "--db", db))
    assert (row["bits"], row["kept"], row["run"]) == (3, 2, 3)
