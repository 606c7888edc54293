"""The filter language of `--where`, evaluated on a frame and never pasted into SQL.

Examples: `ae=true and channels<=20`, `not (gol in (2, 3) or preset = fast)`, `metric != null`.

A missing value fails every comparison, `!=` included; only `= null` finds it. `not` inverts the result, so
`not metric = 1` also selects runs without a metric.
"""

import json
import math
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from lark import Lark, Token, Tree, UnexpectedInput

from imagination.schema import nearest
from results_db import columns
from results_db import frame as frames
from results_db.contract import OUTCOMES, State, StoreError
from results_db.query.gate import AnyFrame

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from results_db.frame import Frame

Value = bool | int | float | str | None

EXAMPLE = "state=completed and seed<=20"

_PARSER = Lark(
    r"""
?start: either
?either: both (_OR both)*
?both: single (_AND single)*
?single: _NOT single                            -> negation
       | "(" either ")"
       | NAME OPERATOR value                    -> compare
       | NAME _IN "(" value ("," value)* ")"    -> member

?value: NUMBER | TRUE | FALSE | NULL | WORD | QUOTED

_OR.2: /or(?![\w.-])/i
_AND.2: /and(?![\w.-])/i
_NOT.2: /not(?![\w.-])/i
_IN.2: /in(?![\w.-])/i
TRUE.2: /true(?![\w.-])/i
FALSE.2: /false(?![\w.-])/i
NULL.2: /null(?![\w.-])/i
NUMBER.2: /[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(?![\w.])/i
NAME: /[A-Za-z_][A-Za-z0-9_]*/
WORD: /[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*/
QUOTED: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
OPERATOR: /==|!=|<=|>=|=|<|>/
%ignore /\s+/
""",
    parser="lalr",
)

_OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_WORDS: dict[str, tuple[list[str], Callable[[str], str]]] = {
    "state": ([str(state) for state in State], str.upper),
    "outcome": ([str(outcome) for outcome in OUTCOMES], str.lower),
}
"""Columns with words that are known, besides those in their cells, and their case; a filter may use any case."""


_LISTS = ("sweep", "tag")
"""Columns whose cells may have several names."""


def mask(text: str, frame: "pd.DataFrame | Frame", *, origin: str = "--where") -> np.ndarray:
    """The rows of the frame that meet the filter: bool `[rows]`. Errors name the option that the filter is of.

    Raises:
        StoreError: a syntax error, an unknown column or word, or values that cannot be compared.
    """
    try:
        return _evaluate(_PARSER.parse(text), frame, origin)
    except UnexpectedInput as error:
        raise StoreError(f"{origin} {_syntax_error(text, error)}") from None
    except RecursionError:
        raise StoreError(
            f"{origin}: the filter is nested too deeply; use fewer parentheses and nots"
        ) from None


def apply(text: str | None, frame: AnyFrame, *, sweep: str | None = None) -> AnyFrame:
    """The rows of the frame that meet the filter and are runs of the sweep; all of them without both.

    Raises:
        StoreError: see `mask`; or no run is of the sweep, though there are runs.
    """
    if sweep is not None and not frame.empty:
        cells = set(np.asarray(frame["sweep"], dtype=object)) - {None}
        valid = sorted({name for cell in cells for name in columns.names_in(cell)})
        if sweep not in valid:
            raise StoreError(
                f"--sweep: no run of a sweep '{sweep}' is stored{nearest(sweep, valid)}; "
                f"valid ones: {', '.join(valid) or 'none'}"
            )
        frame = frame[_naming(np.asarray(frame["sweep"], dtype=object), sweep)]
    return frame if text is None else frame[mask(text, frame)]


def names(text: str) -> set[str]:
    """The columns that a filter is about."""
    tokens = _PARSER.parse(text).scan_values(lambda token: isinstance(token, Token) and token.type == "NAME")
    return {str(token) for token in tokens}


def _naming(cells: np.ndarray, name: object) -> np.ndarray:
    return np.array([name in columns.names_in(cell) for cell in cells], dtype=bool)


