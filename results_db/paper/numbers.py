"""The papers' numbers that the installed experiments declare."""

from imagination import registry
from imagination.paper import Paper
from imagination.schema import nearest
from results_db.contract import StoreError

_PAPERS: list[Paper] = [
    registry.load(path) for path in dict.fromkeys(one.numbers for one in registry.declarations()) if path
]

TABLES = {name: numbers for paper in _PAPERS for name, numbers in paper.tables.items()}
"""The numbers of each table, in the paper's order."""

ABOUT = {name: line for paper in _PAPERS for name, line in paper.about.items()}
"""What each table shows, in one line."""

MEANS = [
    name
    for name, numbers in TABLES.items()
    if not any(one.derived or one.quantity == "effect" for one in numbers)
]
"""The tables of means of metrics."""

EFFECTS = {name: effect for paper in _PAPERS for name, effect in paper.effects.items()}
"""The claims that the table `signs` is about, by name."""


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
