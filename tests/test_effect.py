"""Effects of config keys, by hand-derived values."""

import json
import math

import pytest
from cli_helpers import call, output
from compare_helpers import config, store_run

from results_db.contract import StoreError
from results_db.query.aggregate import pass_rate
from results_db.query.effect import effect, regression
from results_db.store.sql import SqlStore, open_store

Capsys = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def fill(db: SqlStore, **cells: list[float | None]) -> None:
    """Runs with and without autoencoder and RNN: `tf=[...]` has ae true and rnn false; None missed the gate."""
    for name, metrics in cells.items():
        ae, rnn = (letter == "t" for letter in name)
        for seed, metric in enumerate(metrics):
            missed = {"metric": 0.0, "train_accuracy": 0.5} if metric is None else {"metric": metric}
            store_run(db, config(seed=seed, ae=ae, rnn=rnn, channels=10 + seed), **missed)


def test_an_effect_is_the_mean_difference_in_pairs(db: SqlStore) -> None:
    """Differences 1 - .5 and .8 - .6: mean .35, s = .3 / sqrt 2, error .15, t(1) = 12.706. Seed 2 has no partner."""
    fill(db, tt=[1.0, 0.8, 0.1], ft=[0.5, 0.6, None])
    found = effect(db.runs(), ["ae"], metric="metric")
    (only,) = found.differences
    assert (only.of, only.pairs, found.interaction, found.also) == ("ae: true - false", 2, None, [])
    half = 12.7062 * 0.15
    assert vars(only.paired) == pytest.approx(
        {"mean": 0.35, "low": 0.35 - half, "high": 0.35 + half}, abs=1e-3
    )
    # Of all: (1 + .8 + .1) / 3 - (.5 + .6) / 2 = .6333 - .55.
    assert only.unpaired.mean == pytest.approx(0.08333, abs=1e-4)
    false, true = found.levels
    assert (false.cell, false.kept, false.run, true.kept, true.run) == ({"ae": False}, 2, 3, 3, 3)
    assert false.mean.mean == pytest.approx(0.55)


def test_all_runs_are_compared_after_welch(db: SqlStore) -> None:
    """Means 1 and .4 of 2 and 3; squared errors .02 / 2 = .01 and .03 / 3 = .01, so the error is sqrt .02 = .14142.

    Freedom (.02)^2 / (.01^2 / 1 + .01^2 / 2) = 2.6667, and t(2.6667, .975) = 3.4194 (by interpolation of no table:
    scipy.stats.t.ppf).
    """
    d, e = math.sqrt(0.01), math.sqrt(0.03)
    fill(db, tt=[1 + d, 1 - d], ft=[0.4 + e, 0.4 - e, 0.4])
    (only,) = effect(db.runs(), ["ae"], metric="metric").differences
    from scipy.stats import t

    half = t.ppf(0.975, 8 / 3) * math.sqrt(0.02)
    assert vars(only.unpaired) == pytest.approx({"mean": 0.6, "low": 0.6 - half, "high": 0.6 + half})


def test_two_keys_interact(db: SqlStore) -> None:
    """The autoencoder adds .1 without the RNN and .5 and .7 with it: interactions .4 and .6, mean .5, error .1."""
    fill(db, ff=[0.1, 0.1], ft=[0.2, 0.2], tf=[0.2, 0.2], tt=[0.7, 0.9])
    found = effect(db.runs(), ["ae", "rnn"], metric="metric")
    assert [(each.of, each.pairs, round(each.paired.mean or 0, 9)) for each in found.differences] == [
        ("ae: true - false, rnn=false", 2, 0.1),
        ("ae: true - false, rnn=true", 2, 0.6),
        ("rnn: true - false, ae=false", 2, 0.1),
        ("rnn: true - false, ae=true", 2, 0.6),
    ]
    assert found.interaction is not None
    assert found.interaction.pairs == 2
    half = 12.7062 * 0.1
    assert vars(found.interaction.paired) == pytest.approx(
        {"mean": 0.5, "low": 0.5 - half, "high": 0.5 + half}, abs=1e-3
    )
    assert found.interaction.unpaired.mean == pytest.approx(0.5)


