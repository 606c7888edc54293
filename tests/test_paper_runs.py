"""Which stored runs each number of the paper is compared with: those that its specs want."""

import json
from pathlib import Path

import pytest
from cli_helpers import output
from compare_helpers import METRICS, complete
from sweep_helpers import staged_launch

from results_db.contract import RunRecord
from results_db.paper import numbers
from results_db.paper.compare import compare
from results_db.store.sql import SqlStore, open_store
from sweeps.spec.load import expand_spec

pytestmark = pytest.mark.slow

CURVES = {f"state{number}": ([0, 100], [0.5, 1.0]) for number in range(1, 5)}


@pytest.fixture
def db(tmp_path: Path) -> SqlStore:
    return open_store(str(tmp_path / "a.db"), create=True)


def train(db: SqlStore, name: str, *overrides: str) -> None:
    """Launches a shipped spec up to its training, and stores every run as COMPLETED with both decoders alike."""
    spec, expansion = expand_spec(name, overrides)
    staged_launch(db, spec)
    waiting = {
        run_id
        for run_id, state in db.states(run.run_id for run in expansion.runs).items()
        if state == "STAGED"
    }
    for run in expansion.runs:
        counts = run.config["experiment"] == "life_count"
        metrics = {"correlation": 0.8, "train_accuracy": 1.0} if counts else METRICS
        if run.run_id in waiting:
            complete(db, RunRecord(run.run_id, "reached", 1.0, metrics, CURVES))


def found(db: SqlStore, table: str) -> list[tuple[str, int, int]]:
    rows = compare(table, db.runs(), store=db)
    return [(row["preset"], row["kept"], row["run"]) for row in rows]


def specs(db: SqlStore, table: str) -> list[tuple[str, str | None, int]]:
    rows = compare(table, db.runs(), store=db)
    return [(row["spec"], row["preset"], row["run"]) for row in rows]


PAIRS = {"autoencoder": 22, "rnn": 20, "adversary": 22, "channels": 14, "coder_layers": 14}
"""The pairs of seeds that `paper` gives: the smaller side of Table 1's, the runs of 3/2, and the ablations' own."""


def test_every_number_has_the_runs_that_its_spec_wants(db: SqlStore) -> None:
    """In one store and after one launch; the ablations' runs count in no table."""
    train(db, "paper")
    for table, of_table in numbers.TABLES.items():
        if table.startswith("chess"):
            continue  # `paper` is without chess
        for number, (preset, kept, run) in zip(of_table, found(db, table), strict=True):
            wanted = PAIRS[str(number.cell["effect"])] if table == "signs" else number.runs
            if (number.table, number.cell.get("ae")) == ("table3", False):
                wanted = 22  # the same runs as in Table 1
            if number.table == "learning_order":
                wanted = 42
            if number.table == "table4":
                wanted = 9  # the paper has fewer of some
            assert (preset, kept, run) == ("small", wanted, wanted), number


def test_a_part_of_the_paper_is_enough(db: SqlStore) -> None:
    train(db, "signs")
    assert found(db, "signs") == [("small", 16, 16)] * 3 + [("small", 14, 14)] * 2
    assert [run for _, _, run in found(db, "table1")] == [0, 16, 0, 16, 16]


def test_a_preset_of_the_launch_is_a_row_of_its_own(db: SqlStore) -> None:
    train(db, "table3", "runs=2")
    train(db, "table3", "runs=3", "preset=paper_bce")
    assert specs(db, "table2") == [("table2", "paper_bce", 3), ("table2", "small", 2)] * 2


def test_the_authors_ranges_are_rows_of_their_own(db: SqlStore) -> None:
    train(db, "contrasts", "runs=2")
    train(db, "paper_search", "runs=3")
    train(db, "paper_search", "runs=1", "preset=paper_l2")
    theirs = [("paper_search", "paper_bce", 3), ("paper_search", "paper_l2", 1)]
    ours = [("table1", "small", 2)]
    assert specs(db, "table1") == [*theirs, *ours, *theirs, *theirs, *ours, *theirs, *ours, *theirs]


def test_included_specs_have_the_runs_that_they_want(db: SqlStore) -> None:
    train(db, "paper", "runs=3")
    train(db, "signs", "runs=1")
    sizes = {
        name: len(db.members([name], overridden=[]))
        for name in ("table1", "table3", "learning_order", "contrasts")
    }
    assert sizes == {"table1": 5 * 3, "table3": 4 * 3, "learning_order": 3, "contrasts": 4}


def test_a_run_that_no_paper_spec_wants_counts_nowhere(db: SqlStore) -> None:
    train(db, "one_shape", "runs=1")
    train(db, "quick", "runs=1")
    train(db, "table1", "runs=1", "trace_every=500")
    assert {run for table in numbers.TABLES for _, _, run in found(db, table)} == {0}


def test_leads_do_not_depend_on_the_adversary(db: SqlStore) -> None:
    """A network with a post-hoc adversary and the same one without are one; a joint adversary changes the network."""
    train(db, "learning_order", "runs=2", "gan=joint")
    assert found(db, "learning_order") == [(None, 0, 0)] * 2
    train(db, "learning_order", "runs=3", "gan=none")
    assert found(db, "learning_order") == [("small", 3, 3)] * 2
    train(db, "learning_order", "runs=2")
    assert found(db, "learning_order") == [("small", 3, 3)] * 2
    assert [run for _, _, run in found(db, "table1")] == [0, 2, 0, 0, 0]


def test_trace_takes_the_runs_of_the_learning_order(db: SqlStore, capsys: pytest.CaptureFixture[str]) -> None:
    train(db, "learning_order", "runs=2")
    train(db, "data_matters", "runs=1")
    said = output(capsys, "trace", "--json", "--no-plot", "--db", db.display_url)
    assert [row["seed"] for row in json.loads(said)["runs"]] == [0, 1]
