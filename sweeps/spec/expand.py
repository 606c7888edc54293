"""Expands a spec into cells, the rows of the finished table, and their runs."""

import hashlib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from imagination import registry
from imagination.schema import ConfigError, RunConfig, Scalar, build, plain
from jobs.config import resolve
from jobs.identity import canonical_json, planned
from jobs.pack import depths_of
from results_db.contract import PlannedRun
from sweeps.spec.document import SpecError
from sweeps.spec.model import Part, Row, Spec, Values
from sweeps.spec.needs import AssetNeed, Need, RunNeed, Sample, values_of
from sweeps.spec.sample import Distribution

MOST_RUNS = 200_000
"""Most runs of a spec, so that a slip in an axis does not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the finished table.

    Attributes:
        columns: the varied keys, in the spec's order, and their values.
        wanted: the number of kept runs that the spec asks for.
        specs: the names of the specs whose own cell it is: the launched spec, or ones that it includes.
        runs: the runs of a launch, in seed order, without those of earlier cells.
        template: the complete config before a run's seed, draws and needs replace their keys.
        sample: the keys that are drawn per seed.
        needs: what its runs build on, by config key.
        next_seed: the first seed of a top-up; None: the spec fixes its seeds.
        is_needed: whether the spec does not describe it, and its runs are there because others need them.
    """

    columns: Mapping[str, Scalar]
    wanted: int
    specs: frozenset[str] = frozenset()
    runs: Sequence[PlannedRun]
    template: Mapping[str, Scalar]
    sample: Mapping[str, Distribution]
    needs: Mapping[str, Need] = field(default_factory=dict)
    next_seed: int | None
    is_needed: bool = False

    @cached_property
    def config(self) -> Mapping[str, Scalar]:
        """The complete config without the seed and the keys that depend on it: the sampled ones, and some needs."""
        own = {"seed", *self.sample}
        own |= {key for key, need in self.needs.items() if not own.isdisjoint(need.same)}
        return {key: value for key, value in self.template.items() if key not in own}

    @property
    def needs_are_shared(self) -> bool:
        """Whether all of its runs build on the same."""
        return self.needs.keys() <= self.config.keys()

    def run(self, seed: int) -> PlannedRun:
        """The cell's run with this seed, in `runs` or not.

        Raises:
            ConfigError: a drawn value contradicts the cell's other values.
        """
        config = {**self.template, "seed": seed}
        if self.sample:
            config |= {key: drawn.draw(key, seed) for key, drawn in self.sample.items()}
        config |= values_of(self.needs, config)
        if self.sample:
            build(registry.config_type(str(config["experiment"])), config)
            _check_needs(self.needs, config)
        return planned(config)


@dataclass(frozen=True)
class Expansion:
    """All cells of a spec; every run id appears once.

    Attributes:
        own: the cells that the spec describes.
    """

    own: Sequence[Cell]

    @cached_property
    def cells(self) -> list[Cell]:
        """Cells of the runs that others need and the spec does not describe, then its own."""
        needed = _needed(self.own)
        if not needed:
            return list(self.own)
        return [*needed, *(replace(cell, columns={**_experiment(cell), **cell.columns}) for cell in self.own)]

    @property
    def files(self) -> set[str]:
        """The digests of the files whose paths the spec names, which a launch copies."""
        needs = (need for cell in self.cells for need in cell.needs.values())
        return {need.sha256 for need in needs if isinstance(need, AssetNeed)}

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]


def expand(spec: Spec) -> Expansion:
    """The cells and runs of a spec. Equal cells of several files become one cell.

    Raises:
        SpecError: a cell's value is wrong, values contradict each other, a cell appears twice in a file, or an
            exclusion matches no cell (one line for each); or there are more than `MOST_RUNS` runs.
    """
    _check_size(spec)
    mistakes: list[str] = []
    found: dict[str, Cell] = {}
    for part in spec.parts:
        mistakes += part.mistakes
        for key, cell in _cells(part, mistakes).items():
            found[key] = _united(found[key], cell) if key in found else cell
    if mistakes:
        raise SpecError(*mistakes)
    named = _columns(spec, [cell.config for cell in found.values()])
    taken: set[str] = set()
    cells = []
    for cell in found.values():
        runs = [run for run in cell.runs if run.run_id not in taken]
        taken.update(run.run_id for run in runs)
        columns = {key: cell.config[key] for key in named if key in cell.config}
        cells.append(replace(cell, columns=columns, runs=runs))
    return Expansion(cells)


