"""The paper's numbers beside ours: verdicts at their limits, which runs count, and every table by hand."""

from typing import Any

import pytest
from compare_helpers import HALF, METRICS, complete, config, store_five, store_run

from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.paper.compare import compare, not_counted, verdict
from results_db.query.aggregate import Interval
from results_db.store.sql import SqlStore, open_store

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def compared(db: SqlStore, table: str, **options: Any) -> list[dict[str, Any]]:
    return compare(table, db.runs(), store=db, **options)


def counts(db: SqlStore, table: str = "table1", row: int = 1, **options: Any) -> tuple[int, int]:
    """`kept` and `run` of a row; Table 1's row 1 is that of 3/3."""
    found = compared(db, table, **options)[row]
    return found["kept"], found["run"]


@pytest.mark.parametrize(
    ("mean", "half", "kept", "expected"),
    [
        (0.99, 0.02, 5, "reproduced"),
        (0.99, 0.02, 4, "too few runs"),  # fewer than 5, though all is well
        (0.99, 0.10, 5, "reproduced"),  # .10 itself is not above .10
        (0.99, 0.101, 5, "uncertain"),
        (0.92, 0.07, 5, "reproduced"),  # the paper's value is the interval's end
        (0.92, 0.069, 5, "lower"),
        (0.94, 0.0, 5, "reproduced"),  # .05 away, which as binary fractions is a little more
        (0.939, 0.0, 5, "lower"),
        (1.04, 0.01, 9, "reproduced"),
        (1.041, 0.01, 9, "higher"),
        (None, None, 9, "too few runs"),
        (0.99, None, 9, "too few runs"),
    ],
)
def test_verdicts(mean: float | None, half: float | None, kept: int, expected: str) -> None:
    known = mean is not None and half is not None
    ours = Interval(mean, mean - half, mean + half) if known else Interval(mean)
    assert verdict(0.99, ours, kept=kept) == expected


def test_a_row_of_table_1(db: SqlStore) -> None:
    store_five(db)
    store_run(db, config(seed=5), metric=0.1, train_accuracy=0.98)  # counted in `run` alone
    store_run(
        db, config(seed=6), metric=0.1, baseline_shifted=0.54, baseline_perfect=1.02, outcome="diverged"
    )
    row = compared(db, "table1")[1]
    assert list(row.items()) == [
        ("table", "table1"),
        ("spec", "table1"),
        ("preset", "fast"),
        ("quantity", "metric"),
        *{"gol": 3, "model_t": 3, "ae": True, "rnn": True}.items(),
        ("paper", 0.99),
        ("paper_runs", 42),
        ("ours", pytest.approx(0.988)),
        ("low", pytest.approx(0.988 - HALF, abs=1e-6)),
        ("high", pytest.approx(0.988 + HALF, abs=1e-6)),
        ("difference", pytest.approx(-0.002)),
        ("kept", 5),
        ("run", 7),
        ("baseline", 0.54),
        ("ceiling", 1.02),
        ("verdict", "reproduced"),
        *{"missed_gate": 2, "not_trained": 0, "overridden": 0, "discarded": 0}.items(),
    ]


def test_why_runs_do_not_count(db: SqlStore) -> None:
    """Below the gate; staged only; of a launch that set a key; discarded. Runs of other specs are none of these."""
    store_five(db)
    store_run(db, config(seed=5), train_accuracy=0.98)
    for seed in (6, 7):
        of = config(seed=seed)
        db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("table1", ""))
    of = config(seed=8, max_steps=700)
    store_run(db, of, sweep="mine")
    db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("table1", "", ("max_steps",)))
    store_run(db, config(seed=9))
    db.discard([run_id(config(seed=9))], why="wrong data")
    store_run(db, config(seed=10), sweep="quick")
    why = ("missed_gate", "not_trained", "overridden", "discarded")
    first, row, *_ = compared(db, "table1")
    assert [row[name] for name in why] == [1, 2, 1, 1]
    assert [first[name] for name in why] == [0, 0, 0, 0]


def test_a_number_without_any_result_says_what_is_to_be_trained(db: SqlStore) -> None:
    of = config()
    db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("table1", ""))
    row = compared(db, "table1")[1]
    assert (row["run"], row["not_trained"]) == (0, 1)


