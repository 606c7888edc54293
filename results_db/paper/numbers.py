"""The papers' numbers that the installed experiments declare.

A package whose numbers cannot be used is named in a warning and left out, and so is a table whose name is taken.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from imagination import registry
from imagination.declaration import Declaration
from imagination.paper import Number, Paper
from imagination.schema import nearest, require
from results_db.columns import merged
from results_db.contract import StoreError

log = logging.getLogger(__name__)

TABLES: dict[str, Sequence[Number]] = {}
"""The numbers of each table, in the paper's order."""

ABOUT: dict[str, str] = {}
"""What each table shows, in one line."""


def _papers() -> Iterator[tuple[str, Paper]]:
    """The papers of the installed experiments, each with its `module:name`."""
    declared = [one for one in registry.declarations() if one.numbers]
    for path in dict.fromkeys(one.numbers for one in declared):
        own = [one for one in declared if one.numbers == path]
        if (paper := registry.load_or_warn(path, partial(_check, experiments=own))) is not None:
            yield path, paper


def _check(found: Any, *, experiments: Sequence[Declaration]) -> None:
    require(isinstance(found, Paper), "it is no Paper", keys=("experiment",))
    found.check(
        keys={key for one in experiments for key in one.keys},
        metrics={name for one in experiments for name in one.metrics},
    )


def _collect() -> None:
    owners: dict[str, str] = {}
    for path, paper in _papers():
        for name, numbers in paper.tables.items():
            if owners.setdefault(name, path) == path:
                TABLES[name], ABOUT[name] = numbers, paper.about[name]
            else:
                log.warning(
                    "table '%s' of %s is left out: %s has a table of this name", name, path, owners[name]
                )


_collect()

MEANS = [
    name for name, numbers in TABLES.items() if not any(number.derived or number.effect for number in numbers)
]
"""The tables of means of metrics."""


def cell_keys(table: str) -> list[str]:
    """The group columns of a table: the keys of all of its numbers' cells."""
    return merged(list(number.cell) for number in TABLES[table])


def chosen(name: str | None) -> list[str]:
    """The tables with this name; `all` names every table.

    Raises:
        StoreError: the name is missing or unknown.
    """
    valid = [*TABLES, "all"]
    if name is None:
        raise StoreError(f"TABLE is missing; give one of {', '.join(valid)}")
    if name not in valid:
        raise StoreError(f"unknown table '{name}'{nearest(name, valid)}; valid tables: {', '.join(valid)}")
    return list(TABLES) if name == "all" else [name]
