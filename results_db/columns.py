"""The columns of a run, in the order in which listings show them.

The columns of every run come first, then the config keys, of which the seed is the last, then the metrics. The store
knows the order of the keys and metrics of each experiment (`contract.Experiment`).
"""

from collections.abc import Iterable, Sequence

from imagination.schema import nearest
from results_db.contract import StoreError

LABELS = ("tag", "note")
"""What users added to a run; `tag` names its tags, see `names_in`."""

RUN_COLUMNS = ("run_id", "sweep", "state", "outcome", "attempts", "seconds", *LABELS)
"""`sweep` names the sweeps of a run, see `names_in`."""

GATE_COLUMNS = ("gate", "kept")
"""The gate of the run's experiment, in words, and whether the run is completed and passed it."""

LAST_KEY = "seed"

ADDED = ("code", "host", "cause")
"""Columns that some commands add after the metrics: what trained a run, and why it failed."""


def merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """All names of these lists. Each list keeps its order, unless an earlier one contradicts it."""
    found: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name not in found:
                found.insert(place, name)
            place = max(place, found.index(name) + 1)
    return found


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known names among these in their order, then the others, sorted."""
    given = set(names)
    return [*(name for name in known if name in given), *sorted(given - set(known))]


def config_keys(names: Iterable[str]) -> list[str]:
    """The columns of `Store.runs` that are config keys."""
    listed, others = list(names), {*RUN_COLUMNS, *GATE_COLUMNS}
    return [name for name in listed[: listed.index(LAST_KEY) + 1] if name not in others]


def metrics(names: Sequence[str]) -> list[str]:
    """The columns of `Store.runs` that are metrics."""
    after = list(names)[list(names).index(LAST_KEY) + 1 :]
    return [name for name in after if name not in ADDED]


def check_metric(name: str, names: Sequence[str], *, origin: str = "--metric") -> None:
    """Refuse a name that is none of the metrics among these columns of `Store.runs`.

    Raises:
        StoreError: see `check`.
    """
    check(name, metrics(names), origin=origin)


def names_in(cell: str | None) -> list[str]:
    """The names in a cell of the columns `sweep` and `tag`: `"quick, table1"`."""
    return cell.split(", ") if cell else []


def check(name: str, valid: Sequence[str], *, origin: str) -> None:
    """Refuse an unknown column.

    Raises:
        StoreError: `name` is not in `valid`.
    """
    if name not in valid:
        hint = nearest(name, valid)
        raise StoreError(f"{origin}: unknown column '{name}'{hint}; valid columns: {', '.join(valid)}")


def run_prefix(text: str, *, origin: str) -> str:
    """The first characters of a run id, in lower case.

    Raises:
        StoreError: `text` is empty, or not hexadecimal.
    """
    prefix = text.lower()
    if not prefix or set(prefix) - set("0123456789abcdef"):
        raise StoreError(
            f"{origin}: '{text}' is not the beginning of a run id (0-9, a-f); list the ids with: imagine-results runs"
        )
    return prefix