def test_a_run_of_several_rows_that_does_not_count_is_one_run(db: SqlStore) -> None:
    """The runs with the autoencoder are one side of two effects."""
    store_run(db, config(), sweep="contrasts", train_accuracy=0.5)
    assert [row["missed_gate"] for row in compared(db, "signs")] == [1, 1, 0, 0, 0]
    assert not_counted("signs", db.runs(), store=db)["missed_gate"] == 1


def test_the_runs_of_both_sides_of_an_effect_count_once(db: SqlStore) -> None:
    store_run(db, config(seed=1, gol=3, model_t=2), sweep="contrasts", train_accuracy=0.5)
    of = config(seed=2, ae=False)
    db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("contrasts", ""))
    ae, _, adversary, *_ = compared(db, "signs")
    assert [(row["missed_gate"], row["not_trained"]) for row in (ae, adversary)] == [(0, 1), (1, 0)]


def test_other_cells_are_other_rows(db: SqlStore) -> None:
    store_five(db, [0.5] * 5, ae=False)
    store_five(db, [0.5] * 5, rnn=False)
    store_five(db, [0.5] * 5, gol=2, model_t=2)
    rows = compared(db, "table1")
    assert [row["kept"] for row in rows] == [5, 0, 0, 5, 5]
    assert [row["verdict"] for row in rows] == [
        *("lower", "too few runs", "too few runs"),
        "lower",  # .56 is .06 away
        "higher",  # than .40
    ]


def test_whatever_its_spec_draws_a_run_counts(db: SqlStore) -> None:
    """The spec decides which runs answer to a number, not their shape; the sweep's name stands for the spec."""
    drawn: list[dict[str, Any]] = [{"channels": 16}, {"enc_layers": 2}, {"lr": 1e-4}, {"step_layers": 9}]
    for number, values in enumerate(drawn, start=1):
        store_run(db, config(**values))
        assert counts(db) == (number, number), values
    for seed, sweep in enumerate(("quick", "data_matters", "one_shape", "channels", "table4"), start=1):
        store_run(db, config(seed=seed), sweep=sweep)
    assert counts(db) == (4, 4)


def test_a_run_of_tables_1_to_3_counts_in_all_of_them(db: SqlStore) -> None:
    for seed, sweep in enumerate(("table2", "table3", "learning_order", "contrasts", "table1")):
        store_run(db, config(seed=seed), sweep=sweep)
    assert counts(db) == (5, 5)


@pytest.mark.parametrize(
    ("overridden", "expected"),
    [([], 1), (["preset"], 1), (["max_steps", "preset"], 0), (None, 0)],
)
def test_a_launch_with_other_settings_is_another_experiment(
    db: SqlStore, overridden: list[str] | None, expected: int
) -> None:
    db.stage([PlannedRun(run_id(config()), config())], sweep=NewSweep("table1", "", overridden))
    complete(db, RunRecord(run_id(config()), "reached", 1.0, METRICS))
    assert counts(db) == (expected, expected)


def test_presets_and_the_authors_ranges_are_rows_of_their_own(db: SqlStore) -> None:
    store_five(db)
    store_five(db, [0.5] * 5, preset="paper_bce", sweep="paper_search")
    store_five(db, [0.9] * 5, preset="paper_l2", sweep="paper_search")
    rows = compared(db, "table1")
    assert [(row["spec"], row["preset"], row["kept"]) for row in rows] == [
        ("table1", None, 0),
        ("table1", "fast", 5),
        ("paper_search", "paper_bce", 5),
        ("paper_search", "paper_l2", 5),
        *[("table1", None, 0)] * 3,
    ]
    assert [row["verdict"] for row in rows[1:4]] == ["reproduced", "lower", "lower"]


def test_a_spec_that_was_changed_is_compared_as_last_launched(db: SqlStore) -> None:
    def launch(seed: int, content: str) -> None:
        of = config(seed=seed)
        db.stage([PlannedRun(run_id(of), of)], sweep=NewSweep("table1", f"{seed}", (), content))
        complete(db, RunRecord(run_id(of), "reached", 1.0, METRICS))

    launch(0, "channels 2 to 40")
    launch(1, "channels 8 to 40")
    launch(2, "channels 8 to 40")
    assert counts(db) == (2, 2)


def test_the_gate_can_be_moved(db: SqlStore) -> None:
    store_run(db, config(), train_accuracy=0.97, outcome="given_up")
    assert (counts(db), counts(db, gate="train_accuracy>=.97")) == ((0, 1), (1, 1))


