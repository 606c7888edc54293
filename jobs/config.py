"""Makes a checked config from an experiment, a preset and layers of values. Imports neither torch nor Hydra.

`jobs.hydra_config` declares the same configs to Hydra.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from imagination import registry
from imagination.schema import ConfigError, Scalar, build, keys


@dataclass
class RunSettings:
    """How a run is executed. Not part of its id.

    Attributes:
        db: the store, as a URL or a path that ends in .db; None for IMAGINE_DB or the default.
        device: `auto`, or a torch device such as `cpu` or `cuda:1`.
        threads: threads of the trainer on a CPU; 0 leaves the choice to torch.
    """

    db: str | None = None
    device: str = "auto"
    threads: int = 1


def resolve(experiment: str, preset: str, *layers: Mapping[str, object]) -> dict[str, Scalar]:
    """The complete, checked config of an experiment.

    The preset overrides the experiment's defaults, and each layer (config keys and values) everything before it. A
    layer may name another preset with the key `preset`; its values, too, are overridden by all layers.

    Raises:
        ConfigError: unknown experiment, preset or key, a wrong value, or values that contradict each other.
    """
    config_type = registry.config_type(experiment)
    config: object = build(config_type, stack(experiment, preset, *layers))
    return {key: getattr(config, key) for key in keys(config_type)}


def complete(experiment: str, preset: str, *layers: Mapping[str, object]) -> dict[str, Any]:
    """The values of all keys, not yet checked; a key that nothing sets has the experiment's default.

    Raises:
        ConfigError: see `stack`.
    """
    defaults = {key.name: key.default for key in fields(registry.config_type(experiment))}
    return {**defaults, **stack(experiment, preset, *layers)}


def stack(experiment: str, preset: str, *layers: Mapping[str, object]) -> dict[str, object]:
    """The values of the preset and the layers, not yet checked.

    Raises:
        ConfigError: unknown experiment or preset, or a layer names another experiment.
    """
    values: dict[str, object] = {}
    for layer in layers:
        values.update(layer)
    if values.get("experiment", experiment) != experiment:
        raise ConfigError(
            f"experiment: {values['experiment']!r} is not {experiment}, whose values these are; leave it out",
            key="experiment",
        )
    named = values.pop("preset", preset)
    return {**registry.preset(experiment, str(named)), **values}
