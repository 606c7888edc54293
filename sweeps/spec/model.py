"""What a spec says, as plain data: parsed and checked value by value, not yet composed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from imagination.schema import Scalar, setting
from sweeps.spec.sample import Distribution

Values = Mapping[str, Scalar]


@dataclass(frozen=True)
class SeedKeys:
    """Schema of the numbers of `runs` and `seeds`."""

    runs: int = setting(1, low=1, high=1_000_000)
    seeds: int = setting(1, low=1, high=1_000_000)
    start: int = setting(0, low=0, high=2**62)
    stop: int = setting(1, low=1, high=2**62)
    seed: int = setting(0, low=0, high=2**62)


@dataclass(frozen=True)
class Seeds:
    """Which seeds a cell trains: `fixed` ones, or as many from `start` as the cell's `runs` says."""

    start: int = 0
    fixed: Sequence[int] | None = None

    def of(self, runs: int) -> Sequence[int]:
        """The seeds of a cell that wants `runs` runs."""
        return range(self.start, self.start + runs) if self.fixed is None else self.fixed


@dataclass(frozen=True)
class Row:
    """An explicit cell: its values, its `runs` (None: the part's), the line where it and where each key stands."""

    values: Values
    runs: int | None
    line: int
    said: Mapping[str, str]


@dataclass(frozen=True)
class Exclusion:
    """A partial config whose matches are dropped."""

    values: Values
    line: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file's cells, with the experiment, preset, base and axes that they are made of.

    Attributes:
        file: the file, as errors name it.
        rows: explicit cells; a spec without `cells` has one that says nothing.
        grid: axes whose product is taken with every row.
        zipped: axes of equal length that advance together.
        runs: how many runs a row wants that does not say it itself.
        said: where each key of base, axes and sample stands, as errors begin: file and line, or the override.
        overridden: keys that the command line set.
        mistakes: what is wrong with cells that are no rows for it, a line each; `expand` refuses them together with
            the cells that make no sense.
    """

    file: str
    experiment: str
    preset: str
    base: Values
    rows: Sequence[Row]
    grid: Mapping[str, Sequence[Scalar]]
    zipped: Mapping[str, Sequence[Scalar]]
    exclude: Sequence[Exclusion]
    sample: Mapping[str, Distribution]
    seeds: Seeds
    runs: int
    said: Mapping[str, str]
    overridden: frozenset[str] = frozenset()
    mistakes: Sequence[str] = ()

    @property
    def axes(self) -> list[str]:
        """The keys that rows, grid and zip name, in this order: the columns of the finished table."""
        named = [key for row in self.rows for key in row.values]
        return list(dict.fromkeys([*named, *self.grid, *self.zipped]))

    @property
    def factors(self) -> dict[str, int]:
        """The numbers whose product is how many runs this comes to before exclusions, by what they count."""
        runs = sum(len(self.seeds_of(row)) for row in self.rows)
        zipped = min((len(values) for values in self.zipped.values()), default=1)
        return {
            "runs or seeds": runs,
            **{key: len(values) for key, values in self.grid.items()},
            "zip": zipped,
        }

    def seeds_of(self, row: Row) -> Sequence[int]:
        """The seeds of each cell of a row."""
        return self.seeds.of(self.runs if row.runs is None else row.runs)

    def place(self, row: Row, keys: Sequence[str] = ()) -> str:
        """Where the values of `keys` in a row's cells are said, as errors begin; the row itself if nowhere.

        Of several places the command line counts most, then the row, then the first key's.
        """
        said = {**self.said, **row.said}
        ranked = sorted(keys, key=lambda key: (key not in self.overridden, key not in row.said))
        return next((said[key] for key in ranked if key in said), f"{self.file}:{row.line}")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A parsed spec: its name, its own cells and those of the files it includes, and where to run.

    Attributes:
        name: of the sweep.
        parts: included files first, in their order, then the spec's own cells.
        launcher: settings of any launcher; `name` says which one is chosen.
    """

    name: str
    parts: Sequence[Part]
    launcher: Mapping[str, object] = field(default_factory=dict)

    @property
    def composed(self) -> str:
        """The text that a launch is recorded with: everything above, overrides and included files too."""
        return json.dumps(asdict(self), default=sorted, indent=1)
