"""The experiments, by name. Entries are strings, so looking one up does not import torch.

A new environment is a folder beside `life/` and an entry here.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from imagination.schema import ConfigError, Scalar, nearest


@dataclass(frozen=True)
class Entry:
    """The `module:attribute` of an experiment's config, its presets, and the class that the trainer runs."""

    config: str
    presets: str
    experiment: str


EXPERIMENTS = {
    "life_state": Entry(
        config="imagination.life.config:LifeStateConfig",
        presets="imagination.life.config:LIFE_STATE_PRESETS",
        experiment="imagination.life.state:LifeState",
    ),
    "life_count": Entry(
        config="imagination.life.config:LifeCountConfig",
        presets="imagination.life.config:LIFE_COUNT_PRESETS",
        experiment="imagination.life.count:LifeCount",
    ),
}


def load(path: str) -> Any:
    """The object that `module:attribute` names."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def entry(experiment: str) -> Entry:
    """The registry entry of an experiment.

    Raises:
        ConfigError: there is no such experiment.
    """
    if experiment not in EXPERIMENTS:
        hint = nearest(experiment, EXPERIMENTS)
        raise ConfigError(
            f"unknown experiment '{experiment}'{hint}; valid experiments: {', '.join(EXPERIMENTS)}",
            key="experiment",
        )
    return EXPERIMENTS[experiment]


def config_type(experiment: str) -> type:
    """The config dataclass of an experiment: the schema of its specs. Torch-free."""
    loaded: type = load(entry(experiment).config)
    return loaded


def preset(experiment: str, name: str) -> dict[str, Scalar]:
    """The named values of an experiment's preset.

    Raises:
        ConfigError: there is no such experiment or preset.
    """
    presets: dict[str, dict[str, Scalar]] = load(entry(experiment).presets)
    if name not in presets:
        hint = nearest(name, presets)
        raise ConfigError(
            f"unknown preset '{name}' of {experiment}{hint}; valid presets: {', '.join(presets)}",
            key="preset",
        )
    return {"experiment": experiment, "preset": name, **presets[name]}
