"""The columns of a run: their order, and that no name has two meanings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagination import registry, schema
from imagination.declaration import RESERVED
from results_db.columns import ADDED, GATE_COLUMNS, RUN_COLUMNS, config_keys, in_order, merged, metrics


def test_no_column_has_two_meanings() -> None:
    every = [*RUN_COLUMNS, *GATE_COLUMNS, *registry.config_keys(), *registry.metrics()]
    assert len(set(every)) == len(every)


def test_declarations_know_the_columns_of_every_run() -> None:
    assert (*RUN_COLUMNS, *GATE_COLUMNS, *ADDED) == RESERVED


def test_unknown_names_follow_the_known_ones() -> None:
    assert in_order({"zeta", "b", "alpha"}, ("c", "b")) == ["b", "alpha", "zeta"]


def test_keys_of_several_experiments_are_merged() -> None:
    # "ae" stands before "gan" in the first list, "lstm" after "gan" in the second.
    orders = [["gol", "ae", "gan", "seed"], ["gol", "gan", "lstm", "seed"]]
    assert merged(orders) == ["gol", "ae", "gan", "lstm", "seed"]
    assert merged([["a", "b"], ["b", "a", "c"]]) == ["a", "b", "c"]


@given(st.lists(st.permutations("abcdefgh"), min_size=1, max_size=3), st.data())
def test_nothing_is_lost_and_the_first_list_keeps_its_order(
    orders: list[list[str]], data: st.DataObject
) -> None:
    parts = [[name for name in order if data.draw(st.booleans())] for order in orders]
    found = merged(parts)
    assert sorted(found) == sorted(set().union(*parts))
    assert [name for name in found if name in parts[0]] == parts[0]


def test_the_seed_is_between_keys_and_metrics() -> None:
    names = [*RUN_COLUMNS, *GATE_COLUMNS, "gol", "seed", "metric", "steps"]
    assert config_keys(names) == ["gol", "seed"]
    assert metrics(names) == ["metric", "steps"]


@pytest.mark.parametrize("name", registry.names())
def test_every_experiment_of_this_package_can_be_declared(name: str) -> None:
    declared = registry.declaration(name)
    assert declared.keys[:2] == ("experiment", "preset")
    assert declared.keys[-1] == "seed"
    assert set(declared.keys) == set(schema.keys(declared.config))


def test_a_word_that_is_half_right_is_guessed() -> None:
    # 'sql' is common: 2 * 3 of 5 + 6 characters, a ratio of .545
    assert schema.nearest("mysql", ["sqlite"]) == " (did you mean 'sqlite'?)"