def _syntax_error(text: str, error: UnexpectedInput) -> str:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        found = f"it ends too early, at position {len(text) + 1}"
    else:
        place = error.pos_in_stream or 0
        found = f"cannot read '{token or text[place]}' at position {place + 1}"
    return f"'{text}': {found}; allowed are comparisons with and, or, not, in (..), like '{EXAMPLE}'"


def _evaluate(tree: Tree[Token], frame: "pd.DataFrame | Frame", origin: str) -> np.ndarray:
    children: list[Any] = tree.children
    if tree.data == "compare":
        column, sign, value = children
        return _compare(frame, column, "=" if sign == "==" else str(sign), value, origin=origin)
    if tree.data == "negation":
        return ~_evaluate(children[0], frame, origin)
    if tree.data == "member":
        column, *values = children
        parts = [_compare(frame, column, "=", value, origin=origin) for value in values]
    else:
        parts = [_evaluate(child, frame, origin) for child in children]
    combine = np.logical_and if tree.data == "both" else np.logical_or
    return np.asarray(combine.reduce(parts), dtype=bool)


def _compare(
    frame: "pd.DataFrame | Frame", column: str, sign: str, token: Token, *, origin: str
) -> np.ndarray:
    """The rows whose cell compares with the value; cells of another kind than the value do not."""
    columns.check(column, list(frame.columns), origin=origin)
    cells = np.asarray(frame[column], dtype=object)
    value = _value(token, cells, column=column, origin=origin)
    shown = json.dumps(value, ensure_ascii=False)
    if sign not in ("=", "!=") and (value is None or isinstance(value, bool)):
        raise StoreError(f"{origin}: '{column} {sign} {shown}': {shown} can only be compared with = and !=")
    missing = frames.missing(cells)
    if value is None:
        return missing if sign == "=" else ~missing
    kinds = np.array([_kind(cell) for cell in cells], dtype=object)
    fits = ~missing & (kinds == _kind(value))
    if not (missing.all() or fits.any()):
        raise StoreError(
            f"{origin}: '{column} {sign} {shown}': {shown} is {_kind(value)}, "
            f"but {column} is {' or '.join(sorted(set(kinds[~missing])))}"
        )
    if column == "run_id" and sign in ("=", "!="):  # the first characters name a run, as everywhere
        return np.array([cell.startswith(value) == (sign == "=") for cell in cells], dtype=bool)
    if column in _LISTS and sign in ("=", "!="):
        named = _naming(cells, value)
        return np.asarray(~missing & (named == (sign == "=")))
    found = np.zeros(len(cells), dtype=bool)
    found[fits] = _OPERATORS[sign](cells[fits], value)
    return found


def _kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    return "a number" if isinstance(value, int | float | np.number) else "a word"


def _value(token: Token, cells: np.ndarray, *, column: str, origin: str) -> Value:
    """The value that a token stands for. For run ids, states and outcomes a number is a word, too."""
    match token.type:
        case "TRUE" | "FALSE":
            return token.type == "TRUE"
        case "NULL":
            return None
        case "NUMBER" if column != "run_id" and column not in _WORDS:
            return _number(token, origin)
        case "QUOTED":
            text = re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
            return _word(text, cells, column=column, origin=origin)
    return _word(str(token), cells, column=column, origin=origin)


def _number(text: str, origin: str) -> int | float:
    number = float(text)
    if math.isinf(number):
        raise StoreError(f"{origin}: {text[:20]} is too large for a number")
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else number


def _word(word: str, cells: np.ndarray, *, column: str, origin: str) -> str:
    if column == "run_id":
        return columns.run_prefix(word, origin=origin)
    if column not in _WORDS:
        return word
    known, fold = _WORDS[column]
    valid = dict.fromkeys([*known, *sorted({cell for cell in cells if isinstance(cell, str)})])
    if fold(word) not in valid:
        hint = nearest(fold(word), valid)
        raise StoreError(f"{origin}: unknown {column} '{word}'{hint}; valid ones: {', '.join(valid)}")
    return fold(word)
