"""Effects: how the metric changes with config keys, in pairs of runs, between groups, and by regression.

Only kept runs count. Two runs are a pair if all their other config keys are equal, the seed among them. Pairs need
fewer runs than independent groups, because both runs of a pair have the same drawn shape. Keys that always change
together with the factor, such as the learning rate with the optimizer, are no reason against a pair; they are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from imagination.intervals import CONFIDENCE, Interval, mean_interval, quantile
from results_db.columns import check, config_keys
from results_db.contract import Scalar, StoreError
from results_db.query.aggregate import pass_rate, records, sort_key, values
from results_db.query.gate import completed, passed
from results_db.text import cell_text

_ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class Level:
    """The runs with one value of each factor.

    Attributes:
        cell: factor to value.
        kept, run: numbers of runs.
        pass_rate: kept / run, with its Wilson interval.
        mean: the mean metric of the kept runs.
    """

    cell: Mapping[str, Scalar | None]
    kept: int
    run: int
    pass_rate: Interval
    mean: Interval


@dataclass(frozen=True)
class Difference:
    """The metric of one level minus that of another; of an interaction, the difference of two such differences.

    Attributes:
        of: the levels, in words.
        pairs: the number of pairs; of an interaction, of quadruples.
        paired: the mean difference in pairs.
        unpaired: the difference of the levels' means, whether their runs are pairs or not (Welch).
    """

    of: str
    pairs: int
    paired: Interval
    unpaired: Interval

    def as_dict(self) -> dict[str, Any]:
        """The values for `--json`."""
        paired, unpaired = self.paired.columns("paired"), self.unpaired.columns("unpaired")
        return {"of": self.of, "pairs": self.pairs, **paired, **unpaired}


@dataclass(frozen=True)
class Effect:
    """What factors do to the metric.

    Attributes:
        levels: every combination of the factors' values that has runs.
        differences: of each factor, with the other one fixed.
        interaction: of two factors with two values each: how the effect of one depends on the other.
        also: other config keys in which the runs of pairs differ, because two levels have no value in common.
    """

    levels: Sequence[Level]
    differences: Sequence[Difference]
    interaction: Difference | None
    also: Sequence[str] = ()


@dataclass(frozen=True)
class Slope:
    """How the metric depends on one config key, with all others of the regression fixed.

    Attributes:
        key: the config key; for words, with the value that is compared with the first one.
        low, high: its smallest and largest value.
        change: the change of the metric from `low` to `high`, with an interval that allows unequal variances (HC3).
        share: the share of the metric's variance that only this key explains.
    """

    key: str
    low: Scalar
    high: Scalar
    change: Interval
    share: float


@dataclass(frozen=True)
class Regression:
    """A linear regression of the metric on config keys.

    Attributes:
        runs: the number of kept runs.
        explained: the share of the variance that all keys explain (R squared).
        slopes: the keys, the most important first.
        left_out: keys that vary only together with others, are unset in some runs, or have a value of one run alone.
    """

    runs: int
    explained: float
    slopes: Sequence[Slope] = field(default_factory=list)
    left_out: Sequence[str] = ()


def paired(
    first: pd.DataFrame, second: pd.DataFrame, *, equal: Sequence[str], metrics: Sequence[str]
) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """The metrics of both sides' runs, joined where the config keys `equal` are equal.

    Runs of a side that are equal in these keys count once, with their mean.
    """
    one, other = (
        side.groupby(list(equal), dropna=False)[metric].mean().dropna()
        for side, metric in zip((first, second), metrics, strict=True)
    )
    return one.align(other, join="inner")


def effect(frame: pd.DataFrame, factors: Sequence[str], *, metric: str, gate: str | None = None) -> Effect:
    """The effect of one factor, or of two, on a metric. `frame` is as `Store.runs` gives it.

    Raises:
        StoreError: a factor is no config key, is given twice, or has one value only; there are more than two factors;
            or no two of their combinations can be compared.
    """
    keys = config_keys(frame.columns)
    for name in factors:
        check(name, [key for key in keys if key != "seed"], origin="KEY")
    if len(set(factors)) != len(factors) or len(factors) > 2:
        raise StoreError(f"KEY: '{' '.join(factors)}'; give one config key, or two different ones")
    runs = completed(frame)
    kept = runs[passed(runs, gate=gate)]
    found = {name: _values(runs, name) for name in factors}
    if one := next((name for name, said in found.items() if len(said) < 2), None):
        raise StoreError(
            f"KEY: {one} is {', '.join(map(cell_text, found[one])) or 'unset'} in all {len(runs)} completed runs that "
            "were chosen; choose other runs with --where, or another key"
        )
    cells = [dict(zip(factors, cell, strict=True)) for cell in product(*found.values())]
    levels = [_level(runs, kept, cell, metric) for cell in cells]
    sides = [_in_cell(kept, cell) for cell in cells]
    comparisons = [pair for pair in _comparisons(cells, factors) if all(levels[place].run for place in pair)]
    if not comparisons:
        raise StoreError(
            f"KEY: no two combinations of {' and '.join(factors)} that have runs differ in one key alone; give one key"
        )
    rest = [key for key in keys if key not in factors]
    apart = {
        pair: [key for key in rest if _is_apart([sides[place] for place in pair], key)]
        for pair in comparisons
    }
    differences = [
        _difference(cells, sides, index, base, [key for key in rest if key not in others], metric)
        for (index, base), others in apart.items()
    ]
    with_pairs = [others for others, each in zip(apart.values(), differences, strict=True) if each.pairs]
    also = list(dict.fromkeys(key for others in with_pairs for key in others))
    whole = len(factors) == 2 and len(cells) == 4 and all(level.run for level in levels)
    equal = [key for key in rest if key not in also]
    interaction = _interaction(cells, sides, equal, metric) if whole else None
    return Effect([level for level in levels if level.run], differences, interaction, also)


def _values(runs: pd.DataFrame, name: str) -> list[Scalar]:
    found = {row[name] for row in records(runs[[name]])} - {None}
    return sorted(found, key=lambda value: sort_key([value]))


def _in_cell(runs: pd.DataFrame, cell: Mapping[str, Scalar | None]) -> pd.DataFrame:
    found: pd.DataFrame = runs[runs[list(cell)].eq(pd.Series(cell, dtype=object)).all(axis=1)]
    return found


def _level(runs: pd.DataFrame, kept: pd.DataFrame, cell: Mapping[str, Scalar], metric: str) -> Level:
    run, passing = len(_in_cell(runs, cell)), _in_cell(kept, cell)
    return Level(
        cell, len(passing), run, pass_rate(len(passing), run), mean_interval(values(passing, metric))
    )


def _comparisons(cells: Sequence[Mapping[str, Scalar]], factors: Sequence[str]) -> list[tuple[int, int]]:
    """Each cell and the cell that has the first value of one factor instead, and the same value of the other."""
    found = []
    for name in factors:
        for index, cell in enumerate(cells):
            base = next(
                place
                for place, other in enumerate(cells)
                if all(other[key] == cell[key] for key in factors if key != name)
            )
            if base != index:
                found.append((index, base))
    return found


def _difference(
    cells: Sequence[Mapping[str, Scalar]],
    sides: Sequence[pd.DataFrame],
    index: int,
    base: int,
    equal: Sequence[str],
    metric: str,
) -> Difference:
    first, second = paired(sides[index], sides[base], equal=equal, metrics=(metric, metric))
    (name,) = [key for key in cells[index] if cells[index][key] != cells[base][key]]
    fixed = "".join(f", {key}={cell_text(value)}" for key, value in cells[index].items() if key != name)
    return Difference(
        f"{name}: {cell_text(cells[index][name])} - {cell_text(cells[base][name])}{fixed}",
        len(first),
        mean_interval(list(first - second)),
        _welch(values(sides[index], metric), values(sides[base], metric)),
    )


def _interaction(
    cells: Sequence[Mapping[str, Scalar]], sides: Sequence[pd.DataFrame], equal: Sequence[str], metric: str
) -> Difference:
    """(both second values - only the first factor's) - (only the second factor's - neither)."""
    means = [side.groupby(list(equal), dropna=False)[metric].mean().dropna() for side in sides]
    joined = pd.concat(means, axis=1, join="inner", keys=range(4))
    signs = (1, -1, -1, 1)
    change = sum(sign * joined[place] for place, sign in enumerate(signs))
    one, other = cells[3]
    return Difference(
        f"({one}: {cell_text(cells[3][one])} - {cell_text(cells[0][one])}) at {other}="
        f"{cell_text(cells[3][other])} minus the same at {cell_text(cells[0][other])}",
        len(joined),
        mean_interval([float(value) for value in np.asarray(change)] if len(joined) else []),
        _contrast([values(side, metric) for side in sides], signs),
    )


def _welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    return _contrast([first, second], (1, -1))


def _contrast(groups: Sequence[Sequence[float]], signs: Sequence[int]) -> Interval:
    """The signed sum of the groups' means, whose variances differ: t after Welch and Satterthwaite."""
    if not all(groups):
        return Interval()
    mean = sum(sign * float(np.mean(group)) for sign, group in zip(signs, groups, strict=True))
    if any(len(group) < 2 for group in groups):
        return Interval(mean)
    squared = [float(np.var(group, ddof=1)) / len(group) for group in groups]
    total = sum(squared)
    if total == 0:
        return Interval(mean, mean, mean)
    freedom = total**2 / sum(part**2 / (len(group) - 1) for part, group in zip(squared, groups, strict=True))
    half = quantile(freedom) * float(np.sqrt(total))
    return Interval(mean, mean - half, mean + half)


