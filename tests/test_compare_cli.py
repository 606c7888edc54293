"""`imagine-results compare` from the outside: its tables, its JSON and CSV, its refusals."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from cli_helpers import call, cells, output
from compare_helpers import config, run_id, store_five, store_run
from terminal_helpers import on_terminal, widest

from results_db.contract import NewSweep, PlannedRun
from results_db.paper.numbers import ABOUT, TABLES
from results_db.store.sql import SqlStore, open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_tmp_path")]


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def test_all_of_an_empty_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = "outputs/imagine.db does not exist; "
    code, out, err = call(capsys, "compare", "all", "--json")
    assert (code, err.startswith(missing)) == (0, True)
    rows = json.loads(out)
    assert [row["table"] for row in rows] == [table for table in TABLES for _ in TABLES[table]]
    assert len(rows) == 5 + 2 + 8 + 7 + 2 + 5 + 21 + 19
    for row in rows:
        assert (row["kept"], row["run"], row["verdict"]) == (0, 0, "too few runs")
        assert [
            row[key] for key in ("preset", "ours", "low", "high", "difference", "baseline", "ceiling")
        ] == [None] * 7
    code, said, err = call(capsys, "compare", "table1")
    assert (code, err.startswith(missing)) == (0, True)
    assert "too few runs" in said
    assert said.rstrip().endswith("train some with: imagine-sweep launch table1")
    assert list(tmp_path.iterdir()) == []


def test_a_table_for_people(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    store_five(db)
    said = output(capsys, "compare", "table1").splitlines()
    assert said[:2] == [f"table1: {ABOUT['table1']}", ""]
    lines = [" ".join(line.split()) for line in said]
    assert lines[2] == (
        "gol model_t ae rnn preset paper paper_runs ours difference kept/run baseline/ceiling verdict"
    )
    assert "3 3 true true fast 0.99 42 0.99 [0.98, 1.00] 0.00 5/5 0.05/- reproduced" in lines
    assert "in every row: spec table1; quantity metric" in lines


def test_both_decoders_are_side_by_side_as_the_paper_prints_them(
    capsys: pytest.CaptureFixture[str], db: SqlStore
) -> None:
    for seed, (plain, adversarial) in enumerate(
        [(0.1, 0.7), (0.2, 0.8), (0.1, 0.7), (0.2, 0.8), (0.15, 0.75)]
    ):
        of = config(seed=seed, gol=3, model_t=2)
        store_run(db, of, metric_plain=plain, metric_adv=adversarial, baseline_perfect=1.02)
    store_run(db, config(seed=9, gol=3, model_t=2), train_accuracy=0.5)
    head, _, _, row, *_ = output(capsys, "compare", "table3", "--format", "markdown").splitlines()[2:]
    found = dict(zip(cells(head), cells(row), strict=True))
    # .1, .2, .1, .2, .15: mean .15; squares .01 / 4 = .0025, s = .05, half 2.776445 * .05 / sqrt(5) = .0621.
    assert (found["paper"], found["plain"], found["adversarial"]) == (
        "0.15/0.71",
        "0.15 [0.09, 0.21]",
        "0.75 [0.69, 0.81]",
    )
    assert (found["kept/run"], found["baseline/ceiling"]) == ("5/6", "0.05/1.02")
    assert found["verdict"] == "reproduced"  # both of them
    assert "runs that do not count: 1 that missed the gate" in output(capsys, "compare", "table3")
    rows = json.loads(output(capsys, "compare", "table3", "--json"))
    assert [row["quantity"] for row in rows] == ["metric_plain", "metric_adv"] * 4


def test_a_comparison_fits_a_terminal(db: SqlStore) -> None:
    store_five(db, gol=3, model_t=2)
    command = [sys.executable, "-m", "results_db.cli", "compare"]
    for table in TABLES:
        assert widest(on_terminal(*command, table)) <= 80, table


def test_runs_of_other_specs_are_named_where_a_row_has_none(
    capsys: pytest.CaptureFixture[str], db: SqlStore
) -> None:
    """As after the quickstart: six runs of `quick`, three of them in the row 3/3, and none of the paper's."""
    for seed in range(3):
        store_run(db, config(seed=seed), sweep="quick")
        store_run(db, config(seed=seed, model_t=4), sweep="quick")
    *_, table, said, empty, line = output(capsys, "compare", "table1").splitlines()
    assert (table.split()[:2], said[:12], empty) == (["3", "3"], "in every row", "")
    assert line == (
        "3 runs of quick would fit into rows with 0/0, but do not count, because no spec of the paper wants them; "
        "train the paper's runs with: imagine-sweep launch table1"
    )
    store_run(db, config(seed=9), sweep="table1")  # the row has a run now, so the others are not named
    last = output(capsys, "compare", "table1").splitlines()[-1]
    assert last == ("no run counts in the rows with 0/0; train some with: imagine-sweep launch table1")


