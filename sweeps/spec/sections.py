"""The sections of a spec file, each from YAML to checked plain data. An error names file, line and key."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from imagination import registry
from imagination.schema import ConfigError, Scalar, coerce, keys, plain
from slurm.submit.launcher_keys import LAUNCHER_KEYS
from slurm.submit.launchers import check_setting
from sweeps.spec.document import Node, SpecError, check_keys
from sweeps.spec.model import Exclusion, Part, Row, SeedKeys, Seeds, Values
from sweeps.spec.sample import KINDS, Distribution

P = ParamSpec("P")
T = TypeVar("T")

PART_KEYS = ("experiment", "preset", "base", "cells", "grid", "zip", "exclude", "sample", "seeds", "runs")
TOP_KEYS = ("name", *PART_KEYS, "include", "launcher")

_ELSEWHERE = {
    "seed": "seed: give the seeds under `seeds:`, as a list, a range, a count or {start: ...}",
    "experiment": "experiment: give it at the top of the spec, once per file",
    "runs": "runs: give it in a cell, or at the top of the spec for all of its cells",
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
    """Raises ConfigError at the first value that a list holds twice."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{what}: {plain(value)} appears twice; remove one")
        seen.add(value)


def seeds_value(value: object) -> Seeds:
    """Seeds as a count, a list, `{start: K, stop: L}` (L not included) or `{start: K}`.

    Raises:
        ConfigError: none of these, a number out of bounds, or a seed twice.
    """
    if isinstance(value, Mapping):
        return _seed_range(value)
    if not isinstance(value, list):
        return Seeds(fixed=range(number("seeds", value)))
    seeds = [number("seed", seed) for seed in value]
    if not seeds:
        raise ConfigError("seeds is an empty list; leave it out or give it a seed", key="seeds")
    check_distinct("seeds", seeds)
    return Seeds(fixed=seeds)


def _seed_range(value: Mapping[object, object]) -> Seeds:
    if not value or not value.keys() <= {"start", "stop"}:
        raise ConfigError(f"seeds: {plain(value)} is not {{start: K}} or {{start: K, stop: L}}", key="seeds")
    start = number("start", value.get("start", 0))
    if "stop" not in value:
        return Seeds(start=start)
    stop = number("stop", value["stop"])
    if stop <= start:
        raise ConfigError(
            f"seeds: {plain(value)} holds no seed; stop, which is not included, must be above start",
            key="seeds",
        )
    return Seeds(start=start, fixed=range(start, stop))


def number(key: str, value: object) -> int:
    """A number of `runs` or `seeds`: a key of `SeedKeys`.

    Raises:
        ConfigError: the value is not an integer, or is out of bounds.
    """
    return int(coerce(SeedKeys, key, value))


