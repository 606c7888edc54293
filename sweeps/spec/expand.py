"""From a parsed spec to its runs: what a finished table would have as rows, and each row's seeds."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from imagination import registry
from imagination.schema import ConfigError, Scalar, build, plain
from jobs.config import resolve, stack
from jobs.identity import canonical_json, run_id
from results_db.contract import PlannedRun
from sweeps.spec.document import Mistakes, SpecError
from sweeps.spec.model import Exclusion, Part, Row, Spec, Values
from sweeps.spec.sample import Distribution

MOST_RUNS = 1_000_000
"""Runs of one spec; a slip in an axis shall not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the finished table.

    Attributes:
        columns: the keys that the spec varies, in its order, and their values here.
        config: the complete config without the seed and without the sampled keys.
        wanted: how many runs that reach the accuracy the cell wants.
        runs: the runs that a launch makes, in seed order; one that stands in an earlier cell is left out.
        template: the complete config that a run's seed and draws are put into.
        sample: what is drawn per seed.
        next_seed: the first seed after the spec's, for `top-up`; None where the spec says which seeds it wants.
    """

    columns: Mapping[str, Scalar]
    config: Mapping[str, Scalar]
    wanted: int
    runs: Sequence[PlannedRun]
    template: Mapping[str, Scalar]
    sample: Mapping[str, Distribution]
    next_seed: int | None

    def run(self, seed: int) -> PlannedRun:
        """The cell's run with this seed, planned or not.

        Raises:
            ConfigError: a drawn value contradicts the cell's other values.
        """
        return _run(self.template, self.sample, seed)


@dataclass(frozen=True)
class Expansion:
    """All cells of a spec; every run id appears once."""

    cells: Sequence[Cell]

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]


def expand(spec: Spec) -> Expansion:
    """The cells and runs of a spec, equal ones of included files united.

    Raises:
        SpecError: a cell's value is wrong, values contradict each other, a range is turned round, a cell stands
            twice in a file, an exclusion matches nothing (a line for each cell or entry), or there are more than
            `MOST_RUNS`.
    """
    _check_size(spec)
    mistakes = Mistakes()
    drafts: dict[str, _Draft] = {}
    for part in spec.parts:
        mistakes.note(SpecError(*part.mistakes))
        for draft in _drafts(part, mistakes):
            drafts[draft.key] = drafts[draft.key].united(draft) if draft.key in drafts else draft
    mistakes.check()
    named = _columns(spec, [draft.config for draft in drafts.values()])
    taken: set[str] = set()
    cells: list[Cell] = []
    for draft in drafts.values():
        try:
            cells.append(draft.cell(named, taken))
        except SpecError as error:
            mistakes.note(error)
    mistakes.check()
    return Expansion(cells)


def in_breadth_first_order(expansion: Expansion) -> list[PlannedRun]:
    """The first run of every cell, then the second, ...: an early stop leaves every cell with something."""
    layers = itertools.zip_longest(*(cell.runs for cell in expansion.cells))
    return [run for layer in layers for run in layer if run is not None]


def first_runs(expansion: Expansion, limit: int | None) -> Expansion:
    """The first `limit` runs in that order, all without a limit, and the cells that have any of them."""
    kept = {run.run_id for run in in_breadth_first_order(expansion)[:limit]}
    cells = [replace(cell, runs=[run for run in cell.runs if run.run_id in kept]) for cell in expansion.cells]
    return Expansion([cell for cell in cells if cell.runs])


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A cell before equal ones are united.

    `template` is the complete config, `key` says what is equal, `may_grow` whether seeds may follow the spec's.
    """

    template: dict[str, Scalar]
    wanted: int
    seeds: Sequence[int]
    may_grow: bool
    part: Part
    row: Row
    axes: Values

    @property
    def sample(self) -> Mapping[str, Distribution]:
        return self.part.sample

    @property
    def config(self) -> dict[str, Scalar]:
        return {
            key: value for key, value in self.template.items() if key != "seed" and key not in self.sample
        }

    @property
    def key(self) -> str:
        return canonical_json(self.template) + repr(sorted(self.sample.items()))

    def united(self, other: "_Draft") -> "_Draft":
        seeds = list(dict.fromkeys([*self.seeds, *other.seeds]))
        wanted, may_grow = max(self.wanted, other.wanted), self.may_grow or other.may_grow
        return replace(self, wanted=wanted, seeds=seeds, may_grow=may_grow)

    def cell(self, named: Iterable[str], taken: set[str]) -> Cell:
        config = self.config
        return Cell(
            columns={key: config[key] for key in named if key in config},
            config=config,
            wanted=self.wanted,
            runs=list(self._runs(taken)),
            template=self.template,
            sample=self.sample,
            next_seed=max(self.seeds) + 1 if self.may_grow else None,
        )

    def _runs(self, taken: set[str]) -> Iterator[PlannedRun]:
        wrong: list[int] = []
        first: ConfigError | None = None
        for seed in self.seeds:
            try:
                run = _run(self.template, self.sample, seed)
            except ConfigError as error:
                wrong.append(seed)
                first = first or error
                continue
            if run.run_id not in taken:
                taken.add(run.run_id)
                yield run
        if first is not None:
            raise self._senseless(wrong, first)

    def _senseless(self, seeds: Sequence[int], error: ConfigError) -> SpecError:
        """What is to be said of seeds whose draws make no sense; the first one stands for all."""
        where = self.part.place(self.row, error.keys)
        described = _described({**self.axes, **self.row.values})
        more = f" (and {len(seeds) - 1:,} more of {len(self.seeds):,})" if len(seeds) > 1 else ""
        return SpecError(f"{where}: {described}seed {seeds[0]}{more}: {error}")


