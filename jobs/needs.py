"""Finds what a run builds on when it starts: the results of other runs, or files. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagination import registry
from imagination.runner import Needed
from imagination.schema import ASSET, ConfigError, fitting, needs
from results_db.contract import State, Store
from results_db.files import Files
from results_db.spool.results import Result, result
from results_db.text import short


class UnmetError(Exception):
    """Something that a run needs is not there, or may not be built on: one line."""


def find(configs: Sequence[Any], store: Store) -> list[dict[str, Needed] | UnmetError]:
    """What runs with these configs build on, by config key; each needed run or file is looked up and checked once.

    For a run that cannot be built, the error: a needed run has no result, missed its gate or does not fit the config,
    or a needed file is missing or damaged.

    Raises:
        StoreError: the store cannot be reached.
    """
    known: dict[tuple[str, str], Needed | UnmetError] = {}
    found: list[dict[str, Needed] | UnmetError] = []
    for config in configs:
        kind: type = type(config)
        wanted = {key: str(value) for key in needs(kind) if (value := getattr(config, key))}
        for one in wanted.items():
            if one not in known:
                known[one] = _met(*one, fits=fitting(kind, one[0]), store=store)
        met = {key: known[key, value] for key, value in wanted.items()}
        unmet = next((one for one in met.values() if isinstance(one, UnmetError)), None)
        found.append(unmet or _fitting(config, {k: one for k, one in met.items() if isinstance(one, Needed)}))
    return found


def _fitting(config: Any, met: dict[str, Needed]) -> dict[str, Needed] | UnmetError:
    """What a run with this config builds on, if the needed runs fit it. A launch checks the files once."""
    try:
        config.check_needs({key: one.config for key, one in met.items() if one.config is not None})
    except ConfigError as error:
        return UnmetError(str(error))
    return met


def _met(key: str, value: str, *, fits: Sequence[str], store: Store) -> Needed | UnmetError:
    try:
        return _find(key, value, fits=fits, store=store)
    except UnmetError as error:
        return error


def _find(key: str, value: str, *, fits: Sequence[str], store: Store) -> Needed:
    files = Files(store.folder)
    if value.startswith(ASSET):
        path = files.asset(value.removeprefix(ASSET))
        if not files.holds(path, value.removeprefix(ASSET)):
            raise UnmetError(f"its need {key}, the file {path}, is missing or damaged; launch again")
        return Needed(None, {}, {"file": path})
    found = result(store, value)
    if not isinstance(found, Result):
        state = "not in the store" if found is None else str(State(found))
        raise UnmetError(f"its need {key}, run {short(value)}, is {state}")
    if found.config["experiment"] not in fits:
        others = f"{found.config['experiment']}; it takes a run of {' or '.join(fits)}"
        raise UnmetError(f"its need {key}, run {short(value)}, is of {others}")
    if found.missed is not None:
        raise UnmetError(f"its need {key}, run {short(value)}, {found.missed}")
    try:
        built = registry.rebuilt(found.config)
    except ConfigError as error:
        raise UnmetError(f"its need {key}, run {short(value)}, cannot be read here: {error}") from None
    left: dict[str, Path] = {}
    weights = files.weights(found.attempt)
    try:
        files.open(weights).close()
        left["weights"] = weights
    except FileNotFoundError:
        pass  # its experiment has none
    except OSError as error:
        raise UnmetError(f"its need {key}, run {short(value)}, left {weights}: {error}") from None
    for name, artifact in found.artifacts.items():
        path = files.artifact(found.attempt, name, artifact.sha256)
        if not files.holds(path, artifact.sha256):
            raise UnmetError(f"its need {key}, run {short(value)}, left {path}, which is missing or damaged")
        left[name.removesuffix(".safetensors")] = path
    return Needed(built, found.metrics, left)
