"""What a spec says, as plain data: parsed and checked value by value, not yet expanded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from imagination import registry
from imagination.schema import Scalar, setting
from jobs.config import DEFAULT_PRESET, stack
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
    """The seeds that a cell trains: `fixed` ones, or as many from `start` as the cell's `runs` says."""

    start: int = 0
    fixed: Sequence[int] | None = None

    def of(self, runs: int) -> Sequence[int]:
        """The seeds of a cell that wants `runs` runs."""
        return range(self.start, self.start + runs) if self.fixed is None else self.fixed


@dataclass(frozen=True)
class Row:
    """An explicit cell: its values, its `runs` (None: the part's), its line, and where it gives each key."""

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
        rows: explicit cells; a spec without `cells` has one row without values.
        grid: axes whose product is taken with every row.
        zipped: axes of equal length that advance together.
        exclude: cells to drop.
        runs: how many runs a row wants that does not give its own number.
        said: where each key of base, axes and sample is given, as errors begin: file and line, or the override.
        overridden: keys that the command line set.
        mistakes: a line for each wrong cell; `expand` reports them together with the cells that contradict
            themselves.
    """

    file: str
    experiment: str
    preset: str = DEFAULT_PRESET
    base: Values = field(default_factory=dict)
    rows: Sequence[Row]
    grid: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)
    zipped: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)
    exclude: Sequence[Exclusion] = ()
    sample: Mapping[str, Distribution] = field(default_factory=dict)
    seeds: Seeds = Seeds()
    runs: int = 1
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
        """The numbers whose product is the number of runs before exclusions, by what they count."""
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

    def unchecked(self, row: Row, axes: Values) -> dict[str, object]:
        """The complete config of a cell, even if its values contradict each other."""
        defaults = {key.name: key.default for key in fields(registry.config_type(self.experiment))}
        return {**defaults, **stack(self.experiment, self.preset, self.base, axes, row.values)}

    def place(self, row: Row, keys: Sequence[str] = ()) -> str:
        """Where the spec gives one of `keys` for a row's cells, as errors begin; else where the row is.

        Of several places the command line counts first, then the row, then the place of the first key.
        """
        said = {**self.said, **row.said}
        ranked = sorted(keys, key=lambda key: (key not in self.overridden, key not in row.said))
        return next((said[key] for key in ranked if key in said), f"{self.file}:{row.line}")


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
    def composed(self) -> str:
        """The text that the store keeps of a launch: everything above, overrides and included files too."""
        return json.dumps(asdict(self), default=sorted, indent=1)
