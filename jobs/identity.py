"""Run identity: the SHA-256 of everything that decides a run's result, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping

from imagination.schema import Scalar

SCHEMA_VERSION = 1
"""Part of every run id. Raise it when the meaning of a config key changes."""


def canonical_json(config: Mapping[str, Scalar]) -> str:
    """The one JSON text of a fully resolved config: sorted keys, no spaces, shortest float form.

    Raises:
        ValueError: a value is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(config: Mapping[str, Scalar]) -> str:
    """The run id, 64 hexadecimal characters, of a fully resolved config.

    Execution settings (launcher, device, pack size, store) are no part of a config and so not of the id.
    """
    text = f'{{"config":{canonical_json(config)},"schema":{SCHEMA_VERSION}}}'
    return hashlib.sha256(text.encode()).hexdigest()