def test_table_3_measures_the_same_runs_with_both_decoders(db: SqlStore) -> None:
    for seed in range(5):
        store_run(db, config(gol=2, seed=seed), metric_plain=0.58, metric_adv=0.75)
    plain, adversarial, *_ = compared(db, "table3")
    assert (plain["quantity"], plain["ours"], plain["verdict"]) == ("metric_plain", 0.58, "reproduced")
    assert (adversarial["quantity"], adversarial["verdict"]) == ("metric_adv", "higher")
    assert (adversarial["paper"], adversarial["paper_runs"], adversarial["kept"]) == (0.65, 16, 5)
    (unequal, _) = compared(db, "table2")
    assert (unequal["gol"], unequal["model_t"], unequal["kept"]) == (2, 3, 5)


def test_a_value_that_a_kept_run_lacks_is_in_no_count_of_ours(db: SqlStore) -> None:
    store_run(db, config(gol=2), metric_adv=None)
    assert (counts(db, "table3", 0), counts(db, "table3", 1)) == ((1, 1), (0, 1))


def test_table_4_is_of_counting_and_has_its_gate(db: SqlStore) -> None:
    count = {"metric": None, "baseline_repeat": 0.49}
    for seed in range(5):
        of = config("life_count", gol=2, model_t=2, seed=seed)
        store_run(db, of, correlation=0.80, **{**count, "train_accuracy": 0.999})
    store_run(db, config("life_count", gol=2, model_t=2, seed=5), correlation=0.1, train_accuracy=0.998)
    store_run(db, config(gol=2, model_t=2))
    row = compared(db, "table4")[0]
    assert list(row)[:5] == ["table", "spec", "preset", "quantity", "gol"]
    assert (row["ours"], row["kept"], row["run"], row["baseline"]) == (pytest.approx(0.8), 5, 6, 0.49)
    assert row["verdict"] == "reproduced"


def learned(second: int, third: int, final: int) -> dict[str, tuple[list[int], list[float]]]:
    """Traces in which the states reach .98 at these steps, and stay below it before."""
    steps = sorted({0, second, third, final})
    at = {"state1": 0, "state2": second, "state3": third, "state4": final}
    traces = {
        name: (steps, [0.98 if step >= first else 0.979 for step in steps]) for name, first in at.items()
    }
    return {**traces, "adv_state2": ([0], [1.0])}


def test_the_learning_order_by_hand(db: SqlStore) -> None:
    # Five runs, each longer than the one before, all alike: state 2 at 40% and state 3 at 70% of the final
    # state's step. Leads of state 2: 600, 1200, .. 3000, mean 1800, s = 600 * sqrt(2.5) = 948.683, half width
    # 2.776445 * 948.683 / sqrt(5) = 1177.945. Shares .6 and .3 throughout, so the ratio is .5 without error.
    for n in range(1, 6):
        store_run(db, config(seed=n), traces=learned(400 * n, 700 * n, 1000 * n))
    second, third = compared(db, "learning_order")
    assert (second["quantity"], second["paper"], second["paper_runs"]) == ("lead_state2", 5533, 15)
    ours = [second[key] for key in ("ours", "low", "high")]
    assert ours == pytest.approx([1800, 622.055, 2977.945], abs=1e-2)
    assert second["difference"] is None  # of steps, in which runs of different length do not compare
    assert [second[key] for key in ("share", "share_low", "share_high")] == pytest.approx([0.6] * 3)
    assert [second[key] for key in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([2.0] * 3)
    assert [third[key] for key in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([0.5] * 3)
    assert [second["paper_ratio"], third["paper_ratio"]] == pytest.approx([1.99531, 0.50117], abs=1e-5)
    assert (third["quantity"], third["ours"], third["share"]) == ("lead_state3", 900, pytest.approx(0.3))
    assert (second["kept"], second["run"], second["baseline"]) == (5, 5, None)
    # The paper's state 3 leads by 2773 / 5533 = .50117 of state 2's lead, ours by .5.
    assert (second["verdict"], third["verdict"]) == ("reproduced", "reproduced")
    assert set(second) == set(third)


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        # Final state at 1000, state 2 at 500. Of state 2's lead the paper's state 3 has .50117, and a fifth of that
        # is .10023; of state 3's its state 2 has 1.99531, and a fifth of that is .39906.
        (700, ["reproduced", "reproduced"]),  # 300 / 500 = .6, .0988 away; 500 / 300 = 1.667, .329 away
        (690, ["reproduced", "higher"]),  # .62; 1.613, .382 away
        (680, ["lower", "higher"]),  # .64; 1.5625, .433 away
        (800, ["higher", "lower"]),  # .4, .1012 away; 2.5
        (1000, ["higher", "lower"]),  # state 3 has no lead at all
        (1100, ["higher", "lower"]),  # it is learned after the final state
    ],
)
def test_verdicts_on_the_learning_order(db: SqlStore, third: int, expected: list[str]) -> None:
    for seed in range(5):
        store_run(db, config(seed=seed), traces=learned(500, third, 1000))
    assert [row["verdict"] for row in compared(db, "learning_order")] == expected