def in_breadth_first_order(expansion: Expansion) -> list[PlannedRun]:
    """What others need first; else the first run of every cell, then the second of every cell, and so on."""
    layers = itertools.zip_longest(*(cell.runs for cell in expansion.cells))
    runs = [run for layer in layers for run in layer if run is not None]
    depths = depths_of(runs)
    return sorted(runs, key=lambda run: depths[run.run_id])


def first_runs(expansion: Expansion, limit: int | None) -> Expansion:
    """The first `limit` runs of the spec's cells in breadth-first order (None: all), and what they need."""
    layers = itertools.zip_longest(*(cell.runs for cell in expansion.own))
    first = itertools.islice((run for layer in layers for run in layer if run is not None), limit)
    kept = {run.run_id for run in first}
    return only(expansion, kept)


def only(expansion: Expansion, chosen: Collection[str]) -> Expansion:
    """The chosen runs, and what they need."""
    cells = [
        replace(cell, runs=[run for run in cell.runs if run.run_id in chosen]) for cell in expansion.cells
    ]
    return Expansion([cell for cell in cells if cell.runs])


def _needed(cells: Sequence[Cell]) -> list[Cell]:
    """A cell for each kind of run that runs of these cells need and none of them has; the deepest needs first."""
    own = {run.run_id for cell in cells for run in cell.runs}
    found: dict[str, Cell] = {}
    taken: set[str] = set()
    for cell in cells:
        for run in cell.runs:
            for need in cell.needs.values():
                for each, its_needs, drawn in need.runs(run.config, cell.sample):
                    fresh = _needed_cell(each, its_needs, drawn)
                    kind = canonical_json(fresh.config)
                    if each.run_id not in own | taken:
                        taken.add(each.run_id)
                        known = found.setdefault(kind, fresh)
                        found[kind] = replace(known, runs=[*known.runs, each], wanted=known.wanted + 1)
                    if kind in found:
                        found[kind] = replace(found[kind], specs=found[kind].specs | cell.specs)
    return list(found.values())


def _experiment(cell: Cell) -> Values:
    return {"experiment": cell.template["experiment"]}


def _needed_cell(run: PlannedRun, needs: Mapping[str, Need], sample: Sample) -> Cell:
    """The cell of a needed run, still without runs."""
    cells = registry.declaration(str(run.config["experiment"])).cells
    cell = Cell(
        columns={},
        wanted=0,
        runs=[],
        template=run.config,
        sample=sample,
        needs=needs,
        next_seed=None,
        is_needed=True,
    )
    named = {key: cell.config[key] for key in cells if key in cell.config}
    return replace(cell, columns={**_experiment(cell), **named})


def _check_size(spec: Spec) -> None:
    sizes = [math.prod(part.factors.values()) for part in spec.parts]
    if sum(sizes) <= MOST_RUNS:
        return
    largest = spec.parts[sizes.index(max(sizes))]
    factors = " x ".join(f"{name} ({count:,})" for name, count in largest.factors.items() if count > 1)
    raise SpecError(
        f"{largest.file}: {sum(sizes):,} runs are above {MOST_RUNS:,}, the most allowed; reduce {factors}"
    )


def _united(one: Cell, other: Cell) -> Cell:
    """Merges equal cells of two files: all runs of both, and the larger number of wanted runs."""
    runs = list({run.run_id: run for run in (*one.runs, *other.runs)}.values())
    following = None
    if one.next_seed is not None or other.next_seed is not None:
        following = max(int(run.config["seed"]) for run in runs) + 1
    return replace(
        one,
        specs=one.specs | other.specs,
        runs=runs,
        wanted=max(one.wanted, other.wanted),
        next_seed=following,
    )


def _cells(part: Part, mistakes: list[str]) -> dict[str, Cell]:
    """The valid cells of a file, by a text that is the same for equal cells. Adds a line for each invalid cell."""
    cells: dict[str, Cell] = {}
    rows: dict[str, Row] = {}
    for row, axes in _combinations(part, mistakes):
        try:
            cell = _cell(part, row, axes)
            key = canonical_json(dict(cell.template)) + repr(sorted(cell.sample.items()))
            if key in cells:
                where, earlier = part.place(row), part.place(rows[key])
                named = "another on this line" if where == earlier else earlier
                values = _described({name: cell.template[name] for name in part.axes})
                raise SpecError(f"{where}: {values}the same as {named}; remove one (`runs` asks for more)")
            cells[key], rows[key] = cell, row
        except SpecError as error:
            mistakes += error.lines
    return cells


