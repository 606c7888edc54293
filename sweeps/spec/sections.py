"""The sections of a spec file, each from YAML to checked plain data; errors name file, line and key."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from imagination import registry
from imagination.schema import ConfigError, Scalar, coerce, keys, plain
from jobs.config import DEFAULT_PRESET
from slurm.submit.launcher_keys import LAUNCHER_KEYS
from slurm.submit.launchers import check_setting
from sweeps.spec.document import Node, SpecError, check_keys
from sweeps.spec.model import Exclusion, Part, Row, SeedKeys, Seeds, Values
from sweeps.spec.sample import KINDS, Distribution

P = ParamSpec("P")
T = TypeVar("T")

PART_KEYS = (
    "experiment",
    "preset",
    "base",
    "cells",
    "grid",
    "zip",
    "exclude",
    "sample",
    "seeds",
    "runs",
)
TOP_KEYS = ("name", *PART_KEYS, "include", "launcher")

_ELSEWHERE = {
    "seed": "seed: runs are told apart by `seeds:`, a list, a range, a count or {start: ...}",
    "experiment": "experiment: stands at the top of a spec, once per file",
    "runs": "runs: stands in a cell, or at the top of a spec for all of its cells",
}


def config_value(experiment: str, key: str, value: object) -> Scalar:
    """A value that a spec or an override gives to a config key, coerced and checked.

    Raises:
        ConfigError: unknown key or preset, a wrong value, or a key that has its own place in a spec.
    """
    if key in _ELSEWHERE:
        raise ConfigError(_ELSEWHERE[key], key=key)
    coerced = coerce(registry.config_type(experiment), key, value)
    if key == "preset":
        registry.preset(experiment, str(coerced))
    return coerced


def check_distinct(what: str, values: Iterable[Hashable]) -> None:
    """Raises ConfigError at the first value that stands in a list a second time."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{what}: {plain(value)} stands in the list twice; remove one")
        seen.add(value)


def seeds_value(value: object) -> Seeds:
    """Seeds as a count, a list, `{start: K, stop: L}` (L not included) or `{start: K}`.

    Raises:
        ConfigError: none of these, a number out of bounds, or a seed twice.
    """
    if isinstance(value, Mapping):
        return _seed_range(value)
    if not isinstance(value, list):
        return Seeds(fixed=range(_number("seeds", value)))
    seeds = [_number("seed", seed) for seed in value]
    if not seeds:
        raise ConfigError("seeds is an empty list; leave it out or give it a seed", key="seeds")
    check_distinct("seeds", seeds)
    return Seeds(fixed=seeds)


def _seed_range(value: Mapping[object, object]) -> Seeds:
    unknown = [key for key in value if key not in ("start", "stop")]
    if unknown or not value:
        raise ConfigError(f"seeds: {plain(value)} is not {{start: K}} or {{start: K, stop: L}}", key="seeds")
    start = _number("start", value.get("start", 0))
    if "stop" not in value:
        return Seeds(start=start)
    stop = _number("stop", value["stop"])
    if stop <= start:
        raise ConfigError(f"seeds: from {start} up to, not including, {stop} there is none", key="seeds")
    return Seeds(start=start, fixed=range(start, stop))


def runs_value(value: object) -> int:
    """How many runs a cell wants.

    Raises:
        ConfigError: no integer, or below 1.
    """
    return _number("runs", value)


def _number(key: str, value: object) -> int:
    return int(coerce(SeedKeys, key, value))


