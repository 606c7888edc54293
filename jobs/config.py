"""From an experiment, a preset and layers of values to one checked config. Free of torch and of Hydra.

`jobs.hydra_config` tells Hydra the same; a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from imagination import registry
from imagination.schema import ConfigError, Scalar, build

DEFAULT_PRESET = "fast"


@dataclass
class RunSettings:
    """How a run is executed. Never part of its identity.

    Attributes:
        db: the store: a URL, or a path that ends in .db; None: IMAGINE_DB, or the default.
        device: `auto`, or a torch device such as `cpu` or `cuda:1`.
        threads: threads of the trainer on a CPU; 0 leaves the choice to torch.
    """

    db: str | None = None
    device: str = "auto"
    threads: int = 0


def resolve(experiment: str, preset: str, *layers: Mapping[str, object]) -> dict[str, Scalar]:
    """The complete config: the experiment's defaults < its preset < the layers, in their order.

    A layer may hold `preset`: the last one that does names the preset, whose values stay below all layers.

    Args:
        experiment: a name of the registry.
        preset: one of the experiment's presets.
        layers: config keys and their values, later layers over earlier ones.

    Returns:
        Every config key of the experiment, in field order, coerced and checked.

    Raises:
        ConfigError: unknown experiment, preset or key, a wrong value, or values that contradict each other.
    """
    config_type = registry.config_type(experiment)
    config: object = build(config_type, stack(experiment, preset, *layers))
    return {key.name: getattr(config, key.name) for key in fields(config_type)}


def stack(experiment: str, preset: str, *layers: Mapping[str, object]) -> dict[str, object]:
    """What preset and layers say together, not yet checked; keys that none of them names are missing.

    Raises:
        ConfigError: unknown experiment or preset, or a layer names another experiment.
    """
    values: dict[str, object] = {}
    for layer in layers:
        values.update(layer)
    if values.get("experiment", experiment) != experiment:
        raise ConfigError(
            f"experiment: {values['experiment']!r} stands among the values of {experiment}", key="experiment"
        )
    named = values.pop("preset", preset)
    return {**registry.preset(experiment, str(named)), **values}
