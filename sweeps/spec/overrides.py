"""`KEY=VALUE` after a spec on the command line, in Hydra's grammar."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from imagination import registry
from imagination.schema import ConfigError, Scalar, keys, plain
from jobs.overrides import parse
from jobs.overrides import values as values_of
from slurm.submit.launchers import check_setting
from sweeps.spec.document import SpecError
from sweeps.spec.model import Part, Spec, without
from sweeps.spec.sections import check_distinct, config_value, number, seeds_value

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_MOST = 100_000
"""Most values of one axis, so that a slip such as range(1,1000000000) does not fill the memory."""


def apply_overrides(spec: Spec, overrides: Sequence[str]) -> Spec:
    """The spec as the command line changes it.

    `channels=32` sets a key, `channels=20,32` adds an axis; `preset=`, `runs=` and `seeds=` replace what the
    spec says; `launcher=slurm` chooses the launcher and `launcher.KEY=VALUE` sets one of its keys. An experiment's
    name before a key (`life_count.preset=paper`) changes the cells of that experiment alone.

    Raises:
        SpecError: wrong syntax, unknown key, wrong value, a key twice, or a key that the spec varies.
    """
    try:
        parsed = [parse(text) for text in overrides]
    except ConfigError as error:
        raise SpecError(f"override {error}") from None
    seen: set[tuple[str, str]] = set()
    for text, override in zip(overrides, parsed, strict=True):
        try:
            scope, key = _scoped(str(override.key_or_group))
            _check_form(override, scope, key, seen)
            spec = _apply(spec, scope, key, override)
        except ConfigError as error:
            raise SpecError(f"override '{text}': {error}") from None
        seen.add((scope, key))
    return spec


def _scoped(path: str) -> tuple[str, str]:
    """The experiment before a key (empty: all experiments), and the key."""
    first, _, rest = path.partition(".")
    return (first, rest) if rest and first in registry.names() else ("", path)


def _check_form(override: "Override", scope: str, key: str, seen: set[tuple[str, str]]) -> None:
    if override.is_delete() or override.is_add() or override.is_force_add() or override.package is not None:
        raise ConfigError("write KEY=VALUE without '+', '~' and '@', because every key exists")
    before = {name for other, name in seen if not scope or other in ("", scope)}
    if key in before:
        raise ConfigError(f"{key} is given twice")
    if {"runs", "seeds"} <= before | {key}:
        raise ConfigError("give `runs` or `seeds`, not both; `seeds.start=K` keeps the runs")


def _apply(spec: Spec, scope: str, key: str, override: "Override") -> Spec:
    first, _, rest = key.partition(".")
    if first == "launcher":
        if scope:
            raise ConfigError(f"all runs share one launcher; leave '{scope}.' out")
        return replace(spec, launcher=_launcher(spec.launcher, rest, _one(override)))
    chosen = [part for part in spec.parts if part.experiment == scope or not scope]
    if not chosen:
        raise ConfigError(f"{spec.name} has no cells of {scope}; leave '{scope}.' out")
    if key == "experiment":
        raise ConfigError("the experiment cannot be changed; write a spec for it")
    if key != "runs" and first != "seeds":
        _check_not_varied(spec.name, chosen, key)
        _check_for_all(chosen, key, override)
    parts = [_changed(part, key, override) if part in chosen else part for part in spec.parts]
    return replace(spec, parts=parts)


def _changed(part: Part, key: str, override: "Override") -> Part:
    first, _, rest = key.partition(".")
    if key == "runs":
        runs = number("runs", _one(override))
        if part.seeds.fixed is not None:
            raise ConfigError(f"{part.file} fixes its seeds; override `seeds`", key="runs")
        return replace(part, runs=runs, rows=[replace(row, runs=None) for row in part.rows])
    if first == "seeds":
        seeds = seeds_value({rest: _one(override)} if rest else _one(override))
        if seeds.fixed is None and part.seeds.fixed is not None:
            raise ConfigError(f"{part.file} fixes its seeds; give a count, list or range", key="seeds")
        return replace(part, seeds=seeds)
    return _with_values(part, key, _axis(override), f"override '{override.input_line}'")


def _with_values(part: Part, key: str, values: Sequence[object], said: str) -> Part:
    """One value replaces the spec's own, wherever it stands. Several values become an axis instead."""
    checked: list[Scalar] = [config_value(part.experiment, key, value) for value in values]
    check_distinct(key, checked)
    part = replace(part, overridden=part.overridden | {key}, said={**part.said, key: said})
    part = replace(part, needs=without(part.needs, key))
    rows = [replace(row, said=without(row.said, key)) for row in part.rows]
    if len(checked) == 1:
        new = {key: checked[0]}
        rows = [replace(row, values={**row.values, **new}) if key in row.values else row for row in rows]
        return replace(part, base={**part.base, **new}, rows=rows)
    rows = [replace(row, values=without(row.values, key)) for row in rows]
    return replace(part, base=without(part.base, key), rows=rows, grid={**part.grid, key: checked})


def _check_not_varied(name: str, parts: Sequence[Part], key: str) -> None:
    for part in parts:
        for section, named in (("grid", part.grid), ("zip", part.zipped), ("sample", part.sample)):
            if key in named:
                raise ConfigError(f"{part.file} varies {key} (in {section}); change the spec", key=key)
    if key != "preset" and not any(
        key in row.values or key in part.base for part in parts for row in part.rows
    ):
        return
    having = [part for part in parts if key in keys(registry.config_type(part.experiment))]
    said = dict.fromkeys(part.unchecked(row, {})[key] for part in having for row in part.rows)
    if len(said) > 1:
        raise ConfigError(f"{name} varies {key} ({', '.join(map(plain, said))}); change the spec", key=key)


def _check_for_all(parts: Sequence[Part], key: str, override: "Override") -> None:
    """Raises ConfigError if some experiments accept the values and others do not. The error names one of each."""
    refused: ConfigError | None = None
    accepts: list[str] = []
    for experiment in dict.fromkeys(part.experiment for part in parts):
        try:
            for value in _axis(override):
                config_value(experiment, key, value)
            accepts.append(experiment)
        except ConfigError as error:
            refused = refused or ConfigError(f"{experiment}: {error}", key=key)
    if refused and accepts:
        raise ConfigError(f"{refused}; {accepts[0]}.{override.input_line} is for {accepts[0]} alone", key=key)


def _axis(override: "Override") -> list[object]:
    """The values of a choice or range, or the single value of anything else."""
    found = list(islice(values_of(override), _MOST + 1))
    if len(found) > _MOST:
        raise ConfigError(f"gives more than {_MOST:,} values")
    if not found:  # interval(), glob(), an empty range
        raise ConfigError("gives no values; an axis is a list such as 20,32 or range(1,5)")
    return found


def _one(override: "Override") -> object:
    if override.is_sweep_override():
        raise ConfigError("takes one value (a list is written [1,2]); only config keys can be axes")
    return override.value()


def _launcher(settings: Mapping[str, object], path: str, value: object) -> dict[str, object]:
    """The settings after a change at the dotted path. An empty path chooses the launcher."""
    key, _, below = (path or "name").partition(".")
    check_setting(key, value)
    if not below:
        return {**settings, key: value}
    if key != "additional_parameters":
        raise ConfigError(f"launcher.{key} is one value and has no '{below}'", key=key)
    held = settings.get(key)
    return {**settings, key: {**(held if isinstance(held, Mapping) else {}), below: value}}
