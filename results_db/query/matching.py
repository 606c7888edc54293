"""How `--where` compares a column with a word: mostly as it stands, some columns in a way of their own."""

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from results_db.columns import run_prefix
from results_db.contract import OUTCOMES, State, StoreError
from results_db.text import nearest

Operator = Callable[[Any, Any], Any]

_OPERATORS: dict[str, Operator] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Matching(NamedTuple):
    """How a column is compared.

    Attributes:
        read: from the word that a person wrote to the one that is compared.
        operators: from an operator to the comparison of cells `[rows]` with a value, bool `[rows]`.
    """

    read: Callable[[str], str] = str
    operators: Mapping[str, Operator] = _OPERATORS


def _begin(cells: np.ndarray, start: str) -> np.ndarray:
    return np.array([cell.startswith(start) for cell in cells], dtype=bool)


def _one_of(word: str, *, column: str, valid: Iterable[str], fold: Callable[[str], str]) -> str:
    folded, words = fold(word), [str(one) for one in valid]
    if folded not in words:
        hint = nearest(folded, words)
        raise StoreError(f"--where: unknown {column} '{word}'{hint}; valid ones: {', '.join(words)}")
    return folded


AS_IT_STANDS = Matching()

MATCHING = {
    # Listings show the first characters of an id, so these name it here as everywhere.
    "run_id": Matching(
        read=partial(run_prefix, origin="--where"),
        operators={**_OPERATORS, "=": _begin, "!=": lambda cells, start: ~_begin(cells, start)},
    ),
    "state": Matching(read=partial(_one_of, column="state", valid=State, fold=str.upper)),
    "outcome": Matching(read=partial(_one_of, column="outcome", valid=OUTCOMES, fold=str.lower)),
}
"""The columns of words that are not compared as they stand. What is given for them is a word even if it looks
like a number."""