def located(node: Node, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `check` returns; its ConfigError becomes a SpecError with the node's file and line."""
    try:
        return check(*args, **kwargs)
    except ConfigError as error:
        node.fail(str(error))


def part(root: Node, entries: Mapping[str, Node]) -> Part:
    """The cells that a spec file itself describes.

    Raises:
        SpecError: see the module.
    """
    experiment = _experiment(root, entries)
    rows, mistakes = _rows(experiment, entries["cells"]) if "cells" in entries else ([_no_row(root)], [])
    made = Part(
        file=root.file,
        experiment=experiment,
        preset=_preset(experiment, entries.get("preset")),
        base=_values(experiment, entries["base"], "base") if "base" in entries else {},
        rows=rows,
        grid=_grid(experiment, entries.get("grid")),
        zipped=_zip(experiment, entries.get("zip")),
        exclude=_exclusions(experiment, entries.get("exclude")),
        sample=_sample(experiment, entries.get("sample")),
        seeds=_seeds(entries.get("seeds")),
        runs=_runs(entries["runs"]) if "runs" in entries else 1,
        said=_said(entries),
        mistakes=mistakes,
    )
    _check_one_place(made, entries)
    _check_runs(made, entries)
    return made


def _said(entries: Mapping[str, Node]) -> dict[str, str]:
    """Where each key stands; of several places the one that counts, for later sections go over earlier ones."""
    sections = [entries[name] for name in ("base", "grid", "zip", "sample") if name in entries]
    return {key: child.where for node in sections for key, child in node.mapping("a section").items()}


def _experiment(root: Node, entries: Mapping[str, Node]) -> str:
    if "experiment" not in entries:
        root.fail(f"experiment: missing; valid experiments: {', '.join(registry.EXPERIMENTS)}")
    node = entries["experiment"]
    name = node.word("experiment")
    located(node, registry.entry, name)
    return name


def _preset(experiment: str, node: Node | None) -> str:
    if node is None:
        return DEFAULT_PRESET
    name = node.word("preset")
    located(node, registry.preset, experiment, name)
    return name


def _value(experiment: str, key: str, node: Node) -> Scalar:
    if isinstance(node.value, list) and key in keys(registry.config_type(experiment)):
        node.fail(f"{key}: {plain(node.value)} is a list; axes stand under `grid:`")
    return located(node, config_value, experiment, key, node.value)


def _values(experiment: str, node: Node, what: str) -> Values:
    return {key: _value(experiment, key, child) for key, child in node.mapping(what).items()}


def _no_row(root: Node) -> Row:
    return Row({}, None, root.line, {})


def _rows(experiment: str, node: Node) -> tuple[list[Row], list[str]]:
    """The cells, and a line for each that has a wrong key or value."""
    rows: list[Row] = []
    mistakes: list[str] = []
    for item in node.items("cells"):
        try:
            rows.append(_row(experiment, item))
        except SpecError as error:
            mistakes += error.lines
    return rows, mistakes


def _row(experiment: str, node: Node) -> Row:
    entries = node.mapping("a cell")
    runs = entries.pop("runs", None)
    values = {key: _value(experiment, key, child) for key, child in entries.items()}
    said = {key: child.where for key, child in entries.items()}
    return Row(values, None if runs is None else _runs(runs), node.line, said)


def _axes(experiment: str, node: Node | None, what: str) -> dict[str, list[Scalar]]:
    if node is None:
        return {}
    return {
        key: [_value(experiment, key, item) for item in child.items(f"{what}.{key}")]
        for key, child in node.mapping(what).items()
    }


def _grid(experiment: str, node: Node | None) -> dict[str, list[Scalar]]:
    axes = _axes(experiment, node, "grid")
    for key, child in node.mapping("grid").items() if node is not None else ():
        located(child, check_distinct, f"grid.{key}", axes[key])
    return axes


def _zip(experiment: str, node: Node | None) -> dict[str, list[Scalar]]:
    axes = _axes(experiment, node, "zip")
    lengths = {key: len(values) for key, values in axes.items()}
    if node is not None and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        node.fail(f"zip: lists of unequal length ({listed}); they advance together")
    if node is not None:
        located(node, check_distinct, f"zip ({', '.join(axes)})", zip(*axes.values(), strict=True))
    return axes


def _exclusions(experiment: str, node: Node | None) -> list[Exclusion]:
    if node is None:
        return []
    return [Exclusion(_values(experiment, item, "exclude"), item.line) for item in node.items("exclude")]


def _sample(experiment: str, node: Node | None) -> dict[str, Distribution]:
    if node is None:
        return {}
    return {key: _distribution(experiment, key, child) for key, child in node.mapping("sample").items()}


def _distribution(experiment: str, key: str, node: Node) -> Distribution:
    if key in ("preset", *_ELSEWHERE):
        node.fail(f"sample: {key} cannot be drawn")
    entries = node.mapping(f"sample.{key}")
    check_keys(entries, "distribution", KINDS)
    if len(entries) > 1:
        node.fail(f"sample.{key}: one distribution, not {' and '.join(entries)}")
    kind, listed = next(iter(entries.items()))
    values = [_value(experiment, key, item) for item in listed.items(f"sample.{key}.{kind}")]
    distribution = Distribution(kind, values)
    if distribution.is_range:
        _check_ends(key, kind, values, listed)
    return distribution


def _check_ends(key: str, kind: str, values: list[Scalar], node: Node) -> None:
    wanted = int if kind == "randint" else float
    if type(values[0]) is not wanted:
        kinds = {float: "uniform, loguniform or choice", int: "randint or choice"}
        node.fail(f"sample.{key}: {kind} does not fit; use {kinds.get(type(values[0]), 'choice')}")
    if len(values) != 2:
        node.fail(f"sample.{key}.{kind}: {plain(node.value)} is not [low, high]")
    low = min(float(value) for value in values)
    if kind == "loguniform" and low <= 0:
        node.fail(f"sample.{key}.{kind}: {plain(low)} has no logarithm; the low end must be above 0")


def _seeds(node: Node | None) -> Seeds:
    return Seeds() if node is None else located(node, seeds_value, node.value)


def _runs(node: Node) -> int:
    return located(node, runs_value, node.value)


def _check_one_place(made: Part, entries: Mapping[str, Node]) -> None:
    cells = {key: None for row in made.rows for key in row.values}
    seen: dict[str, str] = {}
    for section, named in (
        ("cells", cells),
        ("grid", made.grid),
        ("zip", made.zipped),
        ("sample", made.sample),
    ):
        for key in named:
            if key in seen:
                entries[section].fail(
                    f"{key}: stands in {seen[key]} and in {section}; a key varies in one place"
                )
            seen[key] = section
    for exclusion in made.exclude:
        for key in exclusion.values:
            if key in made.sample:
                entries["exclude"].fail(f"exclude: {key} is drawn per seed; exclude takes whole cells")


def _check_runs(made: Part, entries: Mapping[str, Node]) -> None:
    if made.seeds.fixed is None:
        return
    if "runs" in entries or any(row.runs is not None for row in made.rows):
        entries["seeds"].fail(
            "seeds: a count, list or range of seeds together with `runs`; "
            "keep one, or give `seeds: {start: ...}` alone"
        )


def launcher(node: Node) -> dict[str, object]:
    """The launcher's settings, plain; `launcher: slurm` is short for `launcher: {name: slurm}`.

    Raises:
        SpecError: a key that no launcher knows, an unknown launcher, or more than one process per job.
    """
    if isinstance(node.value, str):
        return {"name": located(node, check_setting, "name", str(node.value))}
    entries = node.mapping("launcher")
    check_keys(entries, "launcher key", LAUNCHER_KEYS)
    return {
        key: located(child, check_setting, key, _unwrapped(child.value)) for key, child in entries.items()
    }


def _unwrapped(value: object) -> object:
    """A ruamel value as the plain Python one: what is pickled or printed later must not know ruamel."""
    if isinstance(value, Mapping):
        return {str(key): _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unwrapped(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value
