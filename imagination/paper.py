"""How the numbers of a paper are written down, so that stored runs can be compared with them. Torch-free."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imagination.schema import Scalar, require


@dataclass(frozen=True)
class Number:
    """One number of the paper.

    Attributes:
        table: the table that it is in, a name in `Paper.tables`.
        quantity: the metric whose mean it is, or a name for what is `derived` or for an `effect`.
        cell: the group columns of its runs, with their values; of an effect its row's labels.
        value: the number; None where the paper gives none, and `words` say what it found.
        runs: the number of its runs; null where the paper does not say.
        sources: where its runs come from; the first is the one to launch.
        words: what stands in place of a value. Our mean is then compared with the best of the `baselines`.
        where: a filter that its runs must match, in the language of `--where`.
        alike: config keys that do not matter to it; of runs that differ only in these, one counts.
        derived: for a quantity that is no metric: a function of a run's traces, as `module:name`, that gives a mapping
            of quantities to `Derived`.
        beside: for a derived quantity: the quantity of the same table and function that it is compared with. Runs
            differ in length, so not the values are judged, but the ratio of the two shares.
        effect: for a mean difference in pairs of runs: its two sides.
        side: its column, if the quantities of a cell stand side by side in one row.
        short: the group columns whose values alone name a cell in figures, as in 3/2.
        baselines: the metrics of trivial solutions, of which the best is shown beside it.
        ceiling: the metric of a perfect solution, which is shown beside it.
    """

    table: str
    quantity: str
    cell: Mapping[str, Scalar]
    value: float | None
    runs: int | None
    sources: "Sequence[Source]" = ()
    words: str = ""
    where: str = ""
    alike: Sequence[str] = ()
    derived: str = ""
    beside: str = ""
    effect: "Effect | None" = None
    side: str = ""
    short: Sequence[str] = ()
    baselines: Sequence[str] = ()
    ceiling: str = ""


class Derived(NamedTuple):
    """A quantity of one run that is derived from its traces: a value in training steps, and as a share."""

    steps: int
    share: float


class Source(NamedTuple):
    """The specs that train the runs of a number. A run of any of them counts.

    Attributes:
        spec: the one to launch for this number.
        specs: all of them. Their runs differ in their cells alone.
        overridden: config keys that a launch may have overridden.
    """

    spec: str
    specs: Sequence[str]
    overridden: Sequence[str] = ()


class Side(NamedTuple):
    """A side of an effect: its name, a filter for its runs in the language of `--where`, and the compared metric."""

    label: str
    where: str
    metric: str


@dataclass(frozen=True)
class Effect:
    """A claim of the paper: the first side's metric is larger. Runs are compared in pairs of one seed and shape.

    Attributes:
        spec: the spec that trains its runs.
        first: the side with the larger mean.
        second: the other side.
        value: the paper's difference of the two means.
    """

    spec: str
    first: Side
    second: Side
    value: float


@dataclass(frozen=True)
class Paper:
    """The numbers that a paper reports, by table.

    Attributes:
        tables: the numbers of each table, in the paper's order.
        about: what each table shows, in one line.
    """

    tables: Mapping[str, Sequence[Number]]
    about: Mapping[str, str]

    def check(self, *, keys: Collection[str], metrics: Collection[str]) -> None:
        """Check that the tables can be compared with runs that have these config keys and metrics.

        Raises:
            ConfigError: they cannot; one line says where.
        """
        for name, numbers in self.tables.items():
            _require(name != "all" and name in self.about, f"about has no line for table '{name}'")
            _require(numbers, f"table '{name}' is empty")
            for number in numbers:
                of = f"'{number.quantity}' of table '{name}'"
                _require(number.table == name, f"{of} says that it is of table '{number.table}'")
                _require(number.sources, f"{of} has no sources")
                if not number.effect:
                    strange = [key for key in number.cell if key not in keys]
                    _require(not strange, f"{of} has the cell key {', '.join(strange)}, which no config has")
                judged = number.value is not None or (number.words and number.baselines)
                _require(judged, f"{of} has neither a value nor words and baselines")
                if number.derived:
                    alike = [one for one in numbers if one.derived == number.derived]
                    beside = [one for one in alike if one.quantity == number.beside]
                    _require(len(beside) == 1, f"{of} needs one number beside it, and has {len(beside)}")
                elif not number.effect:
                    named = [number.quantity, *number.baselines, *filter(None, [number.ceiling])]
                    strange = [metric for metric in named if metric not in metrics]
                    _require(not strange, f"{of} needs {', '.join(strange)}, which metrics lacks")


def _require(holds: object, message: str) -> None:
    require(bool(holds), message, keys=("experiment",))
