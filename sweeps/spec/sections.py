"""Reads the sections of a spec file and checks their values. An error names file, line and key."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from imagination import registry
from imagination.schema import ConfigError, Scalar, coerce, keys, plain
from slurm.submit.launchers import check_setting
from sweeps.spec import needs
from sweeps.spec.document import Node, SpecError, check_keys
from sweeps.spec.model import Exclusion, Part, Row, SeedKeys, Seeds, Values
from sweeps.spec.sample import KINDS, Distribution

P = ParamSpec("P")
T = TypeVar("T")

PART_KEYS = (
    "experiment",
    "preset",
    "needs",
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
    "seed": "seed: give the seeds under `seeds:`, as a list, a range, a count or {start: ...}",
    "experiment": "experiment: give it at the top of the spec, once per file",
    "runs": "runs: give it in a cell, or at the top of the spec for all of its cells",
}


def config_value(experiment: str, key: str, value: object) -> Scalar:
    """Coerces and checks a value of a config key. A key with its own place in a spec is a ConfigError, too."""
    if key in _ELSEWHERE:
        raise ConfigError(_ELSEWHERE[key], key=key)
    coerced = coerce(registry.config_type(experiment), key, value)
    if key == "preset":
        registry.preset(experiment, str(coerced))
    return coerced


def check_distinct(what: str, values: Iterable[Hashable]) -> None:
    """Raises ConfigError at the first value that appears twice."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{what}: {plain(value)} appears twice; remove one")
        seen.add(value)


def seeds_value(value: object) -> Seeds:
    """Reads seeds: a count, a list, `{start: K, stop: L}` (L not included) or `{start: K}`; else a ConfigError."""
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
    """The value of a key of `SeedKeys`; a ConfigError if it is not an integer or is out of bounds."""
    return int(coerce(SeedKeys, key, value))


