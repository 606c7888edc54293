"""`compare` with what the paper says of chess: it gives no number, so our runs stand beside their baselines."""

from dataclasses import asdict

import pytest
from chess_helpers import config_of
from cli_helpers import call
from compare_helpers import complete

from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.paper.compare import compare
from results_db.store.sql import SqlStore, open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def store_five(db: SqlStore, sweep: str, values: dict[str, float], apart: float = 0.01, **changes) -> None:
    """Five runs with these metrics; the first metric differs from run to run."""
    first = next(iter(values))
    for seed in range(5):
        config = asdict(config_of(**changes, seed=seed))
        db.stage([PlannedRun(run_id(config), config)], sweep=NewSweep(sweep, ""))
        shifted = values | {first: values[first] + (seed - 2) * apart}
        complete(db, RunRecord(run_id(config), "done", 1.0, shifted))


def rows(db: SqlStore, table: str, *keys: str):
    return {tuple(row[key] for key in keys): row for row in compare(table, db.runs(), store=db)}


def test_the_decoder_stands_beside_a_board_that_is_always_the_same(db) -> None:
    values = {"filled_own": 0.03, "filled_usual_own": 0.025, "filled_last": 0.4}
    store_five(db, "chess_paper", values, experiment="chess_decoder", adversary=True)
    found = rows(db, "chess_paper", "features", "adversary", "next_board", "quantity")
    assert len(found) == 2 * 6 + 3 * 3
    # The deviations 0, .01 and .02 have the variance .00025, so the half width is 2.776 * sqrt(.00005) = .0196.
    row = found["trained", True, True, "filled_own"]
    assert (row["low"], row["high"]) == (pytest.approx(0.0104, abs=1e-3), pytest.approx(0.0496, abs=1e-3))
    # The difference from the baseline is .005 +- .0196.
    assert (row["paper"], row["words"], row["baseline"], row["verdict"]) == (
        None,
        "did not work",
        pytest.approx(0.025),
        "not above",
    )
    assert found["trained", True, True, "filled_last"]["verdict"] == "above baseline"
    assert found["trained", False, True, "filled_own"]["verdict"] == "too few runs"
    assert found["trained", True, True, "filled_last"]["words"] == "no number"
    assert found["random", True, True, "filled_own"]["words"] == "not tried"


def test_probes_stand_beside_their_controls(db) -> None:
    probe = {"experiment": "chess_probe"}
    store_five(db, "chess", {"probe_accuracy": 0.4, "usual": 0.1}, **probe, target="to", layer=6)
    store_five(db, "chess", {"probe_accuracy": 0.2, "usual": 0.1}, **probe, target="to", features="input")
    store_five(
        db, "chess", {"probe_accuracy": 0.9, "usual": 0.1}, **probe, target="to", layer=6, moves="stockfish"
    )
    store_five(db, "chess", {"probe_accuracy": 0.1}, **probe, target="to", layer=6, shuffled=True)
    flips = {"flips": 0.3, "flips_other": 0.2, "flips_random": 0.1}
    store_five(db, "chess", flips, **probe, target="cause", layer=3)
    store_five(db, "chess", {"probe_accuracy": 0.3, "usual": 0.1}, **probe, target="to", layer=6, ply=2)
    found = rows(db, "chess", "target", "quantity", "features", "ply")
    told = {
        key: (round(row["ours"], 3), row["baseline"], row["kept"], row["verdict"])
        for key, row in found.items()
        if row["kept"]
    }
    assert told == {
        ("to", "probe_accuracy", "trained", 2): (0.3, pytest.approx(0.1), 5, "above baseline"),
        ("to", "probe_accuracy", "trained", 1): (0.4, pytest.approx(0.1), 5, "above baseline"),
        ("to", "probe_accuracy", "input", 1): (0.2, pytest.approx(0.1), 5, "above baseline"),
        ("cause", "flips", "trained", 1): (0.3, pytest.approx(0.2), 5, "above baseline"),
    }
    assert {target for target, *_ in found} == {"from", "to", "move", "board", "lens", "tuned", "cause"}


def test_each_run_is_compared_with_its_own_baseline(db) -> None:
    """The runs differ by .2 and their baselines with them: each is .01 above its own."""
    for seed in range(5):
        config = asdict(config_of("chess_probe", target="cause", layer=3, seed=seed))
        db.stage([PlannedRun(run_id(config), config)], sweep=NewSweep("chess", ""))
        other = 0.1 + 0.2 * seed
        metrics = {"flips": other + 0.01, "flips_other": other, "flips_random": 0.0}
        complete(db, RunRecord(run_id(config), "done", 1.0, metrics))
    row = rows(db, "chess", "target")[("cause",)]
    assert (row["verdict"], row["baseline"]) == ("above baseline", pytest.approx(0.5))


def test_the_table_has_the_papers_words(db, capsys) -> None:
    probe = {"experiment": "chess_probe", "target": "board"}
    store_five(db, "chess", {"successor": 0.5, "chance": 0.05}, **probe, layer=5)
    code, said, _ = call(capsys, "compare", "chess")
    assert code == 0
    (line,) = [line for line in said.splitlines() if "0.50 [0.48, 0.52]" in line]
    assert "not tried" in line
    assert "above baseline" in line