def test_a_state_2_that_is_not_ahead(db: SqlStore) -> None:
    for seed in range(5):
        store_run(db, config(seed=seed), traces=learned(1000, 900, 1000))
    rows = compared(db, "learning_order")
    assert [(row["ours"], row["kept"], row["ratio"]) for row in rows] == [(0, 5, 0.0), (100, 5, None)]
    assert [row["verdict"] for row in rows] == ["lower", "higher"]


def test_leads_that_scatter_are_uncertain(db: SqlStore) -> None:
    # Shares of state 2: .1, .3, .5, .7, .9: s = sqrt(.1) = .316, half width 2.776 * .316 / sqrt(5) = .393.
    # State 3's are all .1; the ratio to state 2's is .2, and its interval (residuals .1 - .2 * share have
    # s = .0632, half width 2.776 * .0632 / sqrt(5) / .5 = .157) ends at .357, below the paper's .501.
    for seed, second in enumerate((900, 700, 500, 300, 100)):
        store_run(db, config(seed=seed), traces=learned(second, 900, 1000))
    rows = compared(db, "learning_order")
    assert [row["kept"] for row in rows] == [5, 5]
    assert [row["verdict"] for row in rows] == ["uncertain", "lower"]
    # The ratios are shown all the same.
    assert [rows[1][key] for key in ("ratio", "ratio_low", "ratio_high")] == pytest.approx(
        [0.2, 0.043, 0.357], abs=1e-3
    )


def test_a_state_that_is_never_learned_has_no_lead(db: SqlStore) -> None:
    for seed in range(5):
        store_run(db, config(seed=seed), traces=learned(500, 750, 1000))
    never = {**learned(500, 750, 1000), "state2": ([0], [0.5])}
    store_run(db, config(seed=5), traces=never)
    store_run(db, config(seed=6))  # no traces
    store_run(db, config(seed=7), traces=learned(1, 2, 3), train_accuracy=0.5)  # below the gate
    rows = compared(db, "learning_order")
    assert [(row["kept"], row["run"]) for row in rows] == [(5, 8), (5, 8)]
    assert [row["share"] for row in rows] == [0.5, 0.25]