def test_runs_that_differ_in_more_are_no_pairs(db: SqlStore) -> None:
    for seed, (ae, channels) in enumerate([(True, 8), (True, 9), (False, 9), (False, 8)]):
        store_run(db, config(seed=seed // 3, ae=ae, channels=channels), metric=0.5)
    found = effect(db.runs(), ["ae"], metric="metric")
    assert found.differences[0].pairs == 1  # seed 0 has 9 channels on both sides, 8 only on one
    assert found.also == []


def test_keys_that_always_change_with_the_factor_are_named(db: SqlStore) -> None:
    """A zipped key is no reason against a pair; a seed that only one side has is."""
    for seed, metric in enumerate([0.5, 0.7]):
        store_run(db, config(seed=seed, ae=True, lr=1e-2), metric=metric)
        store_run(db, config(seed=seed, ae=False, lr=1e-3 * (1 + seed)), metric=metric - 0.1)
    store_run(db, config(seed=2, ae=False, lr=1e-3), metric=0.0)
    found = effect(db.runs(), ["ae"], metric="metric")
    assert (found.differences[0].pairs, found.also) == (2, ["lr"])
    assert found.differences[0].paired.mean == pytest.approx(0.1)


@pytest.mark.parametrize(("kept", "run"), [(0, 5), (7, 11), (5, 5)])
def test_the_interval_of_a_pass_rate_is_wilsons(kept: int, run: int) -> None:
    """The shares p with |kept / run - p| <= z sqrt(p (1 - p) / run): both bounds solve this with equality."""
    found = pass_rate(kept, run)
    assert found.mean == kept / run
    for bound in (found.low, found.high):
        assert bound is not None
        assert abs(kept / run - bound) == pytest.approx(
            1.959964 * math.sqrt(bound * (1 - bound) / run), abs=1e-6
        )


def test_a_regression_finds_what_made_the_metric(db: SqlStore) -> None:
    """metric = .1 + .02 channels + .3 ae, whatever the batch: from 10 to 19 channels .18. Rates count by logarithm."""
    for seed in range(10):
        ae, batch, lr = seed % 2 == 0, (8, 16, 16)[seed % 3], 1e-3 * 2 ** (seed % 4)
        store_run(
            db,
            config(seed=seed, ae=ae, channels=10 + seed, batch=batch, lr=lr),
            metric=0.1 + 0.02 * (10 + seed) + 0.3 * ae + 0.05 * math.log2(lr / 1e-3),
        )
    found = regression(db.runs(), metric="metric")
    assert (found.runs, found.explained, found.left_out) == (10, pytest.approx(1), [])
    changes = {slope.key: (slope.low, slope.high, round(slope.change.mean or 0, 9)) for slope in found.slopes}
    assert changes == {
        "ae": (False, True, 0.3),
        "channels": (10, 19, 0.18),
        "lr": (1e-3, 8e-3, 0.15),
        "batch": (8, 16, 0.0),
    }
    assert found.slopes[-1].share == pytest.approx(0, abs=1e-9)
    assert found.slopes[0].share == max(slope.share for slope in found.slopes)


def test_a_key_that_varies_only_with_another_is_left_out(db: SqlStore) -> None:
    for seed in range(8):
        store_run(
            db, config(seed=seed, ae=seed % 2 == 0, channels=8 + seed, batch=16 + 2 * seed), metric=seed / 8
        )
    found = regression(db.runs(), metric="metric")
    assert found.left_out == ["batch"]
    assert {slope.key for slope in found.slopes} == {"ae", "channels"}


def test_the_command(capsys: Capsys, db: SqlStore) -> None:
    fill(db, tt=[1.0, 0.8], ft=[0.5, 0.6])
    said = json.loads(output(capsys, "effect", "ae", "--json"))
    assert [level["mean"] for level in said["levels"]] == pytest.approx([0.55, 0.9])
    assert [(each["of"], each["pairs"]) for each in said["differences"]] == [("ae: true - false", 2)]
    assert "0.35 [-1.56, 2.26]" in output(capsys, "effect", "ae")
    header, row = output(capsys, "effect", "ae", "--format", "csv").splitlines()
    assert header.startswith("of,pairs,paired,")
    assert row.startswith("ae: true - false,2,0.35")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["effect", "aee"], "unknown column 'aee' (did you mean 'ae'?)"),
        (["effect", "metric"], "unknown column 'metric'"),
        (["effect", "ae", "ae"], "give one config key, or two different ones"),
        (["effect", "gol"], "gol is 3 in all 4 completed runs"),
        (["effect", "ae", "--metric", "channels"], "--metric: unknown column 'channels'"),
        (["effect"], "4 kept runs are too few for a regression on 2 config keys (ae, channels)"),
        (["effect", "--where", "ae=true and seed=0"], "metric is the same in all 1 kept runs"),
        (["effect", "--metric", "train_accuracy"], "train_accuracy is the same in all 4 kept runs"),
    ],
)
def test_bad_input(capsys: Capsys, db: SqlStore, arguments: list[str], named: str) -> None:
    fill(db, tt=[1.0, 0.8], ft=[0.5, 0.6])
    code, out, err = call(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_more_than_two_keys_are_refused(db: SqlStore) -> None:
    fill(db, tt=[1.0], ft=[0.5])
    with pytest.raises(StoreError, match="two different ones"):
        effect(db.runs(), ["ae", "rnn", "channels"], metric="metric")


def test_what_cannot_be_told_apart_is_left_out(db: SqlStore) -> None:
    """A word that one run alone has, and a key that some runs do not have."""
    for seed in range(9):
        of = config(seed=seed, channels=8 + seed % 4, schedule="constant" if seed == 0 else "linear")
        store_run(db, of, metric=seed / 10)
    found = regression(db.runs(), metric="metric")
    assert found.left_out == ["schedule=linear"]
    assert [slope.key for slope in found.slopes] == ["channels"]


def test_a_combination_without_runs_is_compared_with_nothing(db: SqlStore) -> None:
    fill(db, ft=[0.5, 0.6], tf=[0.2, 0.3], tt=[1.0, 0.8])
    found = effect(db.runs(), ["ae", "rnn"], metric="metric")
    assert [each.of for each in found.differences] == [
        "ae: true - false, rnn=true",
        "rnn: true - false, ae=true",
    ]
    assert (len(found.levels), found.interaction) == (3, None)


def test_combinations_that_differ_in_both_keys_are_refused(db: SqlStore) -> None:
    fill(db, ft=[0.5], tf=[0.2])
    with pytest.raises(StoreError, match="no two combinations of ae and rnn"):
        effect(db.runs(), ["ae", "rnn"], metric="metric")