def _combinations(part: Part, mistakes: list[str]) -> list[tuple[Row, Values]]:
    """Every row with every point of the axes, without the excluded ones. Their values are not checked together."""
    every = list(itertools.product(part.rows, _points(part)))
    if not part.exclude:
        return every
    idle, left = list(part.exclude), []
    for row, axes in every:
        config = part.unchecked(row, axes)
        hits = [each for each in part.exclude if each.values.items() <= config.items()]
        idle = [each for each in idle if each not in hits]
        if not hits:
            left.append((row, axes))
    if part.mistakes:  # an exclusion may match one of the wrong cells, which are missing here
        return left
    for each in idle:
        if not each.values.keys() & part.overridden:
            values = _listed(each.values)
            mistakes.append(f"{part.file}:{each.line}: exclude: no cell has {values}; remove the entry")
    if not left:
        mistakes.append(f"{part.file}: exclude leaves no cell")
    return left


def _points(part: Part) -> list[Values]:
    """Every point of the grid, combined with every position of the zip."""
    axes: list[list[Values]] = [[{key: value} for value in values] for key, values in part.grid.items()]
    if part.zipped:
        steps = zip(*part.zipped.values(), strict=True)
        axes.append([dict(zip(part.zipped, step, strict=True)) for step in steps])
    return [
        {key: value for values in point for key, value in values.items()}
        for point in itertools.product(*axes)
    ]


def _cell(part: Part, row: Row, axes: Values) -> Cell:
    """A cell with its runs, but without columns.

    Raises:
        SpecError: values contradict each other, or drawn values do. The error names the first such seed.
    """
    described = _described({**axes, **row.values})
    try:
        values = part.unchecked(row, axes)
        ids = _template_ids(part.needs, values, drawn=part.sample)
        template = resolve(part.experiment, part.preset, part.base, axes, row.values, ids)
        if not part.sample:
            _check_needs(part.needs, template)
    except ConfigError as error:
        raise SpecError(f"{part.place(row, error.keys)}: {described}{error}") from None
    seeds = part.seeds_of(row)
    cell = Cell(
        columns={},
        wanted=len(seeds),
        specs=frozenset({part.spec}),
        runs=[],
        template=template,
        sample=part.sample,
        needs=part.needs,
        next_seed=max(seeds) + 1 if part.seeds.fixed is None else None,
    )
    runs = []
    refused: dict[int, ConfigError] = {}
    for seed in seeds:
        try:
            runs.append(cell.run(seed))
        except ConfigError as error:
            refused[seed] = error
    if refused:
        seed, first = next(iter(refused.items()))
        more = f" (and {len(refused) - 1:,} more of {len(seeds):,})" if len(refused) > 1 else ""
        raise SpecError(f"{part.place(row, first.keys)}: {described}seed {seed}{more}: {first}")
    return replace(cell, runs=runs)


def _template_ids(needs: Mapping[str, Need], values: Values, *, drawn: Collection[str]) -> dict[str, str]:
    """What stands in a cell's template for these needs: their values, or stand-ins that depend on nothing drawn.

    A value that is drawn is known for a run only, and the default in its place may not fit the needed run.
    """
    known = {key: need for key, need in needs.items() if set(drawn).isdisjoint(need.same)}
    ids = {key: hashlib.sha256(repr(need).encode()).hexdigest() for key, need in needs.items()}
    return ids | values_of(known, values)


def _check_needs(needs: Mapping[str, Need], config: Values) -> None:
    """Raises ConfigError if a config contradicts the runs that it needs, or one of these those that it needs itself."""
    of_runs = {key: need for key, need in needs.items() if isinstance(need, RunNeed)}
    configs = {key: need.run(config).config for key, need in of_runs.items()}
    if configs:
        _config(config).check_needs({key: _config(values) for key, values in configs.items()})
    for key, values in configs.items():
        _check_needs(of_runs[key].needs, values)


def _config(values: Values) -> RunConfig:
    kind: type[RunConfig] = registry.config_type(str(values["experiment"]))
    return build(kind, values)


def _listed(values: Values) -> str:
    return ", ".join(f"{key}={plain(value)}" for key, value in values.items())


def _described(values: Values) -> str:
    return f"cell {_listed(values)}: " if values else ""


def _columns(spec: Spec, configs: Sequence[Values]) -> list[str]:
    """The keys of rows and axes, then the other keys of the spec whose values differ between cells."""
    named = [key for part in spec.parts for key in part.axes]
    stated = {key for part in spec.parts for key in (*part.base, "experiment", "preset")}
    keys = [key for config in configs for key in config if key in stated]
    differing = [key for key in dict.fromkeys(keys) if len({config.get(key) for config in configs}) > 1]
    return list(dict.fromkeys([*named, *differing]))