def test_the_traces_of_all_runs_are_read_at_once(db: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    traces_of = db.traces_of
    monkeypatch.setattr(db, "traces_of", lambda run_ids: asked.append(list(run_ids)) or traces_of(run_ids))
    store_five(db)
    compared(db, "learning_order")
    assert [len(run_ids) for run_ids in asked] == [5]


WIDE = {"sweep": "channels", "channels": 32}


def sign(db: SqlStore, effect: str = "channels") -> dict[str, Any]:
    (row,) = [row for row in compared(db, "signs") if row["effect"] == effect]
    return row


def test_an_effect_by_hand(db: SqlStore) -> None:
    # In pairs of a seed: .10, .11, .12, .09, .08 and the same again, mean .10; deviations 0, .01, .02, -.01, -.02 with
    # squares of .001, twice: variance .002 / 9, squared error .0000222. t(9, .975) = 2.262157 (tables), half width
    # 2.262157 * .00471405 = .0106639. (Sides that are not paired would have the interval of metrics from .7 to .99.)
    first = (0.98, 0.90, 0.99, 0.80, 0.85) * 2
    second = [m - d for m, d in zip(first, (0.10, 0.11, 0.12, 0.09, 0.08) * 2, strict=True)]
    store_five(db, first, sweep="channels")
    store_five(db, second, **WIDE)
    store_run(db, config(channels=32, seed=19), metric=0.0, sweep="channels")  # without a partner
    store_run(db, config(channels=20, seed=18), metric=0.0, sweep="channels")
    store_run(db, config(channels=32, seed=18), metric=0.9, train_accuracy=0.5, sweep="channels")
    row = sign(db)
    assert [row[key] for key in ("ours", "low", "high", "difference")] == pytest.approx(
        [0.1, 0.1 - 0.0106639, 0.1 + 0.0106639, 0.01], abs=1e-6
    )
    assert (row["quantity"], row["paper"], row["paper_runs"]) == ("effect", 0.09, None)
    assert (row["spec"], row["preset"], row["baseline"]) == ("channels", "fast", None)
    assert (row["kept"], row["run"], row["verdict"], row["sign"]) == (10, 11, "reproduced", "holds")
    ends = ("", "_where", "_metric", "_kept", "_run")
    assert [row[f"first{end}"] for end in ends] == ["20", "channels = 20", "metric", 11, 11]
    assert [row[f"second{end}"] for end in ends] == ["more", "channels > 20", "metric", 11, 12]
    assert (row["first_mean"], row["second_mean"]) == (pytest.approx(0.904), pytest.approx(0.804))


@pytest.mark.parametrize("change", [{"step_layers": 9}, {"batch": 32}, {"muon_lr": 0.005}])
def test_a_pair_differs_in_the_effects_own_key_alone(db: SqlStore, change: dict[str, Any]) -> None:
    store_five(db, sweep="channels")
    store_five(db, **WIDE, **change)
    assert (sign(db)["kept"], sign(db)["run"]) == (0, 0)


def test_several_runs_of_a_seed_on_one_side_are_one_partner(db: SqlStore) -> None:
    store_five(db, [1.0] * 5, sweep="channels")
    store_five(db, [0.6] * 5, sweep="channels", channels=32)
    store_five(db, [0.8] * 5, sweep="channels", channels=40)
    assert (sign(db)["ours"], sign(db)["kept"]) == (pytest.approx(0.3), 5)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.2, 0.1, 0.3, 0.2, 0.2] * 2, "holds"),
        ([-0.2, -0.1, -0.3, -0.2, -0.2] * 2, "reversed"),
        ([0.5, -0.4, 0.3, -0.2, 0.1] * 2, "open"),
        ([0.2] * 9, "too few pairs"),
        ([], "too few pairs"),
    ],
)
def test_the_sign_of_an_effect(db: SqlStore, differences: list[float], said: str) -> None:
    store_five(db, [0.5] * 10, sweep="channels")
    store_five(db, [0.5 - difference for difference in differences], **WIDE)
    assert (sign(db)["sign"], sign(db)["kept"]) == (said, len(differences))


def test_the_adversary_is_compared_within_each_run(db: SqlStore) -> None:
    for seed in range(10):
        metrics = {"metric_plain": 0.1 * seed, "metric_adv": 0.1 * seed + 0.5}
        store_run(db, config(gol=3, model_t=2, seed=seed), **metrics)
    row = sign(db, "adversary")
    assert (row["ours"], row["kept"], row["sign"]) == (pytest.approx(0.5), 10, "holds")
    assert (row["first_metric"], row["second_metric"]) == ("metric_adv", "metric_plain")
    assert row["verdict"] == "lower"  # than .56, with an interval of no width


def test_autoencoder_and_rnn_are_compared_at_3_3(db: SqlStore) -> None:
    store_five(db, [1.0] * 5)
    store_five(db, [0.5] * 5, ae=False)
    store_five(db, [0.3] * 5, rnn=False)
    store_five(db, [0.0] * 5, gol=4, model_t=4)
    store_five(db, [0.0] * 5, sweep="channels", channels=32)  # the ablation's runs are its own
    found = {name: (sign(db, name)["ours"], sign(db, name)["kept"]) for name in ("autoencoder", "rnn")}
    assert found == {"autoencoder": (pytest.approx(0.5), 5), "rnn": (pytest.approx(0.7), 5)}


def test_an_effect_is_of_one_preset(db: SqlStore) -> None:
    store_five(db, sweep="channels")
    store_five(db, preset="adam", **WIDE)
    rows = [row for row in compared(db, "signs") if row["effect"] == "channels"]
    assert [(row["preset"], row["kept"]) for row in rows] == [("adam", 0), ("fast", 0)]