def _is_apart(sides: Sequence[pd.DataFrame], key: str) -> bool:
    """Whether the kept runs of two levels have no value of the key in common. Seeds tell pairs apart, always."""
    first, second = ({row[key] for row in records(side[[key]])} for side in sides)
    return key != "seed" and bool(first) and bool(second) and not first & second


def regression(frame: pd.DataFrame, *, metric: str, gate: str | None = None) -> Regression:
    """A linear regression of the metric on all config keys in which the kept runs differ, but the seed.

    Rates enter by their logarithm, words as one variable for each value but the first.

    Raises:
        StoreError: no config key differs, or there are too few runs for the keys.
    """
    runs = completed(frame)
    kept = runs[passed(runs, gate=gate)]
    kept = kept[kept[metric].notna()]
    if kept[metric].nunique() < 2:
        raise StoreError(
            f"--metric: {metric} is the same in all {len(kept)} kept runs that have it, or in none"
        )
    columns, left_out = _design(kept)
    needed = len(columns) + 3
    if not columns:
        raise StoreError(f"the {len(kept)} kept runs do not differ in any config key but the seed")
    if len(kept) < needed:
        raise StoreError(
            f"{len(kept)} kept runs are too few for a regression on {len(columns)} config keys "
            f"({', '.join(columns)}); it takes {needed}, or fewer keys by --where"
        )
    from statsmodels.regression.linear_model import OLS

    y = kept[metric].to_numpy(dtype=float)
    x = np.column_stack([np.ones(len(y)), *(column.numbers for column in columns.values())])
    fitted = OLS(y, x).fit(cov_type="HC3", use_t=True)
    bounds = fitted.conf_int(_ALPHA)
    slopes = []
    for place, (key, column) in enumerate(columns.items(), start=1):
        reach = column.numbers.max() - column.numbers.min()
        without = OLS(y, np.delete(x, place, axis=1)).fit()
        change = Interval(*(float(each) * reach for each in (fitted.params[place], *bounds[place])))
        slopes.append(Slope(key, column.low, column.high, change, float(fitted.rsquared - without.rsquared)))
    slopes.sort(key=lambda slope: -slope.share)
    return Regression(len(y), float(fitted.rsquared), slopes, left_out)


