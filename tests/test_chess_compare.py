"""`compare` with what the paper says of chess: it finds no later boards in later layers."""

from dataclasses import asdict

import pytest
from chess_helpers import config_of
from compare_helpers import complete

from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.paper.compare import compare
from results_db.store.sql import SqlStore, open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def store_five(db: SqlStore, sweep: str, values: dict[str, float], **changes) -> None:
    """Five runs with these metrics, each .01 apart."""
    for seed in range(5):
        config = asdict(config_of(**changes, seed=seed))
        db.stage([PlannedRun(run_id(config), config)], sweep=NewSweep(sweep, ""))
        shifted = {name: value + (seed - 2) / 100 for name, value in values.items()}
        complete(db, RunRecord(run_id(config), "done", 1.0, shifted))


def test_the_decoder_finds_nothing_and_a_probe_does(db) -> None:
    store_five(db, "chess_paper", {"changed_1": 0.03}, experiment="chess_decoder", adversary=True)
    probe = {"experiment": "chess_probe", "target": "board"}
    store_five(db, "chess", {"changed": 0.4}, **probe, layer=6)
    store_five(db, "chess", {"changed": 0.1}, **probe, layer=5)  # another layer, and a control, are no row
    store_five(db, "chess", {"changed": 0.0}, **probe, layer=6, shuffled=True)
    papers = {(row["adversary"], row["quantity"]): row for row in compare("chess_paper", db.runs(), store=db)}
    assert len(papers) == 6
    # The deviations 0, .01 and .02 have the variance .00025, so the half width is 2.776 * sqrt(.00005) = .0196.
    row = papers[True, "changed_1"]
    assert (row["verdict"], row["kept"]) == ("reproduced", 5)
    assert (row["low"], row["high"]) == (pytest.approx(0.0104, abs=1e-3), pytest.approx(0.0496, abs=1e-3))
    assert papers[False, "changed_1"]["verdict"] == "too few runs"
    ours = compare("chess", db.runs(), store=db)
    assert [(row["ply"], row["kept"], row["verdict"]) for row in ours] == [
        (1, 5, "higher"),
        (2, 0, "too few runs"),
        (3, 0, "too few runs"),
    ]
    assert ours[0]["ours"] == pytest.approx(0.4)