def located(node: Node, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The answer of `check`; its ConfigError becomes a SpecError with the node's file and line."""
    try:
        return check(*args, **kwargs)
    except ConfigError as error:
        node.fail(str(error))


def part(root: Node, entries: Mapping[str, Node]) -> Part:
    """The cells that a spec file itself describes.

    Args:
        root: the file.
        entries: its top-level keys.

    Raises:
        SpecError: a section is wrong. Wrong cells are noted in `Part.mistakes` instead.
    """
    if "experiment" not in entries:
        root.fail(f"experiment: missing; valid experiments: {', '.join(registry.EXPERIMENTS)}")
    experiment = entries["experiment"].word("experiment")
    located(entries["experiment"], registry.entry, experiment)
    reader = _Reader(experiment)
    read: dict[str, Any] = {"rows": [Row({}, None, root.line, {})]}
    for key in PART_KEYS[1:]:
        if key in entries:
            field = {"cells": "rows", "zip": "zipped"}.get(key, key)
            read[field] = getattr(reader, field)(entries[key])
    made = Part(file=root.file, experiment=experiment, said=_said(entries), mistakes=reader.mistakes, **read)
    _check_one_place(made, entries)
    if made.seeds.fixed is not None and ("runs" in entries or any(row.runs is not None for row in made.rows)):
        entries["seeds"].fail(
            "seeds: a count, list or range of seeds together with `runs`; "
            "keep one, or give `seeds: {start: ...}` alone"
        )
    return made


class _Reader:
    """Reads the sections of one file. A section's method has the name of its field in `Part`."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.mistakes: list[str] = []

    def preset(self, node: Node) -> str:
        name = node.word("preset")
        located(node, registry.preset, self.experiment, name)
        return name

    def base(self, node: Node) -> Values:
        return self._values(node, "base")

    def rows(self, node: Node) -> list[Row]:
        rows = []
        for item in node.items("cells"):
            try:
                rows.append(self._row(item))
            except SpecError as error:
                self.mistakes += error.lines
        return rows

    def grid(self, node: Node) -> Mapping[str, list[Scalar]]:
        axes = self._axes(node, "grid")
        for key, child in node.mapping("grid").items():
            located(child, check_distinct, f"grid.{key}", axes[key])
        return axes

    def zipped(self, node: Node) -> Mapping[str, list[Scalar]]:
        axes = self._axes(node, "zip")
        lengths = {key: len(values) for key, values in axes.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            node.fail(f"zip: lists of unequal length ({listed}); they advance together")
        located(node, check_distinct, f"zip ({', '.join(axes)})", zip(*axes.values(), strict=True))
        return axes

    def exclude(self, node: Node) -> list[Exclusion]:
        return [Exclusion(self._values(item, "exclude"), item.line) for item in node.items("exclude")]

    def sample(self, node: Node) -> Mapping[str, Distribution]:
        return {key: self._distribution(key, child) for key, child in node.mapping("sample").items()}

    def seeds(self, node: Node) -> Seeds:
        return located(node, seeds_value, node.value)

    def runs(self, node: Node) -> int:
        return located(node, number, "runs", node.value)

    def _value(self, key: str, node: Node) -> Scalar:
        if isinstance(node.value, list) and key in keys(registry.config_type(self.experiment)):
            node.fail(f"{key}: {plain(node.value)} is a list; write axes under `grid:`")
        return located(node, config_value, self.experiment, key, node.value)

    def _values(self, node: Node, what: str) -> Values:
        return {key: self._value(key, child) for key, child in node.mapping(what).items()}

    def _row(self, node: Node) -> Row:
        entries = node.mapping("a cell")
        runs = entries.pop("runs", None)
        values = {key: self._value(key, child) for key, child in entries.items()}
        said = {key: child.where for key, child in entries.items()}
        return Row(values, None if runs is None else self.runs(runs), node.line, said)

    def _axes(self, node: Node, what: str) -> dict[str, list[Scalar]]:
        return {
            key: [self._value(key, item) for item in child.items(f"{what}.{key}")]
            for key, child in node.mapping(what).items()
        }

    def _distribution(self, key: str, node: Node) -> Distribution:
        if key in ("preset", *_ELSEWHERE):
            node.fail(f"sample: {key} cannot be drawn")
        entries = node.mapping(f"sample.{key}")
        check_keys(entries, "distribution", KINDS)
        if len(entries) > 1:
            node.fail(f"sample.{key}: give one distribution, not {' and '.join(entries)}")
        kind, listed = next(iter(entries.items()))
        values = [self._value(key, item) for item in listed.items(f"sample.{key}.{kind}")]
        distribution = Distribution(kind, values)
        if distribution.is_range:
            _check_ends(f"sample.{key}", distribution, listed)
        return distribution


def _check_ends(what: str, drawn: Distribution, node: Node) -> None:
    kind, values = drawn.kind, drawn.values
    if type(values[0]) is not (int if kind == "randint" else float):
        kinds = {float: "uniform, loguniform or choice", int: "randint or choice"}
        node.fail(f"{what}: {kind} does not fit; use {kinds.get(type(values[0]), 'choice')}")
    if len(values) != 2:
        node.fail(f"{what}.{kind}: {plain(node.value)} is not [low, high]")
    low, high = (float(value) for value in values)
    if kind == "loguniform" and min(low, high) <= 0:
        node.fail(f"{what}.{kind}: {plain(min(low, high))} has no logarithm; the low end must be above 0")
    if low == high:
        node.fail(f"{what}.{kind}: {plain(values)} holds one value; give it under `base:`")
    if low > high:
        node.fail(f"{what}.{kind}: {plain(values)} has the high end first; write {plain(values[::-1])}")


def _said(entries: Mapping[str, Node]) -> dict[str, str]:
    """Where the file gives each key. A later section overrides an earlier one, so its place counts."""
    sections = [entries[name] for name in ("base", "grid", "zip", "sample") if name in entries]
    return {key: child.where for node in sections for key, child in node.mapping("a section").items()}


def _check_one_place(made: Part, entries: Mapping[str, Node]) -> None:
    sections = {
        "cells": [key for row in made.rows for key in row.values],
        "grid": made.grid,
        "zip": made.zipped,
        "sample": made.sample,
    }
    seen: dict[str, str] = {}
    for section, named in sections.items():
        for key in named:
            if seen.setdefault(key, section) != section:
                entries[section].fail(f"{key}: varies in {seen[key]} and in {section}; keep one of them")
    for exclusion in made.exclude:
        for key in exclusion.values:
            if key in made.sample:
                entries["exclude"].fail(f"exclude: {key} is drawn per seed, and exclude drops whole cells")


def launcher(node: Node) -> dict[str, object]:
    """The launcher's settings as plain values; `launcher: slurm` is short for `launcher: {name: slurm}`.

    Raises:
        SpecError: a key that no launcher has, an unknown launcher, or more than one process per job.
    """
    if isinstance(node.value, str):
        return {"name": located(node, check_setting, "name", str(node.value))}
    entries = node.mapping("launcher")
    check_keys(entries, "launcher key", LAUNCHER_KEYS)
    return {
        key: located(child, check_setting, key, _unwrapped(child.value)) for key, child in entries.items()
    }


def _unwrapped(value: object) -> object:
    """A ruamel value as a plain Python value, because launcher settings are pickled and stored."""
    if isinstance(value, Mapping):
        return {str(key): _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unwrapped(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value
