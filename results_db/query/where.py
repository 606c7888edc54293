"""The filter language of `--where`: parsed into a small tree, evaluated on a frame, never pasted into SQL.

`ae=true and channels<=20`, `not (gol in (2, 3) or preset = fast)`, `metric != null`.

A comparison with a missing value is false, `!=` too; only `= null` finds it. `not` turns that round.
`matching` knows the columns that are compared in a way of their own.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from lark import Lark, Token, Transformer, UnexpectedInput

from results_db import columns
from results_db.contract import StoreError
from results_db.query.matching import AS_IT_STANDS, MATCHING

Value = bool | int | float | str | None

EXAMPLE = "ae=true and channels<=20"

_GRAMMAR = r"""
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
"""

_KINDS = {bool: "true or false", float: "a number", str: "a word", type(None): "null"}


class Expression:
    """A condition on runs. `str()` of it parses back to the same tree."""

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows of the frame meet the condition: bool `[rows]`.

        Raises:
            StoreError: an unknown column, or a comparison of values that cannot be compared.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Compare(Expression):
    """`column operator value`; the operator is one of `= != < <= > >=`."""

    column: str
    operator: str
    value: Value

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {_text(self.value)}"

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """See `Expression.mask`."""
        if self.operator not in ("=", "!=") and (self.value is None or isinstance(self.value, bool)):
            raise StoreError(f"--where: '{self}': {_text(self.value)} can only be compared with = and !=")
        cells = _cells(frame, self.column)
        kinds = _kinds_of(cells)
        if self.value is None:
            missing = np.array([kind is type(None) for kind in kinds], dtype=bool)
            return missing if self.operator == "=" else ~missing
        matching = MATCHING.get(self.column, AS_IT_STANDS)
        value = matching.read(self.value) if isinstance(self.value, str) else self.value
        fits = _fitting(kinds, value, self)
        mask = np.zeros(len(cells), dtype=bool)
        mask[fits] = matching.operators[self.operator](cells[fits], value)
        return mask


@dataclass(frozen=True)
class Member(Expression):
    """`column in (value, ...)`: equal to one of them."""

    column: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.column} in ({', '.join(map(_text, self.values))})"

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """See `Expression.mask`."""
        return _combine(
            np.logical_or, [Compare(self.column, "=", value).mask(frame) for value in self.values]
        )


@dataclass(frozen=True)
class Not(Expression):
    """The rows that do not meet the condition."""

    item: Expression

    def __str__(self) -> str:
        return f"not {_bracketed(self.item)}"

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """See `Expression.mask`."""
        return ~self.item.mask(frame)


@dataclass(frozen=True)
class Both(Expression):
    """The rows that meet every one of two or more conditions."""

    items: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(map(_bracketed, self.items))

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """See `Expression.mask`."""
        return _combine(np.logical_and, [item.mask(frame) for item in self.items])


@dataclass(frozen=True)
class Either(Expression):
    """The rows that meet at least one of two or more conditions."""

    items: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(map(_bracketed, self.items))

    def mask(self, frame: pd.DataFrame) -> np.ndarray:
        """See `Expression.mask`."""
        return _combine(np.logical_or, [item.mask(frame) for item in self.items])


def parse(text: str) -> Expression:
    """The tree of a filter.

    Raises:
        StoreError: the text is no filter; says where, and shows one.
    """
    try:
        return cast(Expression, _PARSER.parse(text))
    except UnexpectedInput as error:
        raise StoreError(_complaint(text, error)) from None


def apply(text: str | None, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the frame that meet the filter; all of them without one.

    Raises:
        StoreError: see `parse` and `Expression.mask`.
    """
    if text is None:
        return frame
    try:
        return frame[parse(text).mask(frame)]
    except RecursionError:
        raise StoreError("--where: the filter is nested too deeply") from None


def _complaint(text: str, error: UnexpectedInput) -> str:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        found = f"it ends too early, at position {len(text) + 1}"
    else:
        place = error.pos_in_stream or 0
        found = f"cannot read '{token or text[place]}' at position {place + 1}"
    return f"--where '{text}': {found}; allowed are comparisons with and, or, not, in (..), like '{EXAMPLE}'"


def _combine(how: np.ufunc, masks: list[np.ndarray]) -> np.ndarray:
    return np.asarray(how.reduce(masks), dtype=bool)


def _cells(frame: pd.DataFrame, column: str) -> np.ndarray:
    """The column's values as Python objects."""
    columns.check(column, list(frame.columns), origin="--where")
    return frame[column].to_numpy(dtype=object)


def _kind(value: object) -> type:
    if value is None or (isinstance(value, float) and value != value):
        return type(None)
    if isinstance(value, bool | np.bool_):
        return bool
    return float if isinstance(value, int | float | np.number) else str


def _kinds_of(cells: np.ndarray) -> np.ndarray:
    kinds = np.empty(len(cells), dtype=object)
    kinds[:] = [_kind(cell) for cell in cells]
    return kinds


def _fitting(kinds: np.ndarray, value: Value, condition: Compare) -> np.ndarray:
    """The cells that are of the value's kind; an error if the column has others and none of it."""
    fits: np.ndarray = kinds == _kind(value)
    present = {kind for kind in kinds if kind is not type(None)}
    if present and not fits.any():
        holds = " or ".join(sorted(_KINDS[kind] for kind in present))
        raise StoreError(
            f"--where: '{condition}': {_text(value)} is {_KINDS[_kind(value)]}, "
            f"but {condition.column} is {holds}"
        )
    return fits


def _text(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return repr(value)


def _bracketed(item: Expression) -> str:
    return f"({item})" if isinstance(item, Both | Either) else str(item)


def _number(text: str) -> int | float:
    number = float(text)
    if math.isinf(number):
        raise StoreError(f"--where: {text[:20]} is too large for a number")
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else number


def _value(token: Token, *, column: str) -> Value:
    match token.type:
        case "NUMBER" if column not in MATCHING:
            return _number(token)
        case "TRUE" | "FALSE":
            return token.type == "TRUE"
        case "NULL":
            return None
        case "QUOTED":
            return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
    return str(token)


class _Builder(Transformer[Token, Any]):
    """Builds the tree while the parser reads."""

    def compare(self, items: list[Token]) -> Compare:
        column, sign, value = items
        return Compare(str(column), "=" if sign == "==" else str(sign), _value(value, column=column))

    def member(self, items: list[Token]) -> Member:
        column, *values = items
        return Member(str(column), tuple(_value(value, column=column) for value in values))

    def negation(self, items: list[Expression]) -> Not:
        return Not(items[0])

    def both(self, items: list[Expression]) -> Both:
        return Both(tuple(items))

    def either(self, items: list[Expression]) -> Either:
        return Either(tuple(items))


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Builder())
