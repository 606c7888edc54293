"""The columns that `results_db` knows by name, held against the packages that it does not import."""

import pytest

from imagination import schema
from imagination.registry import EXPERIMENTS, config_type
from imagination.schema import keys
from results_db import text as words
from results_db.columns import CONFIG_COLUMNS, METRIC_COLUMNS, RUN_COLUMNS, in_order


def test_config_columns_are_the_config_keys_of_all_experiments() -> None:
    assert set(CONFIG_COLUMNS) == {key for name in EXPERIMENTS for key in keys(config_type(name))}
    assert (CONFIG_COLUMNS[:4], CONFIG_COLUMNS[-1]) == (("experiment", "preset", "gol", "model_t"), "seed")


def test_no_column_has_two_meanings() -> None:
    every = [*RUN_COLUMNS, *CONFIG_COLUMNS, *METRIC_COLUMNS]
    assert len(set(every)) == len(every)


def test_unknown_names_follow_the_known_ones() -> None:
    assert in_order({"zeta", "b", "alpha"}, ("c", "b")) == ["c", "b", "alpha", "zeta"]


@pytest.mark.parametrize("word", ["gool", "modle", "mysql", "chanels", "zzz"])
def test_both_packages_guess_alike(word: str) -> None:
    valid = [*CONFIG_COLUMNS, "sqlite"]
    assert words.nearest(word, valid) == schema.nearest(word, valid)


def test_a_word_that_is_half_right_is_guessed() -> None:
    # 'sql' is common: 2 * 3 of 5 + 6 characters, a ratio of .545
    assert words.nearest("mysql", ["sqlite"]) == " (did you mean 'sqlite'?)"