def located(node: Node, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `check`, and turns its ConfigError into a SpecError with the node's file and line."""
    try:
        return check(*args, **kwargs)
    except ConfigError as error:
        node.fail(str(error))


def part(root: Node, entries: Mapping[str, Node], *, spec: str) -> Part:
    """Reads the cells that a spec file itself describes. `entries` are its top-level keys, `spec` is its name.

    Raises:
        SpecError: a section is wrong. Wrong cells are noted in `Part.mistakes` instead.
    """
    if "experiment" not in entries:
        root.fail(f"experiment: missing; valid experiments: {', '.join(registry.names())}")
    experiment = entries["experiment"].word("experiment")
    declared = located(entries["experiment"], registry.declaration, experiment)
    mistakes: list[str] = []
    rows = [Row({}, None, root.line, {})]
    if "cells" in entries:
        rows = _rows(experiment, entries["cells"], mistakes)
    read: dict[str, Any] = {"preset": declared.default_preset} | {
        "zipped" if key == "zip" else key: reader(experiment, entries[key])
        for key, reader in _READERS.items()
        if key in entries
    }
    # A later section overrides an earlier one.
    said = {
        key: child.where
        for section in ("needs", "base", "grid", "zip", "sample")
        if section in entries
        for key, child in entries[section].mapping(section).items()
    }
    made = Part(
        file=root.file, spec=spec, experiment=experiment, rows=rows, said=said, mistakes=mistakes, **read
    )
    _check_one_place(made, entries)
    if made.seeds.fixed is not None and ("runs" in entries or any(row.runs is not None for row in made.rows)):
        entries["seeds"].fail(
            "seeds: a count, list or range of seeds together with `runs`; "
            "keep one, or give `seeds: {start: ...}` alone"
        )
    return made


def _value(experiment: str, key: str, node: Node) -> Scalar:
    if isinstance(node.value, list) and key in keys(registry.config_type(experiment)):
        node.fail(f"{key}: {plain(node.value)} is a list; write axes under `grid:`")
    return located(node, config_value, experiment, key, node.value)


def _values(experiment: str, entries: Mapping[str, Node]) -> Values:
    return {key: _value(experiment, key, node) for key, node in entries.items()}


def _rows(experiment: str, node: Node, mistakes: list[str]) -> list[Row]:
    """The rows without a mistake. Adds a line to `mistakes` for each other row."""
    rows = []
    for item in node.items("cells"):
        try:
            entries = item.mapping("a cell")
            runs = entries.pop("runs", None)
            said = {key: child.where for key, child in entries.items()}
            values = _values(experiment, entries)
            rows.append(Row(values, None if runs is None else _runs(experiment, runs), item.line, said))
        except SpecError as error:
            mistakes += error.lines
    return rows


def _axes(experiment: str, node: Node, what: str) -> dict[str, list[Scalar]]:
    return {
        key: [_value(experiment, key, item) for item in child.items(f"{what}.{key}")]
        for key, child in node.mapping(what).items()
    }


def _grid(experiment: str, node: Node) -> dict[str, list[Scalar]]:
    axes = _axes(experiment, node, "grid")
    for key, child in node.mapping("grid").items():
        located(child, check_distinct, f"grid.{key}", axes[key])
    return axes


def _zip(experiment: str, node: Node) -> dict[str, list[Scalar]]:
    axes = _axes(experiment, node, "zip")
    lengths = {key: len(values) for key, values in axes.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        node.fail(f"zip: lists of unequal length ({listed}); they advance together")
    located(node, check_distinct, f"zip ({', '.join(axes)})", zip(*axes.values(), strict=True))
    return axes


def _exclude(experiment: str, node: Node) -> list[Exclusion]:
    items = node.items("exclude")
    return [Exclusion(_values(experiment, item.mapping("exclude")), item.line) for item in items]


def _runs(_experiment: str, node: Node) -> int:
    return located(node, number, "runs", node.value)


def _sample(experiment: str, node: Node) -> dict[str, Distribution]:
    drawn = node.mapping("sample").items()
    return {key: _distribution(experiment, key, child) for key, child in drawn}


def _distribution(experiment: str, key: str, node: Node) -> Distribution:
    if key in ("preset", *_ELSEWHERE):
        node.fail(f"sample: {key} cannot be drawn")
    entries = node.mapping(f"sample.{key}")
    check_keys(entries, "distribution", KINDS)
    if len(entries) > 1:
        node.fail(f"sample.{key}: give one distribution, not {' and '.join(entries)}")
    kind, listed = next(iter(entries.items()))
    values = [_value(experiment, key, item) for item in listed.items(f"sample.{key}.{kind}")]
    if kind != "choice":
        _check_ends(f"sample.{key}", kind, values, listed)
    return Distribution(kind, values)


_READERS: dict[str, Callable[[str, Node], object]] = {
    "preset": lambda experiment, node: _value(experiment, "preset", node),
    "needs": needs.read,
    "base": lambda experiment, node: _values(experiment, node.mapping("base")),
    "grid": _grid,
    "zip": _zip,
    "exclude": _exclude,
    "sample": _sample,
    "seeds": lambda _, node: located(node, seeds_value, node.value),
    "runs": _runs,
}


def _check_ends(what: str, kind: str, values: list[Scalar], node: Node) -> None:
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


def _check_one_place(made: Part, entries: Mapping[str, Node]) -> None:
    sections = {
        "needs": made.needs,
        "base": [key for key in made.base if key in made.needs],
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
    # Launcher settings are pickled and stored, so they must not be of ruamel's types. JSON gives plain ones.
    return {
        key: located(child, check_setting, key, _plain_value(key, child))
        for key, child in node.mapping("launcher").items()
    }


def _plain_value(key: str, node: Node) -> object:
    try:
        return json.loads(json.dumps(node.value, default=str))
    except (TypeError, ValueError):  # a date as a key, or a number of thousands of digits
        node.fail(f"launcher.{key}: {plain(node.value)} has a key that is not a word, or too long a number")
