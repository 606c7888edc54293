"""Run ids: the SHA-256 of everything that decides a run's result, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping

from imagination import registry
from imagination.schema import ASSET, Scalar, added, needs
from results_db.contract import PlannedRun

SCHEMA_VERSION = 1
"""Part of every run id. Raise it when the same config begins to mean another training, and no new key says so."""


def canonical_json(config: Mapping[str, Scalar]) -> str:
    """The canonical JSON text of a complete config: sorted keys, no spaces, shortest form of floats.

    Raises:
        ValueError: a value is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def planned(config: Mapping[str, Scalar]) -> PlannedRun:
    """The run of a complete config, with the ids of the runs that it builds on."""
    return PlannedRun(run_id(config), config, needed(config))


def needed(config: Mapping[str, Scalar]) -> dict[str, str]:
    """Config key to the id of the run that a run with this config builds on."""
    return {key: value for key, value in _needs(config).items() if not value.startswith(ASSET)}


def assets(config: Mapping[str, Scalar]) -> list[str]:
    """The values of a config that name files which its run builds on."""
    return [value for value in _needs(config).values() if value.startswith(ASSET)]


def _needs(config: Mapping[str, Scalar]) -> dict[str, str]:
    keys = needs(registry.config_type(str(config["experiment"])))
    return {key: str(config[key]) for key in keys if config[key]}


def run_id(config: Mapping[str, Scalar]) -> str:
    """The run id of a complete config, 64 hexadecimal characters.

    A key that was added after runs had been stored is left out at the value that those runs had (`schema.setting`), so
    their ids stay as they are. Execution settings (launcher, device, pack size, store) are not part of a config.
    """
    before = added(registry.config_type(str(config["experiment"])))
    known = {key: value for key, value in config.items() if key not in before or value != before[key]}
    text = f'{{"config":{canonical_json(known)},"schema":{SCHEMA_VERSION}}}'
    return hashlib.sha256(text.encode()).hexdigest()
