"""Declares and checks configs: typed dataclass fields with bounds, and one-line errors.

Torch-free. An experiment's config dataclass is the schema of its specs, its command line and its store columns.
"""

import dataclasses
import difflib
import functools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Scalar = bool | int | float | str
"""The types of a config value. Every value has one canonical JSON form."""

C = TypeVar("C")


class ConfigError(Exception):
    """A wrong key or value. The message is one line and says what is allowed.

    Attributes:
        key: the wrong config key, so that a caller can add the file and line.
        keys: `key` and the keys that it contradicts.
    """

    def __init__(self, message: str, *, key: str | None = None, against: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key = key
        self.keys = (*(() if key is None else (key,)), *against)


def require(holds: bool, message: str, *, keys: tuple[str, ...]) -> None:
    """Raises a ConfigError with this message unless `holds`. `keys`: the wrong key, then those that it contradicts."""
    if not holds:
        raise ConfigError(message, key=keys[0], against=keys[1:])


def setting(
    default: Scalar,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    packs: bool = False,
    pads: int | None = None,
    before: Scalar | None = None,
) -> Any:
    """A dataclass field with its allowed values.

    Args:
        default: the default value; its type is the field's type.
        choices: the allowed words of a string field.
        low: smallest allowed number.
        above: number that the value must exceed.
        high: largest allowed number.
        packs: whether runs that differ in this key can train in one pack; it must not change a tensor's shape or dtype.
        pads: for a width: runs that differ in this key can train in one padded pack if they have at least this value.
            The pack's tensors have the shapes of the largest, see `imagination.training.experiment.Experiment`.
        before: for a key that is younger than stored runs: the value that these runs had without it. It stays for
            ever, also when the default changes, because the ids of all runs with this value leave the key out.
    """
    rules = {
        "choices": choices,
        "low": low,
        "above": above,
        "high": high,
        "packs": packs or None,
        "pads": pads,
        "before": before,
    }
    return dataclasses.field(default=default, metadata={k: v for k, v in rules.items() if v is not None})


ASSET = "sha256:"
"""What the value of a need begins with if it is a file, before the digest of its content."""


def need(*experiments: str, asset: bool = False, optional: bool = False, packs: bool = False) -> Any:
    """A dataclass field that names a run, or a file, that the run builds on.

    Its value is the id of the needed run, `sha256:` and the digest of a file, or an empty string for none. A spec gives
    it under `needs:`, see docs/spec.md.

    Args:
        experiments: the experiments whose runs may be given.
        asset: whether a file may be given.
        optional: whether it may be left out. The ids of runs without it leave the key out.
        packs: whether runs that differ in it can train in one pack, see `setting`.
    """
    rules: dict[str, Any] = {"need": experiments, "asset": asset, "optional": optional, "packs": packs}
    if optional:
        rules["before"] = ""
    return dataclasses.field(default="", metadata=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The config keys that every experiment has. Every field of a config is part of its runs' ids.

    Attributes:
        experiment: the experiment's name.
        preset: the preset whose values the run's config was made from.
        seed: seed of the run's own random streams.
    """

    experiment: str = setting("")
    preset: str = setting("", packs=True)
    seed: int = setting(0, low=0, high=2**63 - 1, packs=True)

    @property
    def total_steps(self) -> int:
        """The largest number of steps: the total of a progress bar; 0 if it is not known."""
        return 0

    @property
    def later_steps(self) -> int:
        """Those of them that the metric `steps` does not count, because they follow in a later stage."""
        return 0

    def check(self) -> None:
        """Raises ConfigError if values that are each allowed contradict each other."""

    def check_needs(self, needed: Mapping[str, Any]) -> None:
        """Raises ConfigError if the values contradict what the run builds on.

        Args:
            needed: by config key, the config of a needed run, or the path of a file.
        """


def nearest(word: str, valid: Iterable[str]) -> str:
    """The hint `" (did you mean 'x'?)"` if a valid word is close to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


MOST_VALUES = 1_000_000
"""Most values of a YAML file, with every alias written out. A few lines of nested aliases can stand for billions."""


def check_aliases(value: object) -> None:
    """Check that a YAML value is not too large once its aliases are written out.

    Raises:
        ConfigError: it is, or it contains itself.
    """
    sizes: dict[int, float] = {}

    def size(part: object) -> float:
        if isinstance(part, str) or not isinstance(part, Mapping | Sequence):
            return 1
        if id(part) not in sizes:
            sizes[id(part)] = math.inf  # the size of a value that contains itself
            sizes[id(part)] = 1 + sum(map(size, part.values() if isinstance(part, Mapping) else part))
        return sizes[id(part)]

    total = size(value)
    if total == math.inf:
        raise ConfigError("an alias (*NAME) stands inside what it names, which is a circle; remove it")
    if total > MOST_VALUES:
        raise ConfigError(
            f"the aliases (*NAME) stand for more than {MOST_VALUES:,} values, the most allowed; write fewer"
        )


def plain(value: object) -> str:
    """A value as YAML writes it, shortened to 60 characters on one line."""
    text = re.sub(r"\s+", " ", str(_bare(value)))
    return text if len(text) <= 60 else text[:57] + "..."


def _bare(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(plain(item) for item in value) + "]"
    if isinstance(value, int) and value.bit_length() > 10_000:
        return hex(value)  # Python refuses to convert a number this long to decimal
    return value


def keys(config_type: type) -> tuple[str, ...]:
    """The config keys of an experiment, the seed last."""
    names = [field.name for field in dataclasses.fields(config_type)]
    return tuple(sorted(names, key="seed".__eq__))


@functools.cache
def needs(config_type: type) -> tuple[str, ...]:
    """The config keys that name what a run needs."""
    return tuple(f.name for f in dataclasses.fields(config_type) if "need" in f.metadata)


def fitting(config_type: type, key: str) -> tuple[str, ...]:
    """The experiments whose runs a need may name."""
    return tuple(_fields(config_type)[key].metadata["need"])


def pack_keys(config_type: type) -> tuple[str, ...]:
    """The config keys that must be equal for runs to train in one pack."""
    return tuple(f.name for f in dataclasses.fields(config_type) if not f.metadata.get("packs"))


def pack_values(config_type: type, values: Mapping[str, Scalar], *, padded: bool) -> tuple[Scalar, ...]:
    """What must be equal for runs to train in one pack: the values of the `pack_keys`, in their order.

    With `padded`, all widths that may differ there have one value.
    """
    fields = _fields(config_type) if padded else {}
    least = {key: field.metadata["pads"] for key, field in fields.items() if "pads" in field.metadata}
    return tuple(
        min(int(values[key]), least[key]) if key in least else values[key] for key in pack_keys(config_type)
    )


@functools.cache
def added(config_type: type) -> Mapping[str, Scalar]:
    """The keys with a `before`, and that value."""
    return {
        f.name: coerce(config_type, f.name, f.metadata["before"])
        for f in dataclasses.fields(config_type)
        if "before" in f.metadata
    }


def coerce(config_type: type, key: str, value: object) -> Scalar:
    """`value` as the type of the config key `key`, checked against its bounds.

    An integer becomes a float (`lr: 1`) and a whole float an integer (`max_steps: 1e4`). Nothing else is converted, so
    `rnn: "no"` and `gol: true` are errors.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of bounds.
    """
    fields = _fields(config_type)
    if key not in fields:
        hint = nearest(key, fields)
        raise ConfigError(f"unknown key {plain(key)}{hint}; valid keys: {', '.join(fields)}", key=key)
    field = fields[key]
    kind = type(field.default)
    converted = _convert(kind, value)
    if converted is None:
        raise ConfigError(f"{key}: {plain(value)} is not {_KINDS[kind]}", key=key)
    _check_bounds(key, converted, field.metadata)
    if "need" in field.metadata:
        _check_need(key, str(converted), field.metadata)
    return converted


_NEEDED = re.compile("(?:sha256:)?[0-9a-f]{64}|")


def _check_need(key: str, value: str, rules: Mapping[str, Any]) -> None:
    if not _NEEDED.fullmatch(value):
        raise ConfigError(
            f"{key}: {plain(value)} is neither a whole run id nor sha256: and a digest", key=key
        )
    if value.startswith(ASSET) and not rules["asset"]:
        listed = " or ".join(rules["need"])
        raise ConfigError(f"{key}: {plain(value)} is a file; give the id of a run of {listed}", key=key)
    if value and not value.startswith(ASSET) and not rules["need"]:
        raise ConfigError(f"{key}: {plain(value)} is a run; give sha256: and the digest of a file", key=key)


@functools.cache
def _fields(config_type: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(config_type)}


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a word",
}


def _convert(kind: type, value: object) -> Scalar | None:
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if kind is str:
        return str(value) if isinstance(value, str) else None
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:  # comparing nan is False
        return None
    if kind is float:
        return float(value) + 0.0  # -0.0 becomes 0.0, so both have the same run id
    return int(value) if value == int(value) else None


def _check_bounds(key: str, value: Scalar, rules: Mapping[str, Any]) -> None:
    if "choices" in rules and value not in rules["choices"]:
        allowed = ", ".join(rules["choices"])
        hint = nearest(str(value), rules["choices"])
        raise ConfigError(f"{key}: {plain(value)} is not one of {allowed}{hint}", key=key)
    if "low" in rules and value < rules["low"]:
        raise ConfigError(f"{key}: {plain(value)} is below {rules['low']}, the smallest allowed", key=key)
    if "above" in rules and value <= rules["above"]:
        raise ConfigError(f"{key}: {plain(value)} must be above {rules['above']}", key=key)
    if "high" in rules and value > rules["high"]:
        raise ConfigError(f"{key}: {plain(value)} is above {rules['high']}, the largest allowed", key=key)
    if type(value) is int and abs(value) >= 2**63:
        raise ConfigError(f"{key}: {plain(value)} has more than 64 bits", key=key)


def rebuild(config_type: type[C], stored: Mapping[str, object]) -> C:
    """The config of a stored run. A key that is younger than the run has the value that the run had without it.

    Raises:
        ConfigError: see `build`.
    """
    kind: type = config_type
    return build(config_type, {**added(kind), **stored})


def build(config_type: type[C], values: Mapping[str, object]) -> C:
    """The config with these values and the defaults for the rest, checked.

    Raises:
        ConfigError: see `coerce`; or `check` of the dataclass finds values that contradict each other.
    """
    kind: type = config_type
    config = config_type(**{key: coerce(kind, key, value) for key, value in values.items()})
    for key in needs(kind):
        if not getattr(config, key) and not _fields(kind)[key].metadata["optional"]:
            raise ConfigError(f"{key}: missing; a spec names it under `needs:`", key=key)
    check = getattr(config, "check", None)
    if check is not None:
        check()
    return config
