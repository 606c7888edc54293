"""A parsed spec as plain data. Each value is checked; cells are not expanded yet."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from imagination.schema import Scalar, setting
from jobs.config import complete
from sweeps.spec.needs import Need
from sweeps.spec.sample import Distribution

Values = Mapping[str, Scalar]

T = TypeVar("T")


@dataclass(frozen=True)
class SeedKeys:
    """The numbers in `runs` and `seeds`, and their bounds."""

    runs: int = setting(1, low=1, high=1_000_000)
    seeds: int = setting(1, low=1, high=1_000_000)
    start: int = setting(0, low=0, high=2**62)
    stop: int = setting(1, low=1, high=2**62)
    seed: int = setting(0, low=0, high=2**62)


@dataclass(frozen=True)
class Seeds:
    """The seeds of each cell: the `fixed` ones, or else consecutive seeds from `start`, one for each wanted run."""

    start: int = 0
    fixed: Sequence[int] | None = None


@dataclass(frozen=True)
class Row:
    """An explicit cell.

    Attributes:
        values: its config values.
        runs: its number of wanted runs; None: that of the part.
        line: its line in the file.
        said: where each of its keys is given.
    """

    values: Values
    runs: int | None
    line: int
    said: Mapping[str, str]


@dataclass(frozen=True)
class Exclusion:
    """A partial config. Cells that match it are dropped."""

    values: Values
    line: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """The cells of one file. The store keeps these fields, under these names, as JSON (`Spec.composed`).

    Attributes:
        file: the file, as errors name it.
        spec: the name of the spec in this file; empty in what versions before 0.3 stored.
        rows: explicit cells; without `cells`, a single row without values.
        grid: axes; every row is combined with each point of their product.
        zipped: axes of equal length that advance together.
        exclude: cells to drop.
        runs: the number of wanted runs of a row without its own `runs`.
        said: where each key of needs, base, axes and sample is given: file and line, or the override.
        overridden: keys that the command line set.
        mistakes: a line for each wrong cell, for `expand` to report.
    """

    file: str
    spec: str = ""
    experiment: str
    preset: str
    base: Values = field(default_factory=dict)
    rows: Sequence[Row]
    grid: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)
    zipped: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)
    exclude: Sequence[Exclusion] = ()
    sample: Mapping[str, Distribution] = field(default_factory=dict)
    needs: Mapping[str, Need] = field(default_factory=dict)
    seeds: Seeds = Seeds()
    runs: int = 1
    said: Mapping[str, str]
    overridden: frozenset[str] = frozenset()
    mistakes: Sequence[str] = ()

    @property
    def axes(self) -> list[str]:
        """The keys of rows, grid and zip, in this order: the columns of the finished table."""
        named = [key for row in self.rows for key in row.values]
        return list(dict.fromkeys([*named, *self.grid, *self.zipped]))

    @property
    def factors(self) -> dict[str, int]:
        """The factors of the number of runs before exclusions, by name."""
        runs = sum(len(self.seeds_of(row)) for row in self.rows)
        zipped = min((len(values) for values in self.zipped.values()), default=1)
        return {
            "runs or seeds": runs,
            **{key: len(values) for key, values in self.grid.items()},
            "zip": zipped,
        }

    def seeds_of(self, row: Row) -> Sequence[int]:
        """The seeds of each cell of a row."""
        if self.seeds.fixed is not None:
            return self.seeds.fixed
        return range(self.seeds.start, self.seeds.start + (self.runs if row.runs is None else row.runs))

    def unchecked(self, row: Row, axes: Values) -> dict[str, Any]:
        """The complete config of a cell, even if its values contradict each other."""
        return complete(self.experiment, self.preset, self.base, axes, row.values)

    def place(self, row: Row, keys: Sequence[str] = ()) -> str:
        """The place that an error about `keys` in a row names.

        It is an override of one of the keys; else the key in the row; else the key elsewhere; else the row.
        """
        said = {**self.said, **row.said}
        ranked = sorted(keys, key=lambda key: (key not in self.overridden, key not in row.said))
        return next((said[key] for key in ranked if key in said), f"{self.file}:{row.line}")


def without(values: Mapping[str, T], *keys: str) -> dict[str, T]:
    """The values without those of these keys."""
    return {key: value for key, value in values.items() if key not in keys}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A parsed spec.

    Attributes:
        name: the name of its sweep.
        parts: the included files in their order, then the spec's own cells.
        launcher: settings of any launcher; `name` chooses one.
    """

    name: str
    parts: Sequence[Part]
    launcher: Mapping[str, object] = field(default_factory=dict)

    @property
    def overridden(self) -> tuple[str, ...] | None:
        """The config keys that the command line set, sorted; None if a version before 0.3 launched the spec."""
        if not all(part.spec for part in self.parts):
            return None
        return tuple(sorted({key for part in self.parts for key in part.overridden}))

    @property
    def content(self) -> str:
        """A digest of what its runs are: equal in two versions of a file that differ only in layout or numbers of runs.

        The preset is left out, because it is a column of its own. Overridden keys are left out, too, so launches that
        override the same keys of one file with different values are equal.
        """
        parts = []
        for part in self.parts:
            other = {"preset", *part.overridden}
            parts.append(
                (
                    part.experiment,
                    sorted(without(part.base, *other).items()),
                    sorted(json.dumps(without(row.values, *other), sort_keys=True) for row in part.rows),
                    sorted((key, list(values)) for key, values in without(part.grid, *other).items()),
                    sorted((key, list(values)) for key, values in part.zipped.items()),
                    sorted(json.dumps(each.values, sort_keys=True) for each in part.exclude),
                    sorted((key, drawn.kind, list(drawn.values)) for key, drawn in part.sample.items()),
                    *(
                        [{key: asdict(need) for key, need in sorted(part.needs.items())}]
                        if part.needs
                        else []
                    ),
                )
            )
        distinct = dict.fromkeys(map(json.dumps, parts))  # several launches of a spec may stand in one
        return hashlib.sha256(f"[{', '.join(distinct)}]".encode()).hexdigest()

    @property
    def included(self) -> "list[Spec]":
        """The specs that it includes, with the same overrides. Files without cells of their own are left out."""
        names = dict.fromkeys(part.spec for part in self.parts if part.spec not in ("", self.name))
        return [
            replace(self, name=name, parts=[part for part in self.parts if part.spec == name])
            for name in names
        ]

    @property
    def composed(self) -> str:
        """The spec as JSON, with overrides and included files, as the store keeps it for each launch."""
        return json.dumps(asdict(self), default=sorted, indent=1)