def _run(template: Mapping[str, Scalar], sample: Mapping[str, Distribution], seed: int) -> PlannedRun:
    config = {**template, "seed": seed}
    if sample:
        undrawn = {key: value for key, value in template.items() if key != "seed"}
        config |= {key: distribution.draw(undrawn, key, seed) for key, distribution in sample.items()}
        build(registry.config_type(str(config["experiment"])), config)
    return PlannedRun(run_id(config), config)


def _check_size(spec: Spec) -> None:
    sizes = [math.prod(part.factors.values()) for part in spec.parts]
    if sum(sizes) <= MOST_RUNS:
        return
    largest = spec.parts[sizes.index(max(sizes))]
    factors = " x ".join(f"{name} ({count:,})" for name, count in largest.factors.items() if count > 1)
    raise SpecError(
        f"{largest.file}: {sum(sizes):,} runs are above {MOST_RUNS:,}, the most allowed; reduce {factors}"
    )


def _drafts(part: Part, mistakes: Mistakes) -> list[_Draft]:
    """The cells of one file that make sense; what is wrong with the others is noted."""
    _check_ranges(part, mistakes)
    found: dict[str, _Draft] = {}
    for row, axes in _combinations(part, mistakes):
        try:
            draft = _draft(part, row, axes)
            if draft.key in found:
                _fail_duplicate(part, draft, found[draft.key])
            found[draft.key] = draft
        except SpecError as error:
            mistakes.note(error)
    return list(found.values())


def _combinations(part: Part, mistakes: Mistakes) -> list[tuple[Row, Values]]:
    """Every row with every point of the axes, those left out that an exclusion names, sense or not."""
    every = list(itertools.product(part.rows, _points(part)))
    if not part.exclude:
        return every
    matched: set[int] = set()
    left = []
    for row, axes in every:
        config = _unchecked(part, row, axes)
        hits = {index for index, each in enumerate(part.exclude) if _matches(each, config)}
        matched |= hits
        if not hits:
            left.append((row, axes))
    if part.mistakes:  # what an exclusion is for may be among the wrong cells
        return left
    for problem in _idle_exclusions(part, matched):
        mistakes.note(problem)
    if not left:
        mistakes.note(SpecError(f"{part.file}: exclude leaves no cell"))
    return left


def _unchecked(part: Part, row: Row, axes: Values) -> dict[str, object]:
    """The complete config of a cell, whether or not its values go together."""
    defaults = {key.name: key.default for key in fields(registry.config_type(part.experiment))}
    return {**defaults, **stack(part.experiment, part.preset, part.base, axes, row.values)}


def _check_ranges(part: Part, mistakes: Mistakes) -> None:
    for key, drawn in part.sample.items():
        if not drawn.is_range:
            continue
        low, high = (float(value) for value in drawn.values)
        if low >= high:
            turned = f"is turned round; write {plain(drawn.values[::-1])}"
            problem = "holds one value; give it under `base:`" if low == high else turned
            given = f"sample.{key}.{drawn.kind}: {plain(drawn.values)}"
            mistakes.note(SpecError(f"{part.said[key]}: every cell: {given} {problem}"))


def _points(part: Part) -> list[Values]:
    """Every combination of the grid, with every position of the zip."""
    grid: list[Values] = [
        dict(zip(part.grid, values, strict=True)) for values in itertools.product(*part.grid.values())
    ]
    if not part.zipped:
        return grid
    together = [
        dict(zip(part.zipped, values, strict=True)) for values in zip(*part.zipped.values(), strict=True)
    ]
    return [{**point, **step} for point, step in itertools.product(grid, together)]


def _draft(part: Part, row: Row, axes: Values) -> _Draft:
    try:
        template = resolve(part.experiment, part.preset, part.base, axes, row.values)
    except ConfigError as error:
        where = part.place(row, error.keys)
        raise SpecError(f"{where}: {_described({**axes, **row.values})}{error}") from None
    seeds = part.seeds_of(row)
    return _Draft(
        template=template,
        wanted=len(seeds),
        seeds=seeds,
        may_grow=part.seeds.fixed is None,
        part=part,
        row=row,
        axes=axes,
    )


def _described(values: Values) -> str:
    return f"cell {', '.join(f'{key}={plain(value)}' for key, value in values.items())}: " if values else ""


def _matches(exclusion: Exclusion, config: Mapping[str, object]) -> bool:
    return all(config[key] == value for key, value in exclusion.values.items())


def _fail_duplicate(part: Part, draft: _Draft, first: _Draft) -> None:
    values = {key: draft.template[key] for key in part.axes}
    where, earlier = part.place(draft.row), part.place(first.row)
    named = "another on this line" if where == earlier else earlier
    raise SpecError(f"{where}: {_described(values)}the same as {named}; remove one (`runs` asks for more)")


def _idle_exclusions(part: Part, matched: set[int]) -> Iterator[SpecError]:
    """What is to be said of exclusions that match nothing, and not because of an override."""
    for index, exclusion in enumerate(part.exclude):
        overridden = exclusion.values.keys() & part.overridden
        if index not in matched and not overridden:
            described = _described(exclusion.values).removeprefix("cell ").removesuffix(": ")
            yield SpecError(
                f"{part.file}:{exclusion.line}: exclude: no cell has {described}; remove the entry"
            )


def _columns(spec: Spec, configs: Sequence[Values]) -> list[str]:
    """What tells the cells apart: what rows and axes name, and of several files also where they differ."""
    named = dict.fromkeys(key for part in spec.parts for key in part.axes)
    stated = {key for part in spec.parts for key in (*part.base, "experiment", "preset")}
    differing = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if key in stated and len({config.get(key) for config in configs}) > 1
    ]
    return list(dict.fromkeys([*named, *differing]))
