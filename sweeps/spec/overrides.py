"""`KEY=VALUE` after a spec on the command line, in Hydra's grammar."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from imagination import registry
from imagination.schema import ConfigError, Scalar, keys, nearest, plain
from jobs.config import stack
from slurm.submit.launcher_keys import LAUNCHER_KEYS
from slurm.submit.launchers import check_setting
from sweeps.spec.document import SpecError
from sweeps.spec.model import Part, Row, Spec
from sweeps.spec.sections import check_distinct, config_value, runs_value, seeds_value

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

T = TypeVar("T")

_MOST = 100_000
"""Values of one axis; a slip such as range(1,1000000000) shall not fill the memory."""


def apply_overrides(spec: Spec, overrides: Sequence[str]) -> Spec:
    """The spec as the command line changes it.

    `channels=32` sets a key, `channels=20,32` adds an axis; `preset=`, `runs=` and `seeds=` replace what the
    spec says; `launcher=slurm` chooses the launcher and `launcher.KEY=VALUE` sets one of its keys. An experiment's
    name before a key (`life_count.preset=paper`) changes the cells of that experiment alone.

    Raises:
        SpecError: wrong syntax, unknown key, wrong value, a key twice, or a key that the spec varies.
    """
    seen: set[tuple[str, str]] = set()
    for text, override in zip(overrides, _parse(overrides), strict=True):
        scope, key = _scoped(str(override.key_or_group))
        try:
            _check_form(override, scope, key, seen)
            spec = _apply_within(spec, scope, key, override) if scope else _apply(spec, key, override)
        except ConfigError as error:
            raise SpecError(f"override '{text}': {error}") from None
        seen.add((scope, key))
    return spec


def _scoped(path: str) -> tuple[str, str]:
    """The experiment that a key is meant for, empty for all of them, and the key."""
    first, _, rest = path.partition(".")
    return (first, rest) if rest and first in registry.EXPERIMENTS else ("", path)


def _parse(overrides: Sequence[str]) -> "list[Override]":
    if not overrides:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow to import: only if needed
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise SpecError(f"override '{text}' is not KEY=VALUE in Hydra's grammar: {reason}") from None
    return parsed


def _check_form(override: "Override", scope: str, key: str, seen: set[tuple[str, str]]) -> None:
    if override.is_delete() or override.is_add() or override.is_force_add() or override.package is not None:
        raise ConfigError("write KEY=VALUE; '+', '~' and '@' have no use here, for every key exists")
    before = {name for other, name in seen if not scope or other in ("", scope)}
    if key in before:
        raise ConfigError(f"{key} is given twice")
    if {"runs", "seeds"} <= before | {key}:
        raise ConfigError("give `runs` or `seeds`, not both; `seeds.start=K` keeps the runs")


def _apply_within(spec: Spec, experiment: str, key: str, override: "Override") -> Spec:
    """The spec with its cells of one experiment changed."""
    own = [part for part in spec.parts if part.experiment == experiment]
    if not own:
        raise ConfigError(f"{spec.name} has no cells of {experiment}; leave '{experiment}.' out")
    if key.partition(".")[0] == "launcher":
        raise ConfigError(f"one launcher takes all runs; leave '{experiment}.' out")
    changed = iter(_apply(replace(spec, parts=own), key, override).parts)
    return replace(
        spec, parts=[next(changed) if part.experiment == experiment else part for part in spec.parts]
    )


def _apply(spec: Spec, key: str, override: "Override") -> Spec:
    first, _, rest = key.partition(".")
    if first == "launcher":
        return replace(spec, launcher=_launcher(spec.launcher, rest, _one(override)))
    if key == "runs":
        runs = runs_value(_one(override))
        return replace(spec, parts=[_with_runs(part, runs) for part in spec.parts])
    if first == "seeds":
        value = {rest: _one(override)} if rest else _one(override)
        return replace(spec, parts=[_with_seeds(part, value) for part in spec.parts])
    if key == "experiment":
        raise ConfigError("a spec names its own experiment")
    _check_not_varied(spec, key)
    values = _values(override)
    _check_for_all(spec, key, values, override)
    said = f"override '{override.input_line}'"
    return replace(spec, parts=[_with_values(part, key, values, said=said) for part in spec.parts])


def _check_for_all(spec: Spec, key: str, values: Sequence[object], override: "Override") -> None:
    """Raises ConfigError where an experiment of the spec does not take the values; names one that does."""
    refused: ConfigError | None = None
    takes: list[str] = []
    for experiment in dict.fromkeys(part.experiment for part in spec.parts):
        try:
            for value in values:
                config_value(experiment, key, value)
            takes.append(experiment)
        except ConfigError as error:
            refused = refused or ConfigError(f"{experiment}: {error}", key=key)
    if refused and takes:
        raise ConfigError(f"{refused}; {takes[0]}.{override.input_line} is for {takes[0]} alone", key=key)


def _values(override: "Override") -> list[object]:
    """The values of a choice or range sweep; one of anything else."""
    if not override.is_sweep_override():
        return [override.value()]
    from hydra.errors import HydraException

    try:
        values: list[object] = list(
            islice(override.sweep_iterator(transformer=lambda value: value), _MOST + 1)
        )
    except (HydraException, ValueError):  # interval(), glob(), a range with step 0
        values = []
    if len(values) > _MOST:
        raise ConfigError(f"gives more than {_MOST:,} values")
    if not values:
        raise ConfigError("gives no values; an axis is a list such as 20,32 or range(1,5)")
    return values


def _one(override: "Override") -> object:
    values = _values(override)
    if override.is_sweep_override():
        raise ConfigError("takes one value (a list is written [1,2]); only config keys can be axes")
    return values[0]


def _launcher(settings: Mapping[str, object], path: str, value: object) -> dict[str, object]:
    """The settings with the one at the dotted path changed; an empty path chooses the launcher."""
    key, _, below = (path or "name").partition(".")
    if key not in LAUNCHER_KEYS:
        hint = nearest(key, LAUNCHER_KEYS)
        raise ConfigError(f"unknown launcher key '{key}'{hint}; valid: {', '.join(LAUNCHER_KEYS)}", key=key)
    if not below:
        return {**settings, key: check_setting(key, value)}
    if key != "additional_parameters":
        raise ConfigError(f"launcher.{key} is one value and has no '{below}'", key=key)
    held = settings.get(key)
    return {**settings, key: {**(held if isinstance(held, Mapping) else {}), below: value}}


def _with_runs(part: Part, runs: int) -> Part:
    if part.seeds.fixed is not None:
        raise ConfigError(f"{part.file} says which seeds it wants; override `seeds`", key="runs")
    return replace(part, runs=runs, rows=[replace(row, runs=None) for row in part.rows])


def _with_seeds(part: Part, value: object) -> Part:
    seeds = seeds_value(value)
    if seeds.fixed is None and part.seeds.fixed is not None:
        raise ConfigError(f"{part.file} says which seeds it wants; give a count, list or range", key="seeds")
    return replace(part, seeds=seeds)


def _check_not_varied(spec: Spec, key: str) -> None:
    for part in spec.parts:
        for section, named in (("grid", part.grid), ("zip", part.zipped), ("sample", part.sample)):
            if key in named:
                raise ConfigError(f"{part.file} varies {key} (in {section}); change the spec", key=key)
    if not any(_mentions(part, key) for part in spec.parts):
        return
    parts = [part for part in spec.parts if key in keys(registry.config_type(part.experiment))]
    said = dict.fromkeys(_effective(part, row, key) for part in parts for row in part.rows)
    if len(said) > 1:
        raise ConfigError(
            f"{spec.name} varies {key} ({', '.join(map(plain, said))}); change the spec", key=key
        )


def _mentions(part: Part, key: str) -> bool:
    return key == "preset" or key in part.base or any(key in row.values for row in part.rows)


def _effective(part: Part, row: Row, key: str) -> object:
    default = getattr(registry.config_type(part.experiment), key)
    return stack(part.experiment, part.preset, part.base, row.values).get(key, default)


def _with_values(part: Part, key: str, values: Sequence[object], *, said: str) -> Part:
    """One value replaces the spec's own, wherever it stands; several become an axis in its stead."""
    checked: list[Scalar] = [config_value(part.experiment, key, value) for value in values]
    check_distinct(key, checked)
    rows = [replace(row, said=_without(row.said, key)) for row in part.rows]
    part = replace(part, overridden=part.overridden | {key}, said={**part.said, key: said})
    if len(checked) == 1:
        rows = [
            replace(row, values={**row.values, key: checked[0]}) if key in row.values else row for row in rows
        ]
        return replace(part, base={**part.base, key: checked[0]}, rows=rows)
    rows = [replace(row, values=_without(row.values, key)) for row in rows]
    return replace(part, base=_without(part.base, key), rows=rows, grid={**part.grid, key: checked})


def _without(values: Mapping[str, T], key: str) -> dict[str, T]:
    return {name: value for name, value in values.items() if name != key}