@dataclass(frozen=True)
class _Column:
    numbers: np.ndarray
    low: Scalar
    high: Scalar
    is_word: bool = False


def _design(runs: pd.DataFrame) -> tuple[dict[str, _Column], list[str]]:
    """The variables of the regression, and the keys that it cannot tell apart; see `Regression.left_out`."""
    found: dict[str, _Column] = {}
    left_out: list[str] = []
    matrix = np.ones((len(runs), 1))
    for key in config_keys(runs.columns):
        known = _values(runs, key)
        if key == "seed" or len(known) < 2:
            continue
        if runs[key].isna().any():  # such as muon_lr of runs with another optimiser
            left_out.append(key)
            continue
        for name, column in _variables(runs[key], key, known):
            wider = np.column_stack([matrix, column.numbers])
            alone = min(np.unique(column.numbers, return_counts=True)[1]) < 2 and column.is_word
            if alone or np.linalg.matrix_rank(wider) == matrix.shape[1]:
                left_out.append(name)
                continue
            matrix, found[name] = wider, column
    return found, left_out


def _variables(column: "pd.Series[Any]", key: str, known: Sequence[Scalar]) -> list[tuple[str, _Column]]:
    first, last = known[0], known[-1]
    if isinstance(last, str):
        return [
            (f"{key}={value}", _Column((column == value).to_numpy(dtype=float), first, value, is_word=True))
            for value in known[1:]
        ]
    numbers = column.to_numpy(dtype=float)
    is_rate = any(isinstance(value, float) for value in known) and float(first) > 0
    return [(key, _Column(np.log(numbers) if is_rate else numbers, first, last))]
