"""Rows as columns: the few things that tables need of a pandas frame, without the half second of importing pandas.

The functions of `results_db.query` that say so take a `Frame` or a pandas frame: both give `frame[NAME]` and
`frame[MASK]`, `frame.columns` and `len(frame)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np


@dataclass(frozen=True)
class Column:
    """The cells of a column: `[rows]`, or the cells of kinds of rows, `[kinds]`, and the kind of each row `[rows]`."""

    cells: np.ndarray
    kinds: np.ndarray | None = None

    @cached_property
    def expanded(self) -> np.ndarray:
        """The cells, `[rows]`."""
        return self.cells if self.kinds is None else self.cells[self.kinds]

    @cached_property
    def codes(self) -> np.ndarray:
        """An integer for each row; equal cells have equal integers."""
        cells = plain(self.cells)
        known = {cell: code for code, cell in enumerate(dict.fromkeys(cells))}
        if len(known) == 1:
            return np.zeros(len(cells if self.kinds is None else self.kinds), dtype=np.intp)
        found = np.fromiter(map(known.__getitem__, cells), dtype=np.intp, count=len(cells))
        return found if self.kinds is None else found[self.kinds]

    def take(self, rows: np.ndarray) -> "Column":
        """The column with these rows."""
        return Column(self.cells[rows]) if self.kinds is None else Column(self.cells, self.kinds[rows])


def objects(values: Sequence[Any]) -> np.ndarray:
    """The values as an array of objects, whatever they are: `[values]`."""
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


def column(values: Sequence[Any]) -> Column:
    """A column with any kinds of cells."""
    return Column(objects(values))


def plain(cells: np.ndarray) -> list[Any]:
    """The cells as bool, int, float, str, or None where one is missing."""
    listed: list[Any] = cells.tolist()
    return [None if gone else cell for cell, gone in zip(listed, missing(cells).tolist(), strict=True)]


def missing(cells: np.ndarray) -> np.ndarray:
    """The cells that are None or NaN: bool `[rows]`."""
    if cells.dtype == object:
        return np.array(
            [cell is None or (type(cell) is float and math.isnan(cell)) for cell in cells], dtype=bool
        )
    return np.isnan(cells) if cells.dtype.kind == "f" else np.zeros(len(cells), dtype=bool)


class Frame:
    """Rows as columns. A column may be a function, which is called when the column is first needed.

    Attributes:
        columns: the names of the columns.
    """

    def __init__(
        self, columns: dict[str, Column | Callable[[], Column]], size: int, *, rows: np.ndarray | None = None
    ) -> None:
        self.columns = list(columns)
        self._source = columns
        self._size = size
        self._rows = rows
        self._taken: dict[str, Column] = {}

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "Frame":
        """A frame of these rows; a cell that a row lacks is None."""
        names = dict.fromkeys(name for row in rows for name in row)
        return cls({name: column([row.get(name) for row in rows]) for name in names}, len(rows))

    def __len__(self) -> int:
        return self._size if self._rows is None else len(self._rows)

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return len(self) == 0

    @overload
    def __getitem__(self, wanted: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, wanted: np.ndarray) -> "Frame": ...
    def __getitem__(self, wanted: "str | np.ndarray") -> "np.ndarray | Frame":
        """The cells of a column; or the rows of a mask `[rows]` of booleans."""
        return self.column(wanted).expanded if isinstance(wanted, str) else self.take(np.flatnonzero(wanted))

    def column(self, name: str) -> Column:
        """A column by name."""
        if name not in self._taken:
            whole = self._source[name]
            if not isinstance(whole, Column):
                whole = self._source[name] = whole()
            self._taken[name] = whole if self._rows is None else whole.take(self._rows)
        return self._taken[name]

    def take(self, places: np.ndarray) -> "Frame":
        """The rows at these places, in this order."""
        rows = places if self._rows is None else self._rows[places]
        return Frame(self._source, self._size, rows=rows)

    def records(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows as dictionaries of plain values, with these columns or all."""
        chosen = self.columns if names is None else names
        cells = [plain(self[name]) for name in chosen]
        return [dict(zip(chosen, row, strict=True)) for row in zip(*cells, strict=True)]

    def with_column(self, name: str, added: Callable[[], Column]) -> "Frame":
        """The frame with one more column; `added` has a cell for each row of this frame's source."""
        return Frame({**self._source, name: added}, self._size, rows=self._rows)
