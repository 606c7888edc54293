"""The filter language: what it reads, what it selects, and what it refuses in one line."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results_db.contract import StoreError
from results_db.query import where


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "gol": [2, 3, 3, 4],
            "ae": [True, False, True, True],
            "lr": [1e-3, 5e-4, 1.0, 2e-3],
            "loss": ["bce", "l2", "bce", "paper-x"],
            "metric": [0.5, np.nan, 1.0, 0.0],
            "run_id": ["698bbec721aa", "1234567890ab", "12e9999999cd", "00120000ffff"],
            "state": ["COMPLETED", "COMPLETED", "RUNNING", "FAILED"],
            "outcome": ["reached", "step_limit", None, None],
            "own": pd.Series([None, 7, None, "seven"], dtype=object),
        }
    )


def rows(text: str) -> list[int]:
    return list(where.apply(text, frame()).index)


SELECTED: list[tuple[list[int], list[str]]] = [
    ([1, 2], ["gol = 3", "gol == 3", "gol=3.0"]),
    ([0, 3], ["gol != 3", "gol in (2, 4)"]),
    ([1, 2, 3], ["gol>=3"]),
    ([0, 1, 2, 3], ["gol > -1"]),
    ([0], ["lr = 1e-3", "not not gol=2"]),
    ([1], ["lr < +1.0E-3"]),
    ([0, 2, 3], ["ae=true", "ae = TRUE"]),
    ([1], ["ae = FALSE", "ae != True"]),
    ([0, 2], ["loss = bce"]),
    ([1], ["loss = 'l2'"]),
    ([3], ['loss = "paper-x"', "loss = paper-x"]),
    ([0, 1, 2], ["loss IN (bce, 'l2')"]),
    # A missing value compares as false, whatever the operator, and `not` inverts that.
    ([1], ["metric = null"]),
    ([0, 2, 3], ["metric != NULL", "metric >= 0"]),
    ([1, 2], ["metric in (null, 1)"]),
    ([0, 3], ["metric != 1"]),
    ([0, 1, 3], ["not metric = 1"]),
    # `and` binds closer than `or`, `not` closer than both.
    ([0, 2], ["gol=2 or gol=3 and ae=true", "(gol=2 or gol=3) and ae=true"]),
    ([1], ["(gol=2 or gol=3) AND NOT ae=true"]),
    ([2, 3], ["not gol=2 and ae=true"]),
    ([1, 2, 3], ["not (gol=2 and ae=true)"]),
    # A column of numbers and words is compared with either.
    ([1], ["own = 7", "own < 8"]),
    ([3], ["own = seven"]),
    # The first characters name a run, also where they look like a number that is too large, have leading zeros, or
    # are capitals.
    ([0], ["run_id = 698bbec721", "run_id = 698BBEC"]),
    ([1], ["run_id = 1234567890"]),
    ([2], ["run_id = 12e9999999"]),
    ([3], ["run_id = '0012'", "run_id = 0012"]),
    ([1, 2], ["run_id = 12"]),
    ([0, 3], ["run_id != 12", "run_id in (698b, 0012)"]),
    ([], ["run_id = 698bbec721aaff", "run_id = null"]),
    ([0, 2], ["run_id >= 12e9"]),
    # States and outcomes are read in any case.
    ([0, 1], ["state = completed"]),
    ([2, 3], ["state in (Running, 'failed')", "not state = COMPLETED", "outcome = null"]),
    ([0], ["outcome = Reached"]),
    ([1], ["outcome != reached"]),
]


@pytest.mark.parametrize(("text", "expected"), [(text, rows) for rows, texts in SELECTED for text in texts])
def test_selects(text: str, expected: list[int]) -> None:
    assert rows(text) == expected


@pytest.mark.parametrize("text", ["a=1 and not (b>2 or c in (x, y))", "a = 1 and b > 2 or c = a"])
def test_a_filter_names_its_columns(text: str) -> None:
    assert where.names(text) == {"a", "b", "c"}


def test_no_filter_selects_everything_and_no_rows_give_none() -> None:
    assert len(where.apply(None, frame())) == 4
    assert len(where.apply("gol = 3 and loss = x", frame().iloc[:0])) == 0


REFUSED = {
    "ends too early": ["", "gol", "gol = 3 and", "(gol = 3"],
    "ends too early, at position 6": ["gol ="],
    "cannot read '3' at position 5": ["gol 3"],
    "cannot read ')' at position 8": ["gol = 3)"],
    "cannot read '4' at position 9": ["gol = 3 4"],
    "cannot read '>' at position 6": ["gol <> 3"],
    "cannot read ')' at position 9": ["gol in ()"],
    "cannot read '3' at position 8": ["gol in 3"],
    "cannot read '=' at position 1": ["= 3"],
    "cannot read ''' at position 8": ["loss = 'bce"],
    "cannot read ';' at position 8": ["gol = 3; drop table run"],
    "cannot read 'union' at position 9": ["gol = 3 union select 1"],
    "cannot read '(' at position 7": ["gol = (select 1)"],
    "cannot read '1' at position 1": ["1 = 1"],
    "cannot read '/' at position 9": ["gol = 3 /* x */"],
    "too large": ["gol = 1e999", f"gol = {'9' * 5000}"],
    "unknown column 'golf' (did you mean 'gol'?); valid columns: gol, ae, lr": ["golf = 3"],
    '"three" is a word, but gol is a number': ["gol = three", "gol in (2, three)"],
    "true is true or false, but gol is a number": ["gol = true"],
    "1 is a number, but ae is true or false": ["ae = 1"],
    "2 is a number, but loss is a word": ["loss = 2"],
    "but own is a number or a word": ["own = true"],
    "false can only be compared with = and !=": ["ae > false"],
    "null can only be compared with = and !=": ["metric < null"],
    "'reched' (did you mean 'reached'?); valid ones: reached, step_limit, given_up, ": ["outcome = reched"],
    "unknown outcome 'limit' (did you mean 'step_limit'?)": ["outcome in (reached, limit)"],
    "unknown state 'complete' (did you mean 'COMPLETED'?); valid ones: STAGED, PEND": ["state = complete"],
    "unknown state '3'; valid ones: STAGED": ["state = 3"],
    "true is true or false, but state is a word": ["state = true"],
    "'gol'": ["run_id = gol"],
    "'1.5'": ["run_id = 1.5"],
    "''": ["run_id = ''"],
    "nested too deeply": ["not " * 5000 + "gol = 3"],
}


@pytest.mark.parametrize(
    ("text", "says"), [(text, says) for says, texts in REFUSED.items() for text in texts]
)
def test_refuses(text: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        where.apply(text, frame())
    message = str(caught.value)
    assert says in message
    assert message.startswith("--where")
    assert "\n" not in message


def test_an_unknown_word_is_refused_where_nothing_is_stored() -> None:
    with pytest.raises(StoreError, match="unknown state 'done'"):
        where.apply("state = done", frame().iloc[:0])


def test_a_syntax_error_shows_what_is_allowed() -> None:
    with pytest.raises(StoreError, match="like 'state=completed and seed<=20'"):
        where.apply("gol like 3", frame())
    assert rows(where.EXAMPLE.replace("seed", "gol")) == [0, 1]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    said = ""
    try:
        where.apply(text, frame())
    except StoreError as error:
        said = str(error)
    assert "\n" not in said.replace(text, "")


Row = dict[str, Any]
Condition = tuple[str, Callable[[Row], bool]]
"""A filter, and a plain evaluation of it on one row that uses none of the code under test."""

OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compared(column: str, sign: str, value: tuple[str, Any]) -> Condition:
    text, wanted = value

    def holds(row: Row) -> bool:
        if wanted is None:
            return (row[column] is None) == (sign == "=")
        return row[column] is not None and OPERATORS[sign](row[column], wanted)

    return f"{column} {sign} {text}", holds


def member(values: list[tuple[str, Any]]) -> Condition:
    return (
        f"n in ({', '.join(text for text, _ in values)})",
        lambda row: row["n"] in [one for _, one in values],
    )


def joined(word: str, conditions: list[Condition]) -> Condition:
    of = all if word == "and" else any
    text = f" {word} ".join(f"({text})" for text, _ in conditions)
    return text, lambda row: of(holds(row) for _, holds in conditions)


def negated(condition: Condition) -> Condition:
    return f"not ({condition[0]})", lambda row: not condition[1](row)


number = st.sampled_from([("0", 0), ("1.0", 1.0), ("2", 2), ("3e0", 3)])
boolean = st.sampled_from([("true", True), ("FALSE", False), ("null", None)])
word = st.sampled_from([("x", "x"), ("'y'", "y"), ("Null", None)])
equality = st.sampled_from(["=", "!="])
leaves = (
    st.builds(compared, st.just("n"), st.sampled_from(list(OPERATORS)), number)
    | st.builds(compared, st.just("b"), equality, boolean)
    | st.builds(compared, st.just("w"), equality, word)
    | st.builds(member, st.lists(number | st.just(("null", None)), min_size=1))
)
conditions = st.recursive(
    leaves,
    lambda inner: (
        inner.map(negated)
        | st.builds(joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=8,
)
table = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.sampled_from([0, 1, 2, 3, None]),
            "b": st.sampled_from([True, False, None]),
            "w": st.sampled_from(["x", "y", None]),
        }
    )
)


@given(conditions, table)
def test_selects_the_rows_that_a_plain_evaluation_selects(condition: Condition, cells: list[Row]) -> None:
    text, holds = condition
    # The first row has every kind of value, so that each column can be compared.
    cells = [{"n": 1, "b": True, "w": "x"}, *cells]
    for dtype in (object, None):
        columns = {name: pd.Series([row[name] for row in cells], dtype=dtype) for name in "nbw"}
        assert where.mask(text, pd.DataFrame(columns)).tolist() == [holds(row) for row in cells]


def test_outcomes_of_foreign_runners_are_words_too() -> None:
    runs = frame().assign(outcome=["converged", "reached", None, None])
    assert list(where.apply("outcome = Converged", runs).index) == [0]
    with pytest.raises(StoreError, match=r"did you mean 'converged'\?\); valid ones: .*, converged"):
        where.apply("outcome = convergd", runs)
