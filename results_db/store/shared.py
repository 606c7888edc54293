"""Which values of its config a run keeps for itself, so that many runs share what is left.

A sweep that draws a value for each run would otherwise store as many configs as runs, and a table would read them all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_FEW = 10
_RUNS_EACH = 10
"""At most `_FEW` configs are shared, or one for `_RUNS_EACH` runs."""


def divide(configs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each config as a part to share, in which the run's own values are null, and these values."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, config in enumerate(configs):
        alike.setdefault(tuple(config), []).append(place)
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {})] * len(configs)
    for names, places in alike.items():
        own = _own(names, [configs[place] for place in places])
        for place in places:
            config = configs[place]
            found[place] = {**config, **dict.fromkeys(own)}, {name: config[name] for name in own}
    return found


def _own(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of these keys, which all configs have, those with the most values, until few enough configs are left."""
    cells = dict(zip(names, zip(*(config.values() for config in configs), strict=True), strict=True))
    values = {name: len(set(column)) for name, column in cells.items()}
    left = sorted((name for name in names if values[name] > 1), key=values.__getitem__)
    own: list[str] = []
    while left and len(set(zip(*map(cells.__getitem__, left), strict=True))) > max(
        _FEW, len(configs) // _RUNS_EACH
    ):
        own.append(left.pop())
    return own
