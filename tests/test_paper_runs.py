"""Which stored runs each number of the paper is compared with: the runs of the spec launched for it."""

from pathlib import Path
from typing import Any

import pytest
from compare_helpers import METRICS, complete, config, store_run

from results_db.contract import RunRecord
from results_db.paper import numbers
from results_db.paper.compare import compare
from results_db.paper.learning_order import collect
from results_db.paper.selection import runs_of
from results_db.store.sql import SqlStore, open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import apply_overrides, load

CURVES = {f"state{number}": ([0, 100], [0.5, 1.0]) for number in range(1, 5)}


@pytest.fixture
def db(tmp_path: Path) -> SqlStore:
    return open_store(str(tmp_path / "a.db"), create=True)


def train(db: SqlStore, spec: str, *overrides: str) -> None:
    """Stores every run of a shipped spec as COMPLETED."""
    runs = expand(apply_overrides(load(spec), overrides)).runs
    db.stage(runs)
    for run in runs:
        counts = run.config["experiment"] == "life_count"
        metrics = {"correlation": 0.8, "train_accuracy": 1.0} if counts else METRICS
        complete(db, RunRecord(run.run_id, "reached", 1.0, metrics, CURVES))


def test_leads_are_taken_from_fine_traces_alone(db: SqlStore) -> None:
    """A lead of 100 steps means nothing in a trace with a point every 500 steps."""
    number = numbers.TABLES["learning_order"][0]
    for every, counts in ((500, False), (101, False), (100, True)):
        train(db, "learning_order", "runs=1", f"trace_every={every}")
        assert bool(len(runs_of(db.runs(), number))) is counts


PAPER = {"life_state": "paper_bce", "life_count": "paper"}


@pytest.mark.parametrize(
    "overrides", [[], [f"{name}.preset={preset}" for name, preset in PAPER.items()]], ids=["fast", "paper"]
)
def test_every_number_has_as_many_runs_as_its_spec_wants(db: SqlStore, overrides: list[str]) -> None:
    train(db, "paper", *overrides)
    frame = db.runs()
    for table, of_table in numbers.TABLES.items():
        rows = compare(table, frame, traces_of=db.traces_of)
        for number, row in zip(of_table, rows, strict=True):
            assert (row["kept"], row["run"]) == (wanted(number, searched=bool(overrides)),) * 2, row


def wanted(number: numbers.Number, *, searched: bool) -> int:
    """The paper's number of runs, except where it averages over a part of Table 1's runs.

    With 3/3 timesteps, autoencoder and RNN, the spec `paper` has the 42 runs of Table 1, 30 wider and 10 deeper ones.
    The authors' presets pool all 82, because the authors searched over width and depth.
    """
    three = {"gol": 3, "model_t": 3, "ae": True, "rnn": True}
    match number.table:
        case "table1" | "learning_order" if number.cell == three:
            return 82 if searched else 42
        case "table3" if number.cell == {**three, "ae": False}:
            return 22
        case "channels":
            return 30  # of the side that has fewer
        case "coder_layers":
            return 10
    assert number.runs is not None
    return number.runs


@pytest.mark.parametrize("table", ["table1", "learning_order"])
@pytest.mark.parametrize("shape", [{"channels": 32}, {"enc_layers": 3, "dec_layers": 3}], ids=str)
def test_runs_of_an_ablation_are_the_ablations_alone(db: SqlStore, table: str, shape: dict[str, Any]) -> None:
    number = numbers.TABLES[table][1 if table == "table1" else 0]
    store_run(db, config(**shape))
    assert len(runs_of(db.runs(), number)) == 0
    store_run(db, config(preset="paper_l2", **shape))
    assert list(runs_of(db.runs(), number)["preset"]) == ["paper_l2"]
    for effect in numbers.EFFECTS:
        assert len(runs_of(db.runs(), numbers.TABLES[effect][0])) == 2


@pytest.mark.parametrize(("experiment", "table"), [("life_state", "table1"), ("life_count", "table4")])
def test_fewer_sequences_are_another_metric(db: SqlStore, experiment: str, table: str) -> None:
    store_run(db, config(experiment, gol=2, model_t=2, eval_sequences=2000))
    assert len(runs_of(db.runs(), numbers.TABLES[table][0])) == 0


def test_counting_has_no_ablation(db: SqlStore) -> None:
    # Its preset `fast` has 24 channels, and no ablation of counting exists.
    store_run(db, config("life_count", gol=2, model_t=2, channels=24))
    assert len(runs_of(db.runs(), numbers.TABLES["table4"][0])) == 1


@pytest.mark.parametrize("table", ["learning_order", *numbers.EFFECTS])
@pytest.mark.parametrize("gan", ["none", "joint"])
def test_one_network_of_a_seed_counts_once(db: SqlStore, table: str, gan: str) -> None:
    store_run(db, config())
    store_run(db, config(gan=gan))  # none: the same network again; joint: another one
    assert list(runs_of(db.runs(), numbers.TABLES[table][0])["gan"]) == ["posthoc"]


def test_trace_takes_the_runs_of_the_learning_order(db: SqlStore) -> None:
    store_run(db, config(), traces=CURVES)
    old = config(seed=1)
    del old["reset"], old["eval_sequences"]  # these keys did not exist yet
    store_run(db, old, traces=CURVES)
    for leak in ({"gan": "none"}, {"channels": 32}, {"eval_sequences": 100}, {"reset": 1.0}):
        store_run(db, config(seed=2, **leak), traces=CURVES)
    assert [order.seed for order in collect(db, similarity=0.98)] == [0, 1]
    (row, _) = compare("learning_order", db.runs(), traces_of=db.traces_of)
    assert row["kept"] == 2