def test_runs_of_another_experiment_fit_into_no_row(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    """Those of Tables 1 to 3 have the `gol` and `model_t` of Table 4, but no correlation."""
    store_run(db, config(gol=2, model_t=2), sweep="quick", correlation=None)
    last = output(capsys, "compare", "table4").splitlines()[-1]
    assert last == ("no run counts in the rows with 0/0; train some with: imagine-sweep launch table4")


def test_what_an_earlier_launch_set_is_named_where_it_keeps_its_runs_out(
    capsys: pytest.CaptureFixture[str], db: SqlStore
) -> None:
    of = config(seed=1, max_steps=700)
    store_run(db, of, sweep="other")
    db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("table1", "", ("channels", "max_steps")))
    last = output(capsys, "compare", "table1").splitlines()[-1]
    assert last.startswith(
        "1 run of other, table1 would fit into rows with 0/0, but does not count, because their launches set "
        "channels, max_steps; "
    )


def test_every_table_has_its_heading(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    said = output(capsys, "compare", "all", "--format", "markdown")
    heads = [line.split(":")[0] for line in said.splitlines() if line and line[0] != "|"]
    assert [head for head in heads if head in TABLES] == [*TABLES]


def test_the_learning_order_for_people(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    # State 2 at step 400, state 3 at 700 and the final one at 1000: leads 600 and 300, each by the other 2 and .5.
    steps = [0, 400, 700, 1000]
    at = {"state2": 400, "state3": 700, "state4": 1000}
    curves = {name: (steps, [1.0 if step >= first else 0.5 for step in steps]) for name, first in at.items()}
    for seed in range(5):
        store_run(db, config(seed=seed), traces=curves)
    said = output(capsys, "compare", "learning_order", "--format", "markdown").splitlines()
    assert said[0] == "learning_order: " + ABOUT["learning_order"]
    assert len(said[0]) <= 110
    head, _, two, three = [cells(line) for line in said[2:6]]
    assert said[-1] == "in every row: gol 3; model_t 3; ae true; rnn true; spec learning_order; preset fast"
    assert " ".join(head) == "quantity paper paper_runs ours share ratio paper_ratio kept/run verdict"
    leads = ["lead_state2", "5,533", "15", "600 [600, 600]", "0.60 [0.60, 0.60]", "2.00 [2.00, 2.00]"]
    assert two == [*leads, "2.00", "5/5", "reproduced"]
    assert three[5:7] == ["0.50 [0.50, 0.50]", "0.50"]


def test_where_and_gate(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    store_five(db)
    store_run(db, config(seed=9, channels=8), train_accuracy=0.9)
    args = ["compare", "table1", "--json", "--where", "channels=8", "--gate", "train_accuracy>=.9"]
    row = json.loads(output(capsys, *args))[1]
    assert (row["kept"], row["run"]) == (1, 1)


def test_as_csv(capsys: pytest.CaptureFixture[str], db: SqlStore) -> None:
    store_five(db)
    read = list(csv.DictReader(io.StringIO(output(capsys, "compare", "all", "--format", "csv"))))
    assert len(read) == 69
    assert (read[1]["table"], read[1]["ae"], read[1]["kept"]) == ("table1", "true", "5")
    assert float(read[1]["ours"]) == pytest.approx(0.988)
    *_, last = (row for row in read if row["table"] == "signs")
    assert (last["effect"], last["paper_runs"], last["first_run"]) == ("coder_layers", "", "0")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["compare"], "TABLE is missing; give one of table1, table2, "),
        (["compare", "table1", "table2"], "table2"),
        (["compare", "all", "--where", "golf=3"], "unknown column 'golf'"),
        (["compare", "all", "--gate", "accuracyy>1"], "--gate: unknown column 'accuracyy'"),
        (["compare", "all", "--format", "rich", "--json"], "--json and --format are two ways to print"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], says: str) -> None:
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
