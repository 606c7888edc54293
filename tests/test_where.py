"""The filter language: what it reads, what it selects, and what it refuses in one line."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results_db.contract import StoreError
from results_db.query import where
from results_db.query.where import Both, Compare, Either, Expression, Member, Not, parse


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gol = 3", [1, 2]),
        ("gol == 3", [1, 2]),
        ("gol=3.0", [1, 2]),
        ("gol != 3", [0, 3]),
        ("gol < 3", [0]),
        ("gol <= 3", [0, 1, 2]),
        ("gol > 3", [3]),
        ("gol>=3", [1, 2, 3]),
        ("lr = 1e-3", [0]),
        ("lr < +1.0E-3", [1]),
        ("gol > -1", [0, 1, 2, 3]),
        ("ae=true", [0, 2, 3]),
        ("ae = FALSE", [1]),
        ("ae != True", [1]),
        ("loss = bce", [0, 2]),
        ("loss = 'l2'", [1]),
        ('loss = "paper-x"', [3]),
        ("loss = paper-x", [3]),
        ("gol in (2, 4)", [0, 3]),
        ("loss IN (bce, 'l2')", [0, 1, 2]),
        ("metric = null", [1]),
        ("metric != NULL", [0, 2, 3]),
        ("metric in (null, 1)", [1, 2]),
        # A missing value compares as false, whatever the operator, and `not` turns that round.
        ("metric >= 0", [0, 2, 3]),
        ("metric != 1", [0, 3]),
        ("not metric = 1", [0, 1, 3]),
        # `and` binds closer than `or`, `not` closer than both.
        ("gol=2 or gol=3 and ae=true", [0, 2]),
        ("(gol=2 or gol=3) and ae=true", [0, 2]),
        ("(gol=2 or gol=3) AND NOT ae=true", [1]),
        ("not gol=2 and ae=true", [2, 3]),
        ("not (gol=2 and ae=true)", [1, 2, 3]),
        ("not not gol=2", [0]),
        # A column of numbers and words is compared with either.
        ("own = 7", [1]),
        ("own = seven", [3]),
        ("own < 8", [1]),
        # A run id is named by its first characters, also where they look like a number that is too large, has
        # leading zeros, or is written in capitals.
        ("run_id = 698bbec721", [0]),
        ("run_id = 698BBEC", [0]),
        ("run_id = 1234567890", [1]),
        ("run_id = 12e9999999", [2]),
        ("run_id = '0012'", [3]),
        ("run_id = 0012", [3]),
        ("run_id = 12", [1, 2]),
        ("run_id != 12", [0, 3]),
        ("run_id in (698b, 0012)", [0, 3]),
        ("run_id = 698bbec721aaff", []),
        ("run_id >= 12e9", [0, 2]),
        ("run_id = null", []),
        # States are read in any case, outcomes too.
        ("state = completed", [0, 1]),
        ("state in (Running, 'failed')", [2, 3]),
        ("not state = COMPLETED", [2, 3]),
        ("outcome = Reached", [0]),
        ("outcome != reached", [1]),
        ("outcome = null", [2, 3]),
    ],
)
def test_selects(text: str, expected: list[int]) -> None:
    assert rows(text) == expected


def test_no_filter_selects_everything() -> None:
    assert len(where.apply(None, frame())) == 4


def test_a_comparison_on_no_rows_selects_none() -> None:
    assert len(where.apply("gol = 3 and loss = x", frame().iloc[:0])) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends too early"),
        ("gol", "ends too early"),
        ("gol =", "ends too early, at position 6"),
        ("gol = 3 and", "ends too early"),
        ("(gol = 3", "ends too early"),
        ("gol 3", "cannot read '3' at position 5"),
        ("gol = 3)", "cannot read ')' at position 8"),
        ("gol = 3 4", "cannot read '4' at position 9"),
        ("gol <> 3", "cannot read '>' at position 6"),
        ("gol in ()", "cannot read ')' at position 9"),
        ("gol in 3", "cannot read '3' at position 8"),
        ("= 3", "cannot read '=' at position 1"),
        ("loss = 'bce", "cannot read ''' at position 8"),
        ("gol = 3; drop table run", "cannot read ';' at position 8"),
        ("gol = 3 -- and more", "cannot read '-' at position 9"),
        ("gol = 3 union select 1", "cannot read 'union' at position 9"),
        ("gol = (select 1)", "cannot read '(' at position 7"),
        ("count(gol) = 1", "cannot read '(' at position 6"),
        ("gol = max(gol)", "cannot read '(' at position 10"),
        ("1 = 1", "cannot read '1' at position 1"),
        ("gol = 3 /* x */", "cannot read '/' at position 9"),
        ("gol = 1e999", "too large"),
        (f"gol = {'9' * 5000}", "too large"),
        ("golf = 3", "unknown column 'golf' (did you mean 'gol'?); valid columns: gol, ae, lr"),
        ("gol = three", '"three" is a word, but gol is a number'),
        ("gol = true", "true is true or false, but gol is a number"),
        ("ae = 1", "1 is a number, but ae is true or false"),
        ("loss = 2", "2 is a number, but loss is a word"),
        ("own = true", "but own is a number or a word"),
        ("ae > false", "false can only be compared with = and !="),
        ("metric < null", "null can only be compared with = and !="),
        (
            "outcome = reched",
            "'reched' (did you mean 'reached'?); valid ones: reached, step_limit, given_up, ",
        ),
        ("outcome in (reached, limit)", "unknown outcome 'limit' (did you mean 'step_limit'?)"),
        (
            "state = complete",
            "unknown state 'complete' (did you mean 'COMPLETED'?); valid ones: STAGED, PEND",
        ),
        ("state = 3", "unknown state '3'; valid ones: STAGED"),
        ("state = true", "true is true or false, but state is a word"),
        ("run_id = gol", "--where: 'gol' is not the beginning of a run id (0-9, a-f)"),
        ("run_id = 1.5", "'1.5' is not the beginning of a run id"),
        ("run_id = ''", "'' is not the beginning of a run id"),
        ("gol in (2, x)", '"x" is a word, but gol is a number'),
        ("not " * 5000 + "gol = 3", "nested too deeply"),
    ],
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
    with pytest.raises(StoreError, match="like 'ae=true and channels<=20'"):
        parse("gol like 3")
    parse(where.EXAMPLE)


names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(
    # of a run id and a state, a number is read as a word
    lambda word: word not in ("and", "or", "not", "in", "true", "false", "null", "run_id", "state")
)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.booleans() | st.none() | st.integers(-(10**30), 10**30) | finite | st.text()


def expressions(
    column: st.SearchStrategy[str], leaf: st.SearchStrategy[Expression]
) -> st.SearchStrategy[Expression]:
    def joined(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        several = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return inner.map(Not) | several.map(Both) | several.map(Either)

    return st.recursive(leaf, joined, max_leaves=8)


operators = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
any_leaf = st.builds(Compare, names, operators, values) | st.builds(
    Member, names, st.lists(values, min_size=1, max_size=3).map(tuple)
)


@given(expressions(names, any_leaf))
def test_what_is_printed_parses_back(tree: Expression) -> None:
    # repr, for 1 == 1.0 == True would hide a change of type
    assert repr(parse(str(tree))) == repr(tree)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except StoreError as error:
        assert "\n" not in " ".join(str(error).replace(text, "").split(" "))


small = st.integers(0, 3)
number_leaf = st.builds(Compare, st.just("n"), operators, small | small.map(float)) | st.builds(
    Member, st.just("n"), st.lists(small | st.none(), min_size=1).map(tuple)
)
bool_leaf = st.builds(Compare, st.just("b"), st.sampled_from(["=", "!="]), st.booleans() | st.none())
word_leaf = st.builds(Compare, st.just("w"), st.sampled_from(["=", "!="]), st.sampled_from(["x", "y", None]))


def holds(tree: Expression, row: dict) -> bool:
    """An evaluation of one row, written without the code under test."""
    match tree:
        case Compare(column, sign, None):
            return (row[column] is None) == (sign == "=")
        case Compare(column, sign, value):
            cell = row[column]
            if cell is None:
                return False
            return {
                "=": cell == value,
                "!=": cell != value,
                "<": sign == "<" and cell < value,
                "<=": sign == "<=" and cell <= value,
                ">": sign == ">" and cell > value,
                ">=": sign == ">=" and cell >= value,
            }[sign]
        case Member(column, members):
            return row[column] in members
        case Not(item):
            return not holds(item, row)
        case Both(items):
            return all(holds(item, row) for item in items)
        case Either(items):
            return any(holds(item, row) for item in items)
    raise AssertionError(tree)


table = st.lists(
    st.fixed_dictionaries(
        {"n": small | st.none(), "b": st.booleans() | st.none(), "w": st.sampled_from(["x", "y", None])}
    )
)


@given(expressions(names, number_leaf | bool_leaf | word_leaf), table)
def test_selects_the_rows_that_a_plain_evaluation_selects(tree: Expression, cells: list[dict]) -> None:
    # One row that has every kind of value keeps each column comparable.
    cells = [*cells, {"n": 1, "b": True, "w": "x"}]
    for dtype in (object, None):
        columns = {name: pd.Series([row[name] for row in cells], dtype=dtype) for name in "nbw"}
        assert tree.mask(pd.DataFrame(columns)).tolist() == [holds(tree, row) for row in cells]
