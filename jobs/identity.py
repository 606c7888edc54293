"""Run ids: the SHA-256 of everything that decides a run's result, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping

from imagination.schema import Scalar

SCHEMA_VERSION = 1
"""Part of every run id. Raise it when a config key changes its meaning."""


def canonical_json(config: Mapping[str, Scalar]) -> str:
    """The canonical JSON text of a complete config: sorted keys, no spaces, shortest form of floats.

    Raises:
        ValueError: a value is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(config: Mapping[str, Scalar]) -> str:
    """The run id of a complete config, 64 hexadecimal characters.

    Execution settings (launcher, device, pack size, store) are not part of a config, so the id does not depend on them.
    """
    text = f'{{"config":{canonical_json(config)},"schema":{SCHEMA_VERSION}}}'
    return hashlib.sha256(text.encode()).hexdigest()
