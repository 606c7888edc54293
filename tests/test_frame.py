"""Frames without pandas hold what pandas would show, and read a column only when it is needed."""

import numpy as np
import pytest
from cli_helpers import output
from store_helpers import RUN, started

from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.frame import Column, Frame, column, missing
from results_db.store.sql import SqlStore, open_store


def test_a_column_is_read_once_and_only_if_needed() -> None:
    read = []

    def late() -> Column:
        read.append(1)
        return column([10, 20, 30])

    frame = Frame({"a": column([1, None, 3]), "late": late}, 3)
    part = frame[~missing(frame["a"])]
    assert (len(part), part["a"].tolist(), read) == (2, [1, 3], [])
    assert part["late"].tolist() == [10, 30]
    assert frame["late"].tolist() == [10, 20, 30]
    assert read == [1]
    assert part.take(np.array([1, 0])).records(["late"]) == [{"late": 30}, {"late": 10}]


def test_equal_cells_have_equal_codes() -> None:
    kinds = Column(column(["x", "y", "x"]).cells, np.array([2, 0, 1, 1]))
    assert kinds.expanded.tolist() == ["x", "x", "y", "y"]
    first, second, third, fourth = kinds.codes.tolist()
    assert (first == second, second == third, third == fourth) == (True, False, True)


def test_a_frame_has_the_cells_of_pandas(store: SqlStore) -> None:
    configs = [{"gol": 3, "seed": 0}, {"gol": 3, "seed": 1}, {"gol": 2, "own": "x"}, {"seed": True}]
    runs = [PlannedRun(f"{number}a" * 32, config) for number, config in enumerate(configs)]
    store.stage(runs, sweep=NewSweep("b", ""))
    store.stage(runs[:1], sweep=NewSweep("a", ""))
    store.stage([PlannedRun(RUN, {"gol": 3, "lr": 5e-4})])
    store.finish(started(store), RunRecord(RUN, "reached", 1.5, {"metric": 0.1, "mine": None, "steps": 5.0}))
    frame, whole = store.frame(), store.runs()
    assert frame.columns == list(whole.columns)
    assert frame["sweep"].tolist() == ["a, b", "b", "b", "b", None]
    assert frame["seed"].tolist() == [0, 1, None, True, None]
    rows = frame.records()
    assert rows == whole.astype(object).where(whole.notna(), None).to_dict("records")
    first = store.frame(limit=3)
    assert first.records(["run_id", "sweep", "attempts", "gol", "own"]) == [
        {name: row[name] for name in ("run_id", "sweep", "attempts", "gol", "own")} for row in rows[:3]
    ]


def test_the_first_runs_are_those_of_the_whole_listing(
    capsys: pytest.CaptureFixture[str], in_tmp_path: None
) -> None:
    with open_store(None, create=True) as store:
        store.stage(PlannedRun(f"{number:064x}", {"gol": number % 2, "seed": number}) for number in range(30))
    head, line, *rows = output(capsys, "runs", "--sort", "seed", "-n", "3").splitlines()
    assert output(capsys, "runs", "-n", "3").splitlines() == [head, line, *rows]
